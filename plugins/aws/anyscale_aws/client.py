"""The one door to AWS's SDK: sessions, clients, timeouts and credentials. botocore is loaded by the first call.

A cloud has one session, which its drivers share: the control plane's own credentials or, with ``role_arn``, those of the
customer's role, assumed with its ExternalId and renewed before they end. SDK retries are off: the core counts attempts on the
wire. A client has the timeout that it was made with, so there are some for each service: a call gets the longest that its
deadline leaves room for.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import attrs

from anyscale_aws.config import Settings
from anyscale_aws.errors import check_deadline, translated
from anyscale_aws.operations import MEMBERS, OPERATIONS
from anyscale_aws.tags import digest
from anyscale_core.clock import Clock
from anyscale_core.errors import Applied, DeadlineExceeded, PermissionDenied, Transient

TIMEOUTS_S = (60.0, 30.0, 15.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
"""What a request may take; the longest that fits into what a call has left is used."""
CONNECT_S = 5.0
SESSION_NAME = "anyscale-core"
ROLE_DURATION = timedelta(hours=1)
REFRESH = timedelta(minutes=10)
"""Credentials of the role are renewed when they have less left than this."""
POOL = 32
"""Connections that one client keeps."""

Sessions = Callable[[], Any]
"""Makes a session of botocore; a test's own puts its faults below it."""


@attrs.frozen(kw_only=True)
class RoleCredentials:
    """Temporary credentials of the customer's role."""

    values: Mapping[str, str] = attrs.field(repr=False)
    expires_at: datetime


