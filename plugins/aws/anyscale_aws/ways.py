"""A way in as the tags of its security group tell: the group is its record."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from anyscale_aws.config import Way as Kind
from anyscale_aws.places import TAG_SPENT
from anyscale_aws.tags import TAG_NAME, TAG_TOKEN, digest, mapping, owner_of
from anyscale_core.models.networking import Endpoint

TAG_NETWORK = "anyscale-core-network"
TAG_TARGET = "anyscale-core-target"
"""``address:port``."""
TAG_STATE = "anyscale-core-state"
TAG_WAY = "anyscale-core-way"
SPENT_MAX = 19
"""Digests of tokens that fit into one tag."""
SPENT_DIGITS = 12
DELETING = "deleting"
PORT = 443
"""What a load balancer listens on."""


@attrs.frozen(kw_only=True)
class Way:
    """A way in with the network that it is in."""

    endpoint: Endpoint
    network: str


@attrs.frozen(kw_only=True)
class Record:
    """A way in as its group tells."""

    group: str
    vpc: str
    tags: Mapping[str, str]
    rules: Sequence[Mapping[str, Any]] = ()
    """Of its group, as EC2 shows them."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.tags.get(TAG_NAME, "")

    @property
    def address(self) -> str:
        """Where it leads."""
        return self.tags.get(TAG_TARGET, "").rpartition(":")[0]

    @property
    def port(self) -> int:
        """On which port."""
        return int(self.tags.get(TAG_TARGET, ":0").rpartition(":")[2])

    @property
    def way(self) -> Kind:
        """By which means; what it was made with, whatever the settings say now."""
        return Kind(self.tags.get(TAG_WAY, Kind.ADDRESS.value))

    @property
    def spent(self) -> tuple[str, ...]:
        """Digests of the tokens that led it elsewhere before."""
        return tuple(self.tags.get(TAG_SPENT, "").split())

    @property
    def balancer(self) -> str:
        """What its load balancer and its target group are called: at most 32 characters."""
        owner = owner_of(self.tags)
        return f"ac-{digest(owner.plane, owner.cloud, self.name)}"


def record_of(group: Mapping[str, Any]) -> Record:
    """Return the way in that a security group is the record of."""
    return Record(
        group=group["GroupId"], vpc=group["VpcId"], tags=mapping(group.get("Tags")), rules=group["IpPermissions"]
    )


def spent_with(record: Record) -> str:
    """Return the tag of spent tokens with the one that a way in has now."""
    return " ".join([*record.spent, record.tags.get(TAG_TOKEN, "")[:SPENT_DIGITS]][-SPENT_MAX:])
