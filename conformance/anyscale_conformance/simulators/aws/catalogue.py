"""What the region sells: instance types, where they are offered, at what spot price, and how much an account may have."""

from typing import TYPE_CHECKING, Any

from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES

from anyscale_conformance.simulators.aws.accounts import Account
from anyscale_conformance.simulators.aws.paging import page_of
from anyscale_conformance.simulators.aws.wire import Answer, ec2_answer, fields, items, json_answer

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import Exchange

TYPES = INSTANCE_TYPES
STANDARD, GRAPHICS, STANDARD_SPOT = "L-1216C47A", "L-DB2E81BA", "L-34B43A08"
NAMES = {
    STANDARD: "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
    GRAPHICS: "Running On-Demand G and VT instances",
    STANDARD_SPOT: "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",
}
OFFERINGS_PAGE = 1000


def architectures(type: str) -> list[str]:
    """Return the architectures that a type runs."""
    found: list[str] = TYPES[type]["ProcessorInfo"]["SupportedArchitectures"]
    return found


def vcpus(type: str) -> int:
    """Return the vCPUs of a type."""
    return int(TYPES[type]["VCpuInfo"]["DefaultVCpus"])


def quota_of(type: str, market: str) -> str:
    """Return the code of the quota that a type counts against."""
    if market == "spot":
        return STANDARD_SPOT
    return GRAPHICS if type[0] == "g" else STANDARD


def used(account: Account, code: str) -> int:
    """Return the vCPUs that count against a quota now."""
    now = account.clock.now()
    return sum(
        vcpus(instance.instance_type)
        for reservation in account.ec2.reservations.values()
        for instance in reservation.instances
        if (life := account.lives.get(instance.id)) is not None
        and life.state(now, account.timing)[1] in ("pending", "running")
        and quota_of(instance.instance_type, life.market) == code
    )


def describe_offerings(exchange: "Exchange") -> Answer:
    """Answer DescribeInstanceTypeOfferings for zones."""
    account, params = exchange.account, exchange.params
    filters = params.filters()
    types, zones = filters.get("instance-type"), filters.get("location")
    found = [
        offering
        for offering in INSTANCE_TYPE_OFFERINGS[params.one("LocationType", "region")][account.region]
        if (types is None or offering["InstanceType"] in types)
        and (zones is None or offering["Location"] in zones)
        and not account.withdrawn & {(offering["InstanceType"], offering["Location"]), (offering["InstanceType"], "")}
    ]
    page, token = page_of(
        found, size=OFFERINGS_PAGE, token=params.one("NextToken"), key=lambda o: f"{o['InstanceType']} {o['Location']}"
    )
    shown = items(
        "instanceTypeOfferingSet",
        (fields(instanceType=o["InstanceType"], locationType=o["LocationType"], location=o["Location"]) for o in page),
    )
    return ec2_answer("DescribeInstanceTypeOfferings", shown, fields(nextToken=token))


def describe_spot_prices(exchange: "Exchange") -> Answer:
    """Answer DescribeSpotPriceHistory with one price for each type and zone: a cent for each vCPU."""
    account, params = exchange.account, exchange.params
    wanted = params.many("InstanceType")
    pairs = [
        (offering["InstanceType"], offering["Location"])
        for offering in INSTANCE_TYPE_OFFERINGS["availability-zone"][account.region]
        if not wanted or offering["InstanceType"] in wanted
    ]
    page, token = page_of(pairs, size=OFFERINGS_PAGE, token=params.one("NextToken"), key=" ".join)
    shown = items(
        "spotPriceHistorySet",
        (
            fields(instanceType=type, productDescription="Linux/UNIX", spotPrice=f"{0.01 * vcpus(type):.6f}",
                 timestamp=account.clock.now(), availabilityZone=zone)
            for type, zone in page
        ),
    )  # fmt: skip
    return ec2_answer("DescribeSpotPriceHistory", shown, fields(nextToken=token))


def list_quotas(exchange: "Exchange") -> Answer:
    """Answer ListServiceQuotas of EC2."""
    quotas: list[dict[str, Any]] = [
        {
            "ServiceCode": "ec2",
            "QuotaCode": code,
            "QuotaName": NAMES[code],
            "Value": value,
            "Unit": "None",
            "Adjustable": True,
        }
        for code, value in exchange.account.quotas.items()
    ]
    return json_answer({"Quotas": quotas})


HANDLERS = {
    ("ec2", "DescribeInstanceTypeOfferings"): describe_offerings,
    ("ec2", "DescribeSpotPriceHistory"): describe_spot_prices,
    ("servicequotas", "ListServiceQuotas"): list_quotas,
}
