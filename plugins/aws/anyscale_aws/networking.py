"""NetworkingDriver: a network is a VPC with a subnet per zone, made here or the customer's.

The security group of its nodes comes last and says where the subnets are, so a network that has it is whole. Of an adopted one it
is all that is ours: the customer's VPC is looked at and not touched. Endpoints are in ``endpoints``.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from anyscale_aws import checks, vpcs
from anyscale_aws.busy import Busy
from anyscale_aws.client import Aws, Sessions
from anyscale_aws.config import read_settings, region_of
from anyscale_aws.endpoints import Endpoints
from anyscale_aws.errors import check_deadline
from anyscale_aws.places import ADOPTED, TAG_MODE, WAY, subnets_of
from anyscale_aws.tags import (
    TAG_KIND,
    TAG_NAME,
    TAG_SPEC,
    TAG_TOKEN,
    check_name,
    digest,
    filters,
    fingerprint,
    mapping,
    owner_of,
)
from anyscale_aws.ways import Way
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.networking import Check, Endpoint, EndpointSpec, Network, NetworkMode, NetworkSpec
from anyscale_core.models.owner import Owner

PAGE = 1000


@attrs.frozen(kw_only=True)
class Record:
    """A network as its tags tell: those of its VPC, or of our group in the customer's."""

    vpc: str
    tags: Mapping[str, str]
    adopted: bool
    cidr: str = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.tags.get(TAG_NAME, "")

    @property
    def owner(self) -> Owner:
        """Whose it is."""
        return owner_of(self.tags)

    @property
    def mode(self) -> NetworkMode:
        """Whether its nodes may have public addresses."""
        return NetworkMode(self.tags.get(TAG_MODE, NetworkMode.PRIVATE.value))

    @property
    def zones(self) -> tuple[str, ...]:
        """The zones that it has subnets in."""
        return tuple(subnets_of(self.tags)) if self.adopted else tuple(self.tags.get(vpcs.TAG_ZONES, "").split())