class Aws:
    """AWS as the drivers of one cloud use it. Threads may share it."""

    _SHARED: ClassVar["WeakValueDictionary[tuple[object, ...], Aws]"] = WeakValueDictionary()
    _SHARING: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def shared(cls, settings: Settings, region: str, clock: Clock, sessions: Sessions | None = None) -> "Aws":
        """Return the one of a cloud: its drivers have one session, one set of credentials and the same connections.

        It is closed when each of those that it was returned to has closed it.
        """
        key = (settings.role_arn, settings.external_id, settings.endpoint_url, region, id(clock), sessions)
        with cls._SHARING:
            found = cls._SHARED.get(key)
            if found is None:
                found = cls._SHARED[key] = cls(settings, region, clock, sessions)
            else:
                found._users += 1
            return found

    def __init__(self, settings: Settings, region: str, clock: Clock, sessions: Sessions | None = None) -> None:
        self.settings, self.region, self.clock = settings, region, clock
        self._users = 1
        self._sessions = sessions or new_session
        self._lock = threading.RLock()
        self._session: Any = None
        self._clients: dict[tuple[str, float, str], Any] = {}
        self._role: RoleCredentials | None = None
        self._is_vetted = False
        self._account = ""

    @contextmanager
    def call(self, service: str, deadline: datetime, *, resource: str = "") -> Iterator[Any]:
        """Give a client for one request, and let only errors of the tree out.

        Raises DeadlineExceeded when there is no time left for one.
        """
        check_deadline(deadline, self.clock)
        with translated(self.clock, resource=resource):
            role = self._role_key(deadline)
            yield self.client(service, self._timeout_s(deadline), role=role)

    def request(self, service: str, operation: str, deadline: datetime, *, resource: str = "", **fields: Any) -> Any:
        """Make one request: ``request("ec2", "run_instances", deadline, ...)``."""
        with self.call(service, deadline, resource=resource) as client:
            return getattr(client, operation)(**fields)

    def pages(
        self, service: str, operation: str, deadline: datetime, *, next: tuple[str, str], **fields: Any
    ) -> Iterator[Any]:
        """Make one request a page. ``next``: the field that a page names the next one by, and the one that asks for it.

        Raises Transient when a token leads back to where it came from, so that a list never goes on for ever.
        """
        seen: set[str] = set()
        while True:
            page = self.request(service, operation, deadline, **fields)
            yield page
            token = page.get(next[0])
            if not token:
                return
            if token in seen:
                raise Transient(f"{operation} names one page of its list again and again", reason="SERVER")
            seen.add(token)
            fields = {**fields, next[1]: token}

    @contextmanager
    def unsigned(self, service: str, deadline: datetime, before: Callable[..., None]) -> Iterator[Any]:
        """Give a client that signs nothing; ``before`` is called before each of its requests."""
        from botocore import UNSIGNED
        from botocore.config import Config

        check_deadline(deadline, self.clock)
        timeout_s = self._timeout_s(deadline)
        key = (service, timeout_s, "unsigned")
        with self._lock:
            if key not in self._clients:
                config = _config(timeout_s, emulated=bool(self.settings.endpoint_url)).merge(
                    Config(signature_version=UNSIGNED)
                )
                client = self.session().create_client(
                    service, region_name=self.region, endpoint_url=self.settings.endpoint_url or None, config=config
                )
                client.meta.events.register_first("before-call", before)
                self._clients[key] = client
        with translated(self.clock):
            yield self._clients[key]

    def account(self, deadline: datetime) -> str:
        """Return the id of the account that the cloud is in; asked for once."""
        if self.settings.role_arn:
            return self.settings.role_arn.split(":")[4]
        if not self._account:
            self._account = str(self.request("sts", "get_caller_identity", deadline)["Account"])
        return self._account

    def credentials(self, deadline: datetime) -> Any:
        """Return botocore's frozen credentials of the cloud's session, for signing and for stores of objects."""
        check_deadline(deadline, self.clock)
        with translated(self.clock):
            if self.settings.role_arn:
                self._role_key(deadline)
                from botocore.credentials import ReadOnlyCredentials

                assert self._role is not None
                values = self._role.values
                return ReadOnlyCredentials(
                    values["aws_access_key_id"], values["aws_secret_access_key"], values["aws_session_token"]
                )
            from botocore.exceptions import NoCredentialsError

            found = self.session().get_credentials()
            if found is None:
                raise NoCredentialsError
            return found.get_frozen_credentials()

    def credentials_end(self) -> datetime | None:
        """Return when the role's credentials end; None for credentials that botocore renews by itself."""
        return None if self._role is None else self._role.expires_at

    def session(self) -> Any:
        """Return the session of botocore, made at the first call."""
        with self._lock:
            if self._session is None:
                self._session = self._sessions()
            return self._session

    def client(self, service: str, timeout_s: float, *, role: str = "", base: Mapping[str, str] | None = None) -> Any:
        """Return a client of these credentials with this timeout, made at its first use."""
        key = (service, timeout_s, role)
        with self._lock:
            if key not in self._clients:
                values = self._role.values if base is None and self._role is not None else (base or {})
                self._clients[key] = self._made(service, timeout_s, values)
            return self._clients[key]

    def close(self) -> None:
        """Close every connection, once nobody else uses them."""
        with self._SHARING:
            self._users -= 1
            if self._users > 0:
                return
            for key in [key for key, each in self._SHARED.items() if each is self]:
                del self._SHARED[key]
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _made(self, service: str, timeout_s: float, values: Mapping[str, str]) -> Any:
        return self.session().create_client(
            service, region_name=self.region, endpoint_url=self.settings.endpoint_url or None,
            config=_config(timeout_s, emulated=bool(self.settings.endpoint_url)), **values,
        )  # fmt: skip

    def _timeout_s(self, deadline: datetime) -> float:
        left_s = (deadline - self.clock.now()).total_seconds()
        for timeout_s in TIMEOUTS_S:
            if timeout_s <= left_s:
                return timeout_s
        raise DeadlineExceeded(f"{left_s:.2f} s are too few for a request to AWS", reason="REQUEST", applied=Applied.NO)

    def _role_key(self, deadline: datetime) -> str:
        """Have credentials of the role that last; return what tells their clients from those of others."""
        if not self.settings.role_arn:
            return ""
        with self._lock:
            role = self._role
            if role is None or role.expires_at - self.clock.now() < REFRESH:
                role = self._assume(deadline)
                for key in [key for key in self._clients if key[2] not in ("", "base", "unsigned")]:
                    # Threads that are in the middle of a request keep their client; nobody else gets it any more.
                    del self._clients[key]
                self._role = role
            return role.expires_at.isoformat()

    def _vet(self, sts: Any) -> None:
        """Raise PermissionDenied for a role that does not demand its ExternalId: whoever named it would be let in.

        Source: IAM User Guide, "The confused deputy problem". Only a role that takes a wrong one gives itself away.
        """
        from botocore.exceptions import ClientError

        role = self.settings.role_arn
        try:
            sts.assume_role(
                RoleArn=role, RoleSessionName=SESSION_NAME, ExternalId=digest("wrong", self.settings.external_id)
            )
        except ClientError as error:
            if error.response["Error"]["Code"] == "AccessDenied":
                return
            raise
        raise PermissionDenied(
            f"the role {role} takes any ExternalId", reason="POLICY", resource=role,
            hint="let its trust policy demand it: Condition: {StringEquals: {sts:ExternalId: ...}}",
        )  # fmt: skip

    def _assume(self, deadline: datetime) -> RoleCredentials:
        sts = self.client("sts", self._timeout_s(deadline), role="base", base={})
        if not self._is_vetted:
            self._vet(sts)
            self._is_vetted = True
        found = sts.assume_role(
            RoleArn=self.settings.role_arn, RoleSessionName=SESSION_NAME, ExternalId=self.settings.external_id,
            DurationSeconds=int(ROLE_DURATION.total_seconds()),
        )["Credentials"]  # fmt: skip
        return RoleCredentials(
            values={
                "aws_access_key_id": found["AccessKeyId"],
                "aws_secret_access_key": found["SecretAccessKey"],
                "aws_session_token": found["SessionToken"],
            },
            expires_at=found["Expiration"].astimezone(UTC),
        )


