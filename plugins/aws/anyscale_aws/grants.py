"""Grants as they are found again: inline policies of the identity's role, whose names say on what, how far, by which call."""

import attrs

from anyscale_aws.tags import digest
from anyscale_core.models.identity import Access

STEM = "ac"


@attrs.frozen(kw_only=True)
class GrantName:
    """The name of a grant's policy: digests of bucket, prefix and token; at most 128 characters (IAM lists names alone)."""

    bucket: str
    prefix: str
    access: Access
    token: str
    identity: str
    """A digest of the instance profile that it was granted through: an adopted role may be in several."""

    @classmethod
    def of(cls, *, bucket: str, prefix: str, access: Access, token: str, profile: str) -> "GrantName":
        """Return the name of a grant."""
        return cls(
            bucket=digest(bucket),
            prefix=digest(prefix),
            access=access,
            token=digest(token),
            identity=digest(profile)[:8],
        )

    def __str__(self) -> str:
        return f"{STEM}.{self.bucket}.{self.prefix}.{self.access.value}.{self.token}.{self.identity}"

    @classmethod
    def parse(cls, name: str) -> "GrantName | None":
        """Return what a policy's name says; None for one that is no grant of ours."""
        parts = name.split(".")
        if len(parts) != 6 or parts[0] != STEM or parts[3] not in {each.value for each in Access}:
            return None
        return cls(bucket=parts[1], prefix=parts[2], access=Access(parts[3]), token=parts[4], identity=parts[5])

    def at(self, other: "GrantName") -> bool:
        """Tell whether it is on the same place, for the same identity."""
        return (self.bucket, self.prefix, self.identity) == (other.bucket, other.prefix, other.identity)