class AwsNetworking(NetworkingDriver):
    """VPCs and ways in. ``config.settings`` as explained in ``plugin``; ``sessions`` makes sessions of botocore."""

    provider = "aws"

    def __init__(self, config: DriverConfig, sessions: Sessions | None = None) -> None:
        self._settings = read_settings(config)
        self._clock = config.clock
        self._aws = Aws.shared(self._settings, region_of(config), config.clock, sessions)
        self._busy = Busy()
        self._endpoints = Endpoints(self._aws, self._settings)

    def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
        check_deadline(deadline, self._clock)
        check_name(spec.name, "a network")
        if spec.region not in ("", self._aws.region):
            raise InvalidRequest(
                f"this cloud is in {self._aws.region}, not in {spec.region}", reason="UNSUPPORTED_VALUE",
                resource=spec.name, hint="leave region out",
            )  # fmt: skip
        plan = vpcs.Plan.of(spec, owner, digest(token), fingerprint(spec))
        with self._busy.holding((owner.cloud,)):
            records, _ = self._records(attrs.evolve(owner, cluster=None), deadline)
            there = _there(records, plan)
            if spec.adopt is not None:
                record = there or self._adopt(plan, deadline)
            else:
                record = self._make(plan, there, records, deadline)
            return self._show(record, ())

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Network:
        record = self._read(name, owner, deadline)
        return self._show(record, tuple(way.endpoint for way in self._ways(record, deadline)))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Network, ...]:
        records, groups = self._records(owner, deadline)
        ways = self._endpoints.shown(groups, deadline)
        return tuple(
            self._show(record, tuple(way.endpoint for way in ways if way.network == record.name)) for record in records
        )

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        with self._busy.holding((owner.cloud,)):
            try:
                record = self._read(name, owner, deadline)
            except NotFound:
                return Deletion.ALREADY_ABSENT
            if ways := [way.endpoint.name for way in self._ways(record, deadline)]:
                raise _in_use(name, f"the endpoints {', '.join(ways)}")
            if record.adopted:
                vpcs.delete_group(self._aws, record.vpc, record.tags, deadline)
            else:
                vpcs.delete(self._aws, record.vpc, name, deadline)
            return Deletion.GONE

    def expose(self, spec: EndpointSpec, *, token: Token, deadline: datetime) -> Endpoint:
        check_deadline(deadline, self._clock)
        check_name(spec.name, "an endpoint")
        with self._busy.holding((spec.name, digest(token))):
            return self._endpoints.expose(spec, digest(token), deadline)

    def withdraw(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        with self._busy.holding((name,)):
            return self._endpoints.withdraw(name, owner, deadline)

    def check(self, name: str, *, owner: Owner, deadline: datetime) -> tuple[Check, ...]:
        record = self._read(name, owner, deadline)
        return checks.look(self._aws, record.vpc, record.mode, record.tags, record.adopted, deadline)

    def close(self) -> None:
        self._aws.close()

    def _make(self, plan: vpcs.Plan, there: Record | None, records: tuple[Record, ...], deadline: datetime) -> Record:
        zones = self._settings.zones or vpcs.first_zones(self._aws, deadline)
        if there is None:
            cidr = vpcs.range_of(plan, [record.cidr for record in records if record.cidr])
            vpc, tags = vpcs.add(self._aws, plan, cidr, zones, deadline)
            there = Record(vpc=vpc, tags=tags, adopted=False, cidr=cidr)
            vpcs.complete(self._aws, plan, vpc, cidr, zones, vpcs.Parts(), deadline)
            return there
        if there.adopted:
            return there
        parts = vpcs.read_parts(self._aws, there.vpc, deadline)
        vpcs.complete(self._aws, plan, there.vpc, there.cidr, there.zones, parts, deadline)
        return there

    def _adopt(self, plan: vpcs.Plan, deadline: datetime) -> Record:
        tags = vpcs.adopt(self._aws, plan, deadline)
        return Record(vpc=plan.spec.adopt or "", tags=tags, adopted=True)

    def _records(self, owner: Owner, deadline: datetime) -> tuple[tuple[Record, ...], tuple[Mapping[str, Any], ...]]:
        """Return an owner's networks, and the security groups of all ways in of its cloud."""
        made = [
            Record(vpc=each["VpcId"], tags=mapping(each.get("Tags")), adopted=False, cidr=each["CidrBlock"])
            for page in self._pages("describe_vpcs", deadline, filters(owner))
            for each in page["Vpcs"]
        ]
        kinds = {"Name": f"tag:{TAG_KIND}", "Values": [ADOPTED, WAY]}
        cloud = filters(attrs.evolve(owner, cluster=None))
        groups = [
            each
            for page in self._pages("describe_security_groups", deadline, [*cloud, kinds])
            for each in page["SecurityGroups"]
        ]
        tags = [(each, mapping(each.get("Tags"))) for each in groups]
        adopted = [
            Record(vpc=each["VpcId"], tags=found, adopted=True)
            for each, found in tags
            if found[TAG_KIND] == ADOPTED and owner.owns(found)
        ]
        return (*made, *adopted), tuple(each for each, found in tags if found[TAG_KIND] == WAY)

    def _ways(self, record: Record, deadline: datetime) -> tuple[Way, ...]:
        return self._endpoints.of(attrs.evolve(record.owner, cluster=None), record.name, deadline)

    def _read(self, name: str, owner: Owner, deadline: datetime) -> Record:
        check_deadline(deadline, self._clock)
        missing = NotFound(f"there is no network {name}", reason="RESOURCE", resource=name)
        try:
            check_name(name, "a network")
        except InvalidRequest:
            raise missing from None
        found = [record for record in self._records(owner, deadline)[0] if record.name == name]
        if not found:
            raise missing
        if len(found) > 1:
            raise Conflict(f"there are {len(found)} networks called {name}", reason="AMBIGUOUS", resource=name)
        return found[0]

    def _pages(self, operation: str, deadline: datetime, wanted: Any) -> Any:
        return self._aws.pages(
            "ec2", operation, deadline, next=("NextToken", "NextToken"), Filters=wanted, MaxResults=PAGE
        )

    def _show(self, record: Record, endpoints: tuple[Endpoint, ...]) -> Network:
        return Network(
            name=record.name, owner=record.owner, id=record.vpc, mode=record.mode, adopted=record.adopted,
            zones=record.zones, endpoints=endpoints,
        )  # fmt: skip


def _there(records: tuple[Record, ...], plan: vpcs.Plan) -> Record | None:
    """Return what an earlier call with this token made, if any. Raises AlreadyExists and Conflict(TOKEN_MISMATCH)."""
    for record in records:
        same = record.name == plan.spec.name and record.tags.get(TAG_SPEC) == plan.print and record.owner == plan.owner
        if record.tags.get(TAG_TOKEN) == plan.token:
            if same:
                return record
            raise Conflict(
                f"the token has made the network {record.name} otherwise", reason="TOKEN_MISMATCH", resource=record.name
            )
        if record.name == plan.spec.name:
            raise AlreadyExists(
                f"there is a network {record.name}", reason="OWNED", resource=record.name, hint="choose another name"
            )
    return None


def _in_use(name: str, by: str) -> Conflict:
    return Conflict(
        f"{name} is used by {by}", reason="IN_USE", resource=name, hint="withdraw and delete what uses it first"
    )
