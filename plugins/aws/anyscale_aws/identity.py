"""IdentityDriver: an identity is an IAM role in an instance profile; a machine proves itself by what STS says of its credentials.

The instance profile comes first and goes last: its path says whose it is and which call made it, so whatever else is missing
can be made or removed by it. An adopted role is put into a profile of ours and is not touched itself.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from anyscale_aws import policies
from anyscale_aws import proof as proofs
from anyscale_aws.busy import Busy
from anyscale_aws.client import Aws, Sessions
from anyscale_aws.config import read_settings, region_of
from anyscale_aws.errors import check_deadline
from anyscale_aws.grants import GrantName
from anyscale_aws.names import Path, prefix, profile_name
from anyscale_aws.permissions import permissions_for
from anyscale_aws.tags import check_name, digest, fingerprint, pairs, tagged
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.errors import (
    AlreadyExists,
    Applied,
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from anyscale_core.models.identity import Binding, Credentials, Identity, IdentitySpec, Permission, Principal, Proof
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret

PAGE = 1000
DURATION = timedelta(hours=1)
SESSION = "anyscale-core-workload"
ROLE_ARN = "eks.amazonaws.com/role-arn"
"""What EKS reads on a ServiceAccount: https://docs.aws.amazon.com/eks/latest/userguide/associate-service-account-role.html"""
_PROVEN: ContextVar[Mapping[str, str] | None] = ContextVar("proven", default=None)
"""The headers of the proof that is being verified, for the one request that carries them."""


@attrs.frozen(kw_only=True)
class Profile:
    """An instance profile of ours with what is in it."""

    path: Path
    name: str
    role: Mapping[str, Any] | None

    @property
    def adopted(self) -> bool:
        """Whether the role in it is the customer's."""
        return self.role is not None and Path.parse(self.role["Path"]) is None


