"""EC2's instances: launched by client token, as many as there are, through states that take time, and shown page by page.

Sources: EC2 API Reference (RunInstances, DescribeInstances, TerminateInstances, DescribeSpotInstanceRequests), and EC2 User
Guide, "Ensuring idempotency". What moto makes of a launch (addresses, interfaces, volumes) is kept.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from anyscale_conformance.simulators.aws import catalogue
from anyscale_conformance.simulators.aws.accounts import Account, Launch, Life
from anyscale_conformance.simulators.aws.signing import Refusal
from anyscale_conformance.simulators.aws.wire import Answer, Parameters, ec2_answer, fields, items, node

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import Exchange

USER_DATA_MAX = 16384
TOKEN_MAX = 64
INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")
FILTERS = frozenset({
    "instance-id", "reservation-id", "client-token", "instance-state-name", "instance-type", "vpc-id", "subnet-id",
    "private-ip-address", "availability-zone", "instance-lifecycle", "image-id", "tag-key", "instance.group-id",
    "network-interface.addresses.private-ip-address",
})  # fmt: skip
"""What DescribeInstances can be narrowed by here, beside tags."""
KINDS = ("instance", "volume", "network-interface", "spot-instances-request")


def run_instances(exchange: "Exchange") -> Answer:
    """Answer RunInstances."""
    account, params = exchange.account, exchange.params
    token = params.one("ClientToken")
    if len(token) > TOKEN_MAX:
        raise Refusal("InvalidParameterValue", "ClientToken may have 64 ASCII characters at most")
    least, most = int(params.one("MinCount")), int(params.one("MaxCount"))
    if not 1 <= least <= most:
        raise Refusal("InvalidParameterCombination", "MinCount must be at least 1 and no greater than MaxCount")
    if params.one("DryRun") == "true":
        raise Refusal("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", status=412)
    launch = account.launches.get(token) if token else None
    if launch is not None:
        return _repeated(account, launch, params)
    zone = _check(account, params)
    count = _room(account, params, zone, most)
    if count < least:
        raise Refusal(
            "InsufficientInstanceCapacity",
            f"We currently do not have sufficient {params.one('InstanceType')} capacity in the Availability Zone you "
            f"requested ({zone}).",
            status=500,
        )
    reservation = _launched(account, params, zone, count)
    if token:
        account.launches[token] = Launch(form=params.form, reservation=reservation)
    _record(account, params, reservation)
    return _shown(account, reservation)


def describe_instances(exchange: "Exchange") -> Answer:
    """Answer DescribeInstances: pages count instances."""
    account, params = exchange.account, exchange.params
    wanted, filters = params.many("InstanceId"), params.filters()
    _check_ids(account, wanted)
    _check_filters(filters)
    size = int(params.one("MaxResults", "0")) or account.page_size
    if wanted and "MaxResults" in params.form:
        raise Refusal("InvalidParameterCombination", "The parameter instancesSet cannot be used with maxResults")
    if not wanted and "MaxResults" in params.form and not 5 <= size <= 1000:
        raise Refusal(
            "InvalidParameterValue",
            f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value between 5 and 1000.",
        )
    found = [
        (reservation, instance)
        for reservation in account.ec2.reservations.values()
        for instance in reservation.instances
        if (not wanted or instance.id in wanted) and _matches(account, instance, reservation.id, filters)
    ]
    page, token = account.page(found, size=size, token=params.one("NextToken"), key=lambda each: str(each[1].id))
    by_reservation: dict[str, list[Any]] = {}
    for reservation, instance in page:
        by_reservation.setdefault(reservation.id, []).append(instance)
    shown = items("reservationSet", (_reservation(account, id, each) for id, each in by_reservation.items()))
    return ec2_answer("DescribeInstances", shown, fields(nextToken=token))


def terminate_instances(exchange: "Exchange") -> Answer:
    """Answer TerminateInstances: all or none."""
    account = exchange.account
    ids = exchange.params.many("InstanceId")
    _check_ids(account, ids)
    for id in ids:
        if account.lives[id].protected:
            raise Refusal(
                "OperationNotPermitted",
                f"The instance '{id}' may not be terminated. Modify its 'disableApiTermination' instance attribute and "
                "try again.",
            )
    return _changed(account, "TerminateInstances", ids, account.end)


def stop_instances(exchange: "Exchange") -> Answer:
    """Answer StopInstances."""
    account = exchange.account
    ids = exchange.params.many("InstanceId")
    _check_ids(account, ids)
    reason = "Client.UserInitiatedShutdown: User initiated shutdown"
    return _changed(account, "StopInstances", ids, lambda life: account.stop(life, reason))


def describe_spot_requests(exchange: "Exchange") -> Answer:
    """Answer DescribeSpotInstanceRequests."""
    account, params = exchange.account, exchange.params
    wanted, filters = params.many("SpotInstanceRequestId"), params.filters()
    shown = {}
    for life in account.lives.values():
        if not life.request or (wanted and life.request not in wanted):
            continue
        code, since = "fulfilled", life.launched
        if life.ended is not None:
            code, since = "instance-terminated-by-service", life.ended
        elif life.marked is not None:
            code, since = "marked-for-termination", life.marked
        known = {"status-code": code, "instance-id": life.id, "state": "closed" if life.ended else "active"}
        if all(_any(known.get(name, account.ec2.tags.get(life.request, {}).get(name.removeprefix("tag:"))), values)
               for name, values in filters.items()):  # fmt: skip
            status = node("status", code=code, updateTime=since, message=code)
            shown[life.request] = (
                fields(status, spotInstanceRequestId=life.request, instanceId=life.id, state=known["state"],
                     createTime=life.launched, type="one-time")
            )  # fmt: skip
    page, token = account.page(shown, size=account.page_size, token=params.one("NextToken"), key=str)
    requests = items("spotInstanceRequestSet", (shown[id] for id in page))
    return ec2_answer("DescribeSpotInstanceRequests", requests, fields(nextToken=token))


def _launched(account: Account, params: Parameters, zone: str, count: int) -> str:
    """Let moto make the instances of a launch; return their reservation."""
    interfaces = [
        {
            "DeviceIndex": int(part.one("DeviceIndex", "0")),
            "SubnetId": part.one("SubnetId"),
            "Groups": part.many("SecurityGroupId"),
            "AssociatePublicIpAddress": part.one("AssociatePublicIpAddress") == "true",
            "DeleteOnTermination": True,
        }
        for part in params.parts("NetworkInterface")
    ]
    disks = [
        {
            "DeviceName": part.one("DeviceName"),
            "Ebs": {**part.below("Ebs").form, "VolumeSize": int(part.one("Ebs.VolumeSize", "8"))},
        }
        for part in params.parts("BlockDeviceMapping")
    ]
    metadata = params.below("MetadataOptions").form
    reservation = account.ec2.run_instances(
        params.one("ImageId"), count, params.one("UserData"), [], security_group_ids=params.many("SecurityGroupId"),
        instance_type=params.one("InstanceType"), is_instance_type_default=False, region_name=account.region,
        subnet_id=placed(params) or None, nics=interfaces, placement=zone, tags={},
        metadata_options={"HttpTokens": metadata.get("HttpTokens", "optional"),
                          "HttpPutResponseHopLimit": metadata.get("HttpPutResponseHopLimit", "1")},
        **({"block_device_mappings": disks} if disks else {}),
        **({"associate_public_ip": interfaces[0]["AssociatePublicIpAddress"]} if interfaces else {}),
    )  # fmt: skip
    return str(reservation.id)


def _check(account: Account, params: Parameters) -> str:
    """Refuse a launch that can never work; return its zone."""
    data = params.one("UserData")
    try:
        raw = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise Refusal("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data") from None
    if len(raw) > USER_DATA_MAX:
        raise Refusal("InvalidParameterValue", "User data is limited to 16384 bytes")
    type = params.one("InstanceType")
    if type not in catalogue.TYPES:
        raise Refusal("InvalidParameterValue", f"Invalid value '{type}' for InstanceType.")
    image = params.one("ImageId")
    if image not in account.images:
        raise Refusal("InvalidAMIID.NotFound", f"The image id '[{image}]' does not exist")
    if account.images[image] not in catalogue.architectures(type):
        raise Refusal(
            "InvalidParameterValue",
            f"The architecture '{catalogue.architectures(type)[0]}' of the specified instance type does not match the "
            f"architecture '{account.images[image]}' of the specified AMI.",
        )
    _check_profile(account, params.one("IamInstanceProfile.Name"))
    zone = _zone(account, params)
    here = {(type, zone), (type, "")}
    if here & account.withdrawn and not here & account.sold_out:
        raise Refusal(
            "Unsupported",
            f"Your requested instance type ({type}) is not supported in your requested Availability Zone ({zone}).",
        )
    return zone


def _check_profile(account: Account, name: str) -> None:
    if not name:
        return
    since = account.profiles.get(name)
    known = any(profile.name == name for profile in account.iam.instance_profiles.values())
    if not known or (since is not None and account.clock.now() < since + account.timing.propagation):
        raise Refusal(
            "InvalidParameterValue",
            f"Value ({name}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
        )


def placed(params: Parameters) -> str:
    """Return the subnet that a launch names; empty for none."""
    return params.one("SubnetId") or params.one("NetworkInterface.1.SubnetId")


def _zone(account: Account, params: Parameters) -> str:
    """Return the zone of a launch: its subnet's, the one that it names, or one where there is capacity."""
    subnet, zone = placed(params), params.one("Placement.AvailabilityZone")
    if subnet:
        found = next(
            (each for zoned in account.ec2.subnets.values() for each in zoned.values() if each.id == subnet), None
        )
        if found is None:
            raise Refusal("InvalidSubnetID.NotFound", f"The subnet ID '{subnet}' does not exist")
        if zone and zone != found.availability_zone:
            raise Refusal("InvalidParameterValue", "The availability zone of the subnet is another one")
        return str(found.availability_zone)
    if zone and zone not in account.zones:
        raise Refusal("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
    if zone:
        return zone
    type = params.one("InstanceType")
    return next((each for each in account.zones if (type, each) not in account.sold_out), account.zones[0])


def _room(account: Account, params: Parameters, zone: str, most: int) -> int:
    """Return how many of a launch can be had. Raises Refusal for a quota or a subnet that is full."""
    type, market = params.one("InstanceType"), params.one("InstanceMarketOptions.MarketType")
    subnet = placed(params) or next(
        (each.id for each in account.ec2.subnets.get(zone, {}).values() if each.default_for_az), ""
    )
    if subnet in account.full:
        raise Refusal(
            "InsufficientFreeAddressesInSubnet",
            f"There are not enough free addresses in subnet '{subnet}' to satisfy the requested number of instances.",
        )
    code = catalogue.quota_of(type, market)
    vcpus = catalogue.vcpus(type)
    room = int((account.quotas[code] - catalogue.used(account, code)) // vcpus)
    if room < int(params.one("MinCount")):
        if market == "spot":
            raise Refusal("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
        raise Refusal(
            "VcpuLimitExceeded",
            f"You have requested more vCPU capacity than your current vCPU limit of {account.quotas[code]:.0f} allows for "
            "the instance bucket that the specified instance type belongs to. Please visit "
            "http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
        )
    if (type, zone) in account.sold_out or (type, "") in account.sold_out:
        return 0
    left = account.stock.get((type, zone))
    count = min(most, room, *(() if left is None else (left,)))
    if left is not None and count >= int(params.one("MinCount")):
        account.stock[type, zone] = left - count
    return count


def _repeated(account: Account, launch: Launch, params: Parameters) -> Answer:
    if launch.form != params.form:
        raise Refusal(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
        )
    reservation = account.ec2.reservations.get(launch.reservation)
    alive = [] if reservation is None else [i for i in reservation.instances if account.lives[i.id].ended is None]
    if reservation is None or len(alive) < len(reservation.instances):
        raise Refusal(
            "IdempotentInstanceTerminated",
            "The request uses the same client token as a previous request whose instance has been terminated.",
        )
    return _shown(account, launch.reservation)


def _record(account: Account, params: Parameters, reservation: str) -> None:
    """Remember what moto does not, and tag everything that came of a launch."""
    now, tags = account.clock.now(), params.tags()
    data = base64.b64decode(params.one("UserData")).decode(errors="replace")
    for index, instance in enumerate(account.ec2.reservations[reservation].instances):
        life = Life(
            id=instance.id, token=params.one("ClientToken"), index=index, user_data=data,
            profile=params.one("IamInstanceProfile.Name"), launched=now, runs=now + account.timing.pending,
            market=params.one("InstanceMarketOptions.MarketType"),
            protected=params.one("DisableApiTermination") == "true",
            address=account.machines.address() if account.machines is not None else "",
        )  # fmt: skip
        if life.market == "spot":
            life.request = f"sir-{instance.id[-8:]}"
        account.lives[instance.id] = life
        instance.launch_time = now
        for nic in instance.nics.values():
            nic.delete_on_termination = True
        parts = {
            "instance": [instance.id],
            "volume": [device.volume_id for _, device in instance.get_block_device_mapping],
            "network-interface": [nic.id for nic in instance.nics.values()],
        }
        for kind, ids in parts.items():
            if tags.get(kind):
                account.ec2.create_tags(ids, tags[kind])
        if life.request and tags.get("spot-instances-request"):
            account.ec2.tags[life.request] = dict(tags["spot-instances-request"])


def _check_ids(account: Account, ids: Sequence[str]) -> None:
    for id in ids:
        if not INSTANCE_ID.fullmatch(id):
            raise Refusal("InvalidInstanceID.Malformed", f'Invalid id: "{id}"')
    missing = [id for id in ids if id not in account.lives]
    if missing:
        several = len(missing) > 1
        verb = "IDs" if several else "ID"
        names = ", ".join(missing)
        raise Refusal(
            "InvalidInstanceID.NotFound", f"The instance {verb} '{names}' do{'' if several else 'es'} not exist"
        )


def _changed(account: Account, action: str, ids: Iterable[str], act: Any) -> Answer:
    now = account.clock.now()
    shown = []
    for id in dict.fromkeys(ids):
        life = account.lives[id]
        before = life.state(now, account.timing)
        act(life)
        after = life.state(now, account.timing)
        states = [
            node(name, code=state[0], name=state[1])
            for name, state in (("currentState", after), ("previousState", before))
        ]
        shown.append(f"<instanceId>{id}</instanceId>{''.join(states)}")
    return ec2_answer(action, items("instancesSet", shown))


def _check_filters(filters: Iterable[str]) -> None:
    for name in filters:
        if name not in FILTERS and not name.startswith("tag:"):
            raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")


def _matches(account: Account, instance: Any, reservation: str, filters: dict[str, list[str]]) -> bool:
    life = account.lives[instance.id]
    tags = account.ec2.tags.get(instance.id, {})
    known = {
        "instance-id": instance.id, "reservation-id": reservation, "client-token": life.token,
        "instance-state-name": life.state(account.clock.now(), account.timing)[1],
        "instance-type": instance.instance_type, "vpc-id": instance.vpc_id or "", "subnet-id": instance.subnet_id or "",
        "private-ip-address": _address(life, instance), "availability-zone": instance.availability_zone,
        "instance-lifecycle": life.market, "image-id": instance.image_id,
        "network-interface.addresses.private-ip-address": _address(life, instance),
    }  # fmt: skip
    groups = [group.id for nic in instance.nics.values() for group in nic.group_set]
    several = {"tag-key": list(tags), "instance.group-id": groups}
    for name, values in filters.items():
        found = several.get(name) or [tags.get(name[4:]) if name.startswith("tag:") else known.get(name)]
        if not any(_any(each, values) for each in found):
            return False
    return True


def _address(life: Life, instance: Any) -> str:
    """Return where an instance is reached; empty once its interface has gone."""
    return life.address or (instance.private_ip if instance.nics else "")


def _any(value: str | None, patterns: Iterable[str]) -> bool:
    return value is not None and any(fnmatchcase(value, pattern.replace("[", "[[]")) for pattern in patterns)


def _shown(account: Account, reservation: str) -> Answer:
    found = account.ec2.reservations[reservation]
    return ec2_answer("RunInstances", _reservation(account, reservation, found.instances))


def _reservation(account: Account, id: str, instances: Iterable[Any]) -> str:
    return (
        f"<reservationId>{id}</reservationId><ownerId>{account.id}</ownerId><groupSet/>"
        f"{items('instancesSet', (_instance(account, each) for each in instances))}"
    )


def _instance(account: Account, instance: Any) -> str:
    life = account.lives[instance.id]
    code, state = life.state(account.clock.now(), account.timing)
    live = code not in (48,)
    address = _address(life, instance) if live else ""
    public = instance.public_ip if live and code == 16 else None
    reason, _, message = life.reason.partition(": ")
    tags = account.ec2.tags.get(instance.id, {})
    volumes = instance.get_block_device_mapping if live else ()
    nics = instance.nics.values() if live else ()
    groups = items("groupSet", (fields(groupId=g.id, groupName=g.name) for n in nics for g in n.group_set))
    return "".join(
        (
            fields(instanceId=instance.id, imageId=instance.image_id, privateDnsName=instance.private_dns_name if address else "",
                 reason=life.reason, amiLaunchIndex=life.index, instanceType=instance.instance_type,
                 launchTime=life.launched, subnetId=instance.subnet_id if live else "", vpcId=instance.vpc_id if live else "",
                 privateIpAddress=address, ipAddress=public,
                   clientToken=life.token, architecture=account.images.get(instance.image_id),
                 rootDeviceName=instance.root_device_name, rootDeviceType="ebs", virtualizationType="hvm",
                 instanceLifecycle=life.market, spotInstanceRequestId=life.request),
            node("instanceState", code=code, name=state),
            node("stateReason", code=reason, message=message or reason) if reason else "",
            node("placement", availabilityZone=instance.availability_zone, tenancy="default"),
            node("monitoring", state="disabled"),
            groups,
            node("iamInstanceProfile", arn=f"arn:aws:iam::{account.id}:instance-profile/{life.profile}") if life.profile else "",
            items("blockDeviceMapping", (
                fields(node("ebs", volumeId=device.volume_id, status="attached", deleteOnTermination=True), deviceName=name)
                for name, device in volumes)),
            items("networkInterfaceSet", (
                fields(networkInterfaceId=nic.id, subnetId=nic.subnet.id, status="in-use",
                     privateIpAddress=life.address or nic.private_ip_address) for nic in nics)),
            node("metadataOptions", state="applied", httpTokens=instance.metadata_options.http_tokens,
                 httpEndpoint="enabled", httpPutResponseHopLimit=instance.metadata_options.http_put_response_hop_limit),
            items("tagSet", (fields("" if value else "<value/>", key=key, value=value) for key, value in tags.items())),
        )
    )  # fmt: skip


def double(account: Account, name: str) -> None:
    """Let a second instance of that name and those tags exist."""
    life = account.named(name)[0]
    instance = account.ec2.get_instance(life.id)
    reservation = account.ec2.run_instances(
        instance.image_id, 1, None, [], instance_type=instance.instance_type, is_instance_type_default=False,
        placement=instance.availability_zone, region_name=account.region,
    )  # fmt: skip
    twin = reservation.instances[0]
    twin.launch_time = account.clock.now()
    for nic in twin.nics.values():
        nic.delete_on_termination = True
    now = account.clock.now()
    account.lives[twin.id] = Life(
        id=twin.id, token=f"{life.token[:-1]}x", index=0, user_data="", profile="", launched=now,
        runs=now + timedelta(seconds=1),
    )  # fmt: skip
    account.ec2.create_tags([twin.id], dict(account.ec2.tags[life.id]))


HANDLERS = {
    ("ec2", "RunInstances"): run_instances,
    ("ec2", "DescribeInstances"): describe_instances,
    ("ec2", "TerminateInstances"): terminate_instances,
    ("ec2", "StopInstances"): stop_instances,
    ("ec2", "DescribeSpotInstanceRequests"): describe_spot_requests,
}