@functools.cache
def _loader() -> Any:
    """Return botocore's reader of its service models: what it has read serves every session of the process."""
    from botocore.loaders import Loader

    class Models(Loader):  # type: ignore[misc]
        """Reads of each service what this plugin uses of it."""

        def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
            found = super().load_service_model(service_name, type_name, api_version)
            used = OPERATIONS.get(service_name)
            if used is not None and type_name == "service-2" and len(found["operations"]) > len(used):
                for shape, members in MEMBERS.get(service_name, {}).items():
                    whole = found["shapes"][shape]["members"]
                    found["shapes"][shape]["members"] = {name: whole[name] for name in members}
                _cut(found, used)
            return found

    return Models()


def _cut(model: dict[str, Any], used: frozenset[str]) -> None:
    """Take out of a service's model whatever these operations do not need."""
    model["operations"] = {name: each for name, each in model["operations"].items() if name in used}
    shapes, kept = model["shapes"], {}
    names = list(_shape_names(model["operations"]))
    while names:
        name = names.pop()
        if name not in kept:
            kept[name] = shapes[name]
            names += _shape_names(shapes[name])
    model["shapes"] = kept


def _shape_names(node: Any) -> Iterator[str]:
    """Yield the names of the shapes that a part of a model refers to."""
    if isinstance(node, Mapping):
        if isinstance(node.get("shape"), str):
            yield node["shape"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from _shape_names(each)


def new_session() -> Any:
    """Return a session of botocore with the credentials of this process."""
    import botocore.session

    session = botocore.session.Session()
    session.register_component("data_loader", _loader())
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_instant)
    return session


def _instant(value: Any) -> datetime:
    """Return the instant that an answer tells. Most are of ISO 8601, which Python reads much faster than botocore does."""
    if isinstance(value, str) and value.endswith("Z"):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    from botocore.utils import parse_timestamp

    found: datetime = parse_timestamp(value)
    return found


def _config(timeout_s: float, *, emulated: bool) -> Any:
    from botocore.config import Config

    connect_s = min(CONNECT_S, timeout_s)
    return Config(
        connect_timeout=connect_s, read_timeout=timeout_s, retries={"total_max_attempts": 1}, max_pool_connections=POOL,
        user_agent_extra="anyscale-core", parameter_validation=True,
        # An emulator has no names for buckets; AWS itself is asked the way that it prefers.
        s3={"addressing_style": "path"} if emulated else None,
        tcp_keepalive=True, request_checksum_calculation="when_required", response_checksum_validation="when_required",
    )  # fmt: skip