class AwsIdentity(IdentityDriver):
    """Roles of IAM and proofs by STS. ``config.settings`` as explained in ``plugin``; ``sessions`` makes sessions of botocore."""

    provider = "aws"

    def __init__(self, config: DriverConfig, sessions: Sessions | None = None) -> None:
        self._settings = read_settings(config)
        self._clock = config.clock
        self._region = config.region or self._settings.region
        self._config = config
        self._sessions = sessions
        self._aws = Aws.shared(self._settings, self._region, config.clock, sessions)
        self._busy = Busy()

    def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
        check_deadline(deadline, self._clock)
        region_of(self._config)
        check_name(spec.name, "an identity")
        policies.trust(spec.subjects, assumed_by="")
        path = Path(owner=spec.owner, name=spec.name, token=digest(token), spec=fingerprint(spec))
        with self._busy.holding((spec.name, path.token)):
            there = self._there(path, deadline)
            adopted = None if spec.adopt is None else self._adoptable(spec.adopt, deadline)
            if there is None:
                self._add_profile(spec, path, deadline)
                there = Profile(path=path, name=profile_name(spec.owner, spec.name), role=None)
            if there.role is None:
                role = adopted or self._add_role(spec, there, deadline)
                self._put_in(role, there, deadline)
                there = attrs.evolve(there, role=role)
            return self._show(there)

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Identity:
        return self._show(self._read(name, owner, deadline))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
        return tuple(
            self._show(found) for found in self._profiles(owner, deadline) if owner.owns(found.path.owner.tags())
        )

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        with self._busy.holding((name,)):
            try:
                found = self._read(name, owner, deadline)
            except NotFound:
                return Deletion.ALREADY_ABSENT
            if found.role is not None:
                self._take_out(found, deadline)
            if not found.adopted:
                self._remove_role(found.name, deadline)
            self._iam("delete_instance_profile", deadline, InstanceProfileName=found.name)
            return Deletion.GONE

    def credentials(self, name: str, *, owner: Owner, deadline: datetime) -> Credentials:
        """Return credentials of the identity's role: ``aws_access_key_id``, ``aws_secret_access_key``, ``aws_session_token``."""
        found = self._read(name, owner, deadline)
        answer = self._aws.request(
            "sts", "assume_role", deadline, resource=name, RoleArn=self._arn(found, deadline), RoleSessionName=SESSION,
            DurationSeconds=int(DURATION.total_seconds()),
        )["Credentials"]  # fmt: skip
        values = {
            "aws_access_key_id": Secret(str(answer["AccessKeyId"])),
            "aws_secret_access_key": Secret(str(answer["SecretAccessKey"])),
            "aws_session_token": Secret(str(answer["SessionToken"])),
        }
        return Credentials(values=values, expires_at=answer["Expiration"].astimezone(UTC))

    def prove(self, audience: str, *, subject: str, deadline: datetime) -> Proof:
        """Sign with this machine's own credentials, those of its instance profile; ``subject`` is what STS will say."""
        del subject
        check_deadline(deadline, self._clock)
        # On a node the settings are the cloud's, and the role in them is the control plane's to assume, not the node's.
        own = Aws(attrs.evolve(self._settings, role_arn="", external_id=""), self._region, self._clock, self._sessions)
        document = proofs.sign(
            own.credentials(deadline), endpoint=self._endpoint(), region=self._sts_region(), audience=audience,
            now=self._clock.now(),
        )  # fmt: skip
        return Proof(provider=self.provider, document=Secret(document))

    def verify(self, proof: Proof, *, audience: str, deadline: datetime) -> Principal:
        check_deadline(deadline, self._clock)
        document = proof.document.reveal()
        if proof.provider != self.provider and document:
            raise Unauthenticated(f"the proof is of provider {proof.provider!r}, not of AWS", reason="FORGED")
        headers = proofs.read(document, audience=audience, endpoint=self._endpoint(), now=self._clock.now())
        caller = self._ask_sts(headers, deadline)
        account = self._aws.account(deadline)
        if caller.account != account:
            raise PermissionDenied(
                f"the proof is of account {caller.account}, and this cloud is in {account}", reason="BOUNDARY",
                hint="launch nodes in the cloud's own account",
            )  # fmt: skip
        return Principal(subject=caller.arn, account=caller.account, instance=caller.instance)

    def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
        return permissions_for(features, self._config.owner, self._settings, self._region)

    def close(self) -> None:
        self._aws.close()

    # What is there --------------------------------------------------------------------------------------------------

    def _there(self, path: Path, deadline: datetime) -> Profile | None:
        """Return what an earlier call with this token made, if any. Raises AlreadyExists and Conflict(TOKEN_MISMATCH)."""
        for found in self._profiles(path.owner, deadline):
            if found.path.token == path.token and found.path != path:
                raise Conflict(
                    f"the token has made the identity {found.path.name} otherwise",
                    reason="TOKEN_MISMATCH",
                    resource=path.name,
                )
            if found.path.name == path.name and found.path != path:
                raise AlreadyExists(
                    f"there is an identity {path.name}", reason="OWNED", resource=path.name, hint="choose another name"
                )
            if found.path == path:
                return found
        return None

    def _profiles(self, owner: Owner, deadline: datetime) -> Iterator[Profile]:
        """Yield the profiles of a cloud."""
        pages = self._aws.pages(
            "iam",
            "list_instance_profiles",
            deadline,
            next=("Marker", "Marker"),
            PathPrefix=prefix(owner),
            MaxItems=PAGE,
        )
        for page in pages:
            for each in page["InstanceProfiles"]:
                path = Path.parse(each["Path"])
                if path is not None and (path.owner.plane, path.owner.cloud) == (owner.plane, owner.cloud):
                    yield _profile(each, path)

    def _read(self, name: str, owner: Owner, deadline: datetime) -> Profile:
        check_deadline(deadline, self._clock)
        missing = NotFound(f"there is no identity {name}", reason="RESOURCE", resource=name)
        try:
            check_name(name, "an identity")
        except InvalidRequest:
            raise missing from None
        found = self._iam("get_instance_profile", deadline, InstanceProfileName=profile_name(owner, name))[
            "InstanceProfile"
        ]
        path = Path.parse(found["Path"])
        if path is None or path.name != name or not owner.owns(path.owner.tags()):
            raise missing
        return _profile(found, path)

    def _show(self, found: Profile) -> Identity:
        path = found.path
        role = found.role
        subjects = policies.subjects_of(role["AssumeRolePolicyDocument"]) if role is not None else ()
        is_federated = any(subject.startswith(policies.OIDC) for subject in subjects)
        return Identity(
            name=path.name,
            owner=path.owner,
            principal=role["Arn"] if role is not None else f"{path}{found.name}",
            adopted=found.adopted,
            subjects=subjects,
            # EKS Pod Identity is told of an account by an association; the annotation would send its Pods the way of IRSA.
            binding=Binding(account={ROLE_ARN: role["Arn"]}) if role is not None and is_federated else Binding(),
        )

    def _arn(self, found: Profile, deadline: datetime) -> str:
        if found.role is not None:
            return str(found.role["Arn"])
        return f"arn:aws:iam::{self._aws.account(deadline)}:role{found.path}{found.name}"

    # What is made and removed ---------------------------------------------------------------------------------------

    def _iam(self, operation: str, deadline: datetime, **fields: Any) -> Any:
        return self._aws.request("iam", operation, deadline, **fields)

    def _add_profile(self, spec: IdentitySpec, path: Path, deadline: datetime) -> None:
        tags = tagged(spec.tags, spec.owner, spec.name, token=digest(path.token, "profile"))
        self._iam(
            "create_instance_profile", deadline, InstanceProfileName=profile_name(spec.owner, spec.name), Path=str(path),
            Tags=pairs(tags),
        )  # fmt: skip

    def _add_role(self, spec: IdentitySpec, there: Profile, deadline: datetime) -> Mapping[str, Any]:
        account = self._aws.account(deadline)
        trust = policies.trust(spec.subjects, assumed_by=self._settings.role_arn or f"arn:aws:iam::{account}:root")
        tags = tagged(spec.tags, spec.owner, spec.name, token=digest(there.path.token, "role"))
        try:
            made = self._iam(
                "create_role", deadline, RoleName=there.name, Path=str(there.path), Tags=pairs(tags),
                AssumeRolePolicyDocument=policies.compact(trust), Description=f"Workloads of {spec.owner.cloud}: {spec.name}",
            )["Role"]  # fmt: skip
        except AlreadyExists:
            made = self._iam("get_role", deadline, RoleName=there.name)["Role"]
            if made["Path"] != str(there.path):
                raise
        found: Mapping[str, Any] = {**made, "AssumeRolePolicyDocument": trust}
        return found

    def _put_in(self, role: Mapping[str, Any], there: Profile, deadline: datetime) -> None:
        self._iam("add_role_to_instance_profile", deadline, InstanceProfileName=there.name, RoleName=role["RoleName"])

    def _take_out(self, found: Profile, deadline: datetime) -> None:
        assert found.role is not None
        if found.adopted:
            self._remove_grants(found.role["RoleName"], found.name, deadline)
        self._iam(
            "remove_role_from_instance_profile",
            deadline,
            InstanceProfileName=found.name,
            RoleName=found.role["RoleName"],
        )

    def _remove_role(self, name: str, deadline: datetime) -> None:
        """Remove a role of ours with its grants; there may be none."""
        try:
            self._remove_grants(name, "", deadline)
            self._iam("delete_role", deadline, RoleName=name)
        except NotFound:
            return

    def _remove_grants(self, role: str, of: str, deadline: datetime) -> None:
        """Remove the grants on a role: of a role of ours all, of an adopted one those that the identity was given."""
        pages = self._aws.pages("iam", "list_role_policies", deadline, next=("Marker", "Marker"), RoleName=role)
        for name in [name for page in pages for name in page["PolicyNames"]]:
            parsed = GrantName.parse(name)
            if not of or (parsed is not None and parsed.identity == digest(of)[:8]):
                self._iam("delete_role_policy", deadline, RoleName=role, PolicyName=name)

    def _adoptable(self, name: str, deadline: datetime) -> Mapping[str, Any]:
        """Return the role that is to be adopted: by its name or its ARN. It is looked at and not touched."""
        found: Mapping[str, Any] = self._iam("get_role", deadline, resource=name, RoleName=name.rpartition("/")[2])[
            "Role"
        ]
        if name.startswith("arn:") and found["Arn"] != name:
            raise NotFound(f"there is no role {name}", reason="REFERENCE", resource=name)
        if "ec2.amazonaws.com" not in str(found["AssumeRolePolicyDocument"]):
            raise InvalidRequest(
                f"EC2 may not assume the role {name}", reason="FIELD", resource=name,
                hint="let ec2.amazonaws.com assume it in its trust policy",
            )  # fmt: skip
        return found

    # Proofs ---------------------------------------------------------------------------------------------------------

    def _sts_region(self) -> str:
        return self._region or "us-east-1"

    def _endpoint(self) -> str:
        suffix = "amazonaws.com.cn" if self._region.startswith("cn-") else "amazonaws.com"
        return self._settings.endpoint_url or f"https://sts.{self._sts_region()}.{suffix}"

    def _ask_sts(self, headers: Mapping[str, str], deadline: datetime) -> proofs.Caller:
        """Send the node's request to STS itself, and return whom it names."""
        token = _PROVEN.set(headers)
        try:
            with self._aws.unsigned("sts", deadline, _carry_proof) as client:
                found = client.get_caller_identity()
        except (PermissionDenied, InvalidRequest) as error:
            raise Unauthenticated(
                f"STS does not accept the proof: {error.message}",
                reason="FORGED",
                vendor=error.vendor,
                applied=Applied.NO,
            ) from error
        finally:
            _PROVEN.reset(token)
        return proofs.Caller(account=found["Account"], arn=found["Arn"])


def _carry_proof(params: dict[str, Any], **_: Any) -> None:
    """Put the headers of the proof into the request that is about to be sent."""
    headers = _PROVEN.get()
    if headers is not None:
        params["headers"].update(headers)
        params["body"] = proofs.BODY


def _profile(found: Mapping[str, Any], path: Path) -> Profile:
    roles = found.get("Roles", ())
    return Profile(path=path, name=found["InstanceProfileName"], role=roles[0] if roles else None)
