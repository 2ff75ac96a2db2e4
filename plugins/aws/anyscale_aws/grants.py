"""Grants: inline policies of the identity's role, whose names say on what, how far, by which call and of which size."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from anyscale_aws import policies
from anyscale_aws.client import Aws
from anyscale_aws.names import Path, prefix, profile_name
from anyscale_aws.tags import digest
from anyscale_core.errors import Conflict, NotFound, QuotaExceeded
from anyscale_core.models.identity import Access
from anyscale_core.models.owner import TAG_CLOUD, TAG_PLANE, Owner

STEM = "ac"
QUOTA = "InlinePolicyCharactersPerRole"
LIMIT = 10_240
"""Characters that the inline policies of a role have together, blanks aside (IAM User Guide, "IAM and AWS STS quotas")."""
TOLD_LIMIT = re.compile(r"(\d+) bytes")


@attrs.frozen(kw_only=True)
class GrantName:
    """The name of a grant's policy: digests of bucket, prefix and token; at most 128 characters (IAM lists names alone)."""

    bucket: str
    prefix: str
    access: Access
    token: str
    identity: str
    """A digest of the instance profile that it was granted through: an adopted role may be in several."""
    size: int
    """Of the policy, in characters."""

    @classmethod
    def of(cls, *, bucket: str, prefix: str, access: Access, token: str, profile: str) -> "GrantName":
        """Return the name of a grant."""
        return cls(
            bucket=digest(bucket), prefix=digest(prefix), access=access, token=digest(token),
            identity=digest(profile)[:8], size=len(policies.grant(bucket, prefix, access)),
        )  # fmt: skip

    def __str__(self) -> str:
        parts = (self.bucket, self.prefix, self.access.value, self.token, self.identity, self.size)
        return ".".join((STEM, *map(str, parts)))

    @classmethod
    def parse(cls, name: str) -> "GrantName | None":
        """Return what a policy's name says; None for one that is no grant of ours."""
        parts = name.split(".")
        if len(parts) != 7 or parts[0] != STEM or parts[3] not in {each.value for each in Access}:
            return None
        if not parts[6].isdigit():
            return None
        return cls(
            bucket=parts[1], prefix=parts[2], access=Access(parts[3]), token=parts[4], identity=parts[5],
            size=int(parts[6]),
        )  # fmt: skip

    def at(self, other: "GrantName") -> bool:
        """Tell whether it is on the same place, for the same identity."""
        return (self.bucket, self.prefix, self.identity) == (other.bucket, other.prefix, other.identity)


class Grants:
    """The grants of one cloud."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def holder(self, identity: str, owner: Owner, deadline: datetime) -> Mapping[str, Any]:
        """Return the role of an identity. Raises NotFound(REFERENCE)."""
        missing = NotFound(f"there is no identity {identity}", reason="REFERENCE", resource=identity)
        try:
            found = self._aws.request(
                "iam", "get_instance_profile", deadline, InstanceProfileName=profile_name(owner, identity)
            )["InstanceProfile"]
        except NotFound:
            raise missing from None
        path = Path.parse(found["Path"])
        cloud = {TAG_PLANE: owner.plane, TAG_CLOUD: owner.cloud}
        if path is None or path.name != identity or not found["Roles"]:
            raise missing
        if any(path.owner.tags().get(key) != value for key, value in cloud.items()):
            raise missing
        role: Mapping[str, Any] = found["Roles"][0]
        return role

    def of(self, role: str, deadline: datetime) -> Sequence[GrantName]:
        """Return what a role has been granted by us."""
        pages = self._aws.pages("iam", "list_role_policies", deadline, next=("Marker", "Marker"), RoleName=role)
        parsed = (GrantName.parse(name) for page in pages for name in page["PolicyNames"])
        return [each for each in parsed if each is not None]

    def put(self, role: str, name: GrantName, document: str, deadline: datetime) -> None:
        """Grant what there is not yet.

        Raises Conflict(TOKEN_MISMATCH), and QuotaExceeded(COUNT) with what the role's grants take, when it has no room for more.
        """
        there = self.of(role, deadline)
        if any(each.token == name.token and (not each.at(name) or each.access is not name.access) for each in there):
            raise Conflict("the token has made another grant", reason="TOKEN_MISMATCH", resource=role)
        if any(each.at(name) and each.access is name.access for each in there):
            return
        try:
            self._aws.request(
                "iam", "put_role_policy", deadline, resource=role, RoleName=role, PolicyName=str(name),
                PolicyDocument=document,
            )  # fmt: skip
        except QuotaExceeded as error:
            raise _full(error, used=sum(each.size for each in there)) from error

    def drop(self, role: str, name: GrantName, deadline: datetime) -> None:
        """Take a grant away; one that is gone is."""
        try:
            self._aws.request("iam", "delete_role_policy", deadline, RoleName=role, PolicyName=str(name))
        except NotFound:
            return

    def drop_all_on(self, bucket: str, owner: Owner, deadline: datetime) -> None:
        """Take every grant of the cloud's identities on a bucket away."""
        pages = self._aws.pages(
            "iam", "list_instance_profiles", deadline, next=("Marker", "Marker"), PathPrefix=prefix(owner)
        )
        roles = {role["RoleName"] for page in pages for each in page["InstanceProfiles"] for role in each["Roles"]}
        for role in sorted(roles):
            for name in self.of(role, deadline):
                if name.bucket == digest(bucket):
                    self.drop(role, name, deadline)


def _full(error: QuotaExceeded, *, used: int) -> QuotaExceeded:
    told = TOLD_LIMIT.search(error.message)
    return QuotaExceeded(
        error.message, metric=QUOTA, limit=float(told[1]) if told else float(LIMIT), used=float(used), reason=error.reason,
        scope=error.scope, vendor=error.vendor, resource=error.resource, retry_after=error.retry_after,
        hint="each live grant takes some of the role's characters: end clusters, or register another cloud",
    )  # fmt: skip
