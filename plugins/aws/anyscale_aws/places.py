"""Where an instance may go: a zone of the default VPC, or a subnet with its security groups."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from anyscale_aws.client import Aws
from anyscale_aws.config import Settings
from anyscale_aws.tags import TAG_KIND, mapping
from anyscale_core.errors import Conflict, InvalidRequest, NotFound
from anyscale_core.models.instance import InstanceSpec
from anyscale_core.models.networking import NetworkMode
from anyscale_core.models.owner import TAG_CLOUD, TAG_NAME, TAG_PLANE, Owner

TAG_SUBNETS = "anyscale-core-subnets"
"""``us-west-2a=subnet-1 us-west-2b=subnet-2``, on the security group of a network's nodes."""
TAG_MODE = "anyscale-core-mode"
TAG_SPENT = "anyscale-core-spent"
"""Digests of tokens that have had their time: what comes late with one of them changes nothing."""
NODES, ADOPTED, WAY = "nodes", "adopted", "endpoint"
"""Kinds of our security groups: of a network's nodes, of those in an adopted one (its whole record), of a way in."""


@attrs.frozen(kw_only=True)
class Network:
    """What a launch has to know of a network."""

    group: str
    vpc: str
    subnets: Mapping[str, str]
    """By zone."""
    mode: NetworkMode
    spent: tuple[str, ...] = ()
    """Digests of the tokens of endpoints that were withdrawn, the last ones."""
    rules: Sequence[Mapping[str, Any]] = ()
    """Of its nodes' group, as EC2 shows them."""


@attrs.frozen(kw_only=True)
class Place:
    """One place to ask for instances. Empty: wherever EC2 likes, in the default VPC."""

    zone: str = ""
    subnet: str = ""
    groups: tuple[str, ...] = ()
    mode: NetworkMode | None = None

    @property
    def key(self) -> str:
        """What tells it from the other places of a spec."""
        return self.subnet or self.zone

    def fields(self) -> dict[str, Any]:
        """Return it as RunInstances takes it."""
        if not self.subnet:
            fields: dict[str, Any] = {"Placement": {"AvailabilityZone": self.zone}} if self.zone else {}
            return fields | ({"SecurityGroupIds": list(self.groups)} if self.groups else {})
        interface: dict[str, Any] = {"DeviceIndex": 0, "SubnetId": self.subnet, "DeleteOnTermination": True}
        if self.groups:
            interface["Groups"] = list(self.groups)
        if self.mode is not None:
            interface["AssociatePublicIpAddress"] = self.mode is NetworkMode.PUBLIC
        return {"NetworkInterfaces": [interface]}


def places_of(spec: InstanceSpec, network: Network | None, settings: Settings) -> tuple[Place, ...]:
    """Return where a spec may go, in its order of preference. Raises InvalidRequest for zones that its network is not in."""
    if network is not None:
        zones = spec.zones or tuple(network.subnets)
        missing = [zone for zone in zones if zone not in network.subnets]
        if missing:
            raise InvalidRequest(
                f"the network {spec.network} has no subnet in {', '.join(missing)}", reason="UNSUPPORTED_VALUE",
                resource=spec.name, hint=f"its zones are {', '.join(network.subnets)}",
            )  # fmt: skip
        return tuple(
            Place(zone=zone, subnet=network.subnets[zone], groups=(network.group,), mode=network.mode) for zone in zones
        )
    if settings.subnets:
        return tuple(Place(subnet=subnet, groups=settings.security_groups) for subnet in settings.subnets)
    return tuple(Place(zone=zone, groups=settings.security_groups) for zone in spec.zones or ("",))


def read_network(aws: Aws, owner: Owner, name: str, deadline: datetime) -> Network:
    """Return a network of a cloud by its name. Raises NotFound(REFERENCE)."""
    wanted = {TAG_PLANE: (owner.plane,), TAG_CLOUD: (owner.cloud,), TAG_NAME: (name,), TAG_KIND: (NODES, ADOPTED)}
    found = aws.request(
        "ec2", "describe_security_groups", deadline, resource=name,
        Filters=[{"Name": f"tag:{key}", "Values": list(values)} for key, values in wanted.items()],
    )["SecurityGroups"]  # fmt: skip
    if not found:
        raise NotFound(
            f"there is no network {name}",
            reason="REFERENCE",
            resource=name,
            hint="create it, or wait until it is whole",
        )
    if len(found) > 1:
        raise Conflict(f"there are {len(found)} networks called {name}", reason="AMBIGUOUS", resource=name)
    tags = mapping(found[0].get("Tags"))
    return Network(
        group=found[0]["GroupId"], vpc=found[0]["VpcId"], subnets=subnets_of(tags),
        mode=NetworkMode(tags.get(TAG_MODE, "private")), spent=tuple(tags.get(TAG_SPENT, "").split()),
        rules=found[0]["IpPermissions"],
    )  # fmt: skip


def subnets_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the subnets that a network's group names, by zone."""
    return dict(part.partition("=")[::2] for part in tags.get(TAG_SUBNETS, "").split())
