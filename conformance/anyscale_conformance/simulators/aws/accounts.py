"""Accounts of the simulated cloud: what runs in them, and what can be done to them behind everybody's back."""

import functools
import json
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

import attrs
from joserfc.jwk import KeySet
from moto.ec2.models import ec2_backends
from moto.elbv2.models import elbv2_backends
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends

from anyscale_conformance.simulators.aws.paging import Spoilt, page_of
from anyscale_conformance.simulators.aws.signing import Key
from anyscale_conformance.simulators.boot import Machines
from anyscale_core.clock import Clock

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Timing:
    """How long things take in an account."""

    pending: timedelta = timedelta(seconds=8)
    shutting_down: timedelta = timedelta(seconds=20)
    terminated: timedelta = timedelta(hours=1)
    """How long a terminated instance is still shown."""
    provisioning: timedelta = timedelta(minutes=2)
    """Until a load balancer is active."""
    healthy: timedelta = timedelta(seconds=30)
    """Until a registered target is healthy."""
    draining: timedelta = timedelta(seconds=5)
    propagation: timedelta = timedelta()
    """Until a new instance profile can be used by EC2."""
    notice: timedelta = timedelta(minutes=2)
    """Between an interruption notice and the interruption."""


@attrs.define(kw_only=True, eq=False)
class Life:
    """What moto does not know of an instance."""

    id: str
    token: str
    index: int
    user_data: str
    profile: str
    launched: datetime
    runs: datetime
    market: str = ""
    request: str = ""
    """Its spot request."""
    stopped: datetime | None = None
    ended: datetime | None = None
    reason: str = ""
    protected: bool = False
    marked: datetime | None = None
    """Since when its spot request is marked for termination."""
    rebalance: datetime | None = None
    address: str = ""
    booted: bool = False
    reaped: bool = False

    def state(self, now: datetime, timing: Timing) -> tuple[int, str]:
        """Return EC2's code and name of the state."""
        if self.ended is not None:
            return (32, "shutting-down") if now < self.ended + timing.shutting_down else (48, "terminated")
        if self.stopped is not None:
            return (80, "stopped")
        return (0, "pending") if now < self.runs else (16, "running")


@attrs.frozen(kw_only=True)
class Launch:
    """What a client token stands for."""

    form: Mapping[str, str]
    reservation: str


@attrs.frozen(kw_only=True)
class Call:
    """One request as the journal keeps it."""

    service: str
    action: str
    method: str
    path: str


@functools.lru_cache(maxsize=256)
def _read(text: str) -> Mapping[str, Any]:
    """Return a policy document; the same texts are asked for at every request."""
    found: Mapping[str, Any] = json.loads(text)
    return found


class Account:
    """One account in one region. Whoever handles a request holds ``lock``."""

    def __init__(
        self, id: str, *, region: str, clock: Clock, timing: Timing | None = None, machines: Machines | None = None
    ) -> None:
        self.id, self.region, self.clock, self.timing, self.machines = id, region, clock, timing or Timing(), machines
        self.lock = threading.RLock()
        self.page_size = 1000
        self.spoilt: Spoilt | None = None
        """How the next page of any list is wrong."""
        self.requests: list[Call] = []
        self.lives: dict[str, Life] = {}
        self.launches: dict[str, Launch] = {}
        self.images: dict[str, str] = {}
        """AMI id -> architecture."""
        self.sold_out: set[tuple[str, str]] = set()
        """(type, zone); an empty zone is every zone."""
        self.withdrawn: set[tuple[str, str]] = set()
        """What is no longer offered at all."""
        self.stock: dict[tuple[str, str], int] = {}
        """How many are left of a type in a zone, where that is limited."""
        self.quotas: dict[str, float] = {"L-1216C47A": 1_000_000, "L-DB2E81BA": 1_000_000, "L-34B43A08": 1_000_000}
        """By quota code: standard, G and VT, and spot standard, in vCPUs."""
        self.full: set[str] = set()
        """Subnets without a free address."""
        self.dark: set[int] = {1}
        """Ports on which nobody answers a load balancer's health checks."""
        self.balancers: dict[str, datetime] = {}
        self.targets: dict[tuple[str, str], datetime] = {}
        self.profiles: dict[str, datetime] = {}
        """Instance profiles by name: since when there are such."""
        self.issuers: dict[str, tuple[str, KeySet]] = {}
        """Issuers of tokens that roles may be assumed by: the ARN of the OIDC provider, and the issuer's keys."""
        self.delay_s = 0.0
        self.throttles: dict[str, int] = {}
        """Action -> how many requests more are refused for coming too fast."""
        self.on_run: Callable[[Life], None] | None = None

    # moto's own stores ----------------------------------------------------------------------------------------------

    @property
    def ec2(self) -> Any:
        return ec2_backends[self.id][self.region]

    @property
    def iam(self) -> Any:
        return iam_backends[self.id]["aws"]

    @property
    def s3(self) -> Any:
        return s3_backends[self.id]["aws"]

    @property
    def elb(self) -> Any:
        return elbv2_backends[self.id][self.region]

    @property
    def zones(self) -> tuple[str, ...]:
        """The availability zones of the region."""
        return tuple(zone.name for zone in self.ec2.describe_availability_zones())

    def page(self, found: Iterable[T], *, size: int, token: str, key: Callable[[T], str]) -> tuple[list[T], str]:
        """Return a page of a list, of ``page_size`` things at most, and the token of the next."""
        spoilt, self.spoilt = self.spoilt, None
        return page_of(found, size=min(size, self.page_size), token=token, key=key, spoilt=spoilt)

    # Keys -----------------------------------------------------------------------------------------------------------

    def administrator(self, name: str = "admin") -> Key:
        """Return a key of a user who may do everything."""
        return Key(
            id=f"AKIA{secrets.token_hex(8).upper()}", secret=secrets.token_urlsafe(30), account=self.id,
            principal=f"arn:aws:iam::{self.id}:user/{name}", user_id=f"AIDA{secrets.token_hex(8).upper()}",
        )  # fmt: skip

    def restricted(self, name: str, policy: Mapping[str, Any]) -> Key:
        """Return a key of a user who may do what a policy says and nothing else."""
        return attrs.evolve(self.administrator(name), policy=policy)

    def policies_of(self, role: str) -> list[Mapping[str, Any]]:
        """Return the documents that bind a role."""
        found = next((each for each in self.iam.roles.values() if each.name == role), None)
        if found is None:
            return []
        inline = [_read(text) if isinstance(text, str) else text for text in found.policies.values()]
        managed = [_read(policy.document) for policy in found.managed_policies.values()]
        return [*inline, *managed]

    def binding(self, key: Key) -> list[Mapping[str, Any]] | None:
        """Return the documents that bind a key; None for an administrator's."""
        if key.policy is not None:
            return [key.policy]
        return self.policies_of(key.role) if key.role else None

    # Behind everybody's back ----------------------------------------------------------------------------------------

    def named(self, name: str) -> list[Life]:
        """Return the live instances that are called so, by their Name tag."""
        return [
            life
            for id, life in self.lives.items()
            if life.ended is None and self.ec2.tags.get(id, {}).get("Name") == name
        ]

    def stop(self, life: Life, reason: str = "Server.SpotInstanceShutdown: the simulator stopped it") -> None:
        """Let an instance exist and not run."""
        life.stopped, life.reason = self.clock.now(), reason
        if self.machines is not None:
            self.machines.stop(life.id)

    def end(self, life: Life, reason: str = "Client.UserInitiatedShutdown: User initiated shutdown") -> None:
        """Begin to terminate an instance."""
        if life.ended is None:
            life.ended, life.reason = self.clock.now(), reason
            if self.machines is not None:
                self.machines.stop(life.id)

    def vanish(self, life: Life) -> None:
        """Let an instance be gone at once."""
        self.end(life, "Server.SpotInstanceTermination: Spot instance termination")
        life.ended = self.clock.now() - self.timing.shutting_down
        self.settle()

    def interrupt(self, life: Life) -> None:
        """Give a spot instance notice; it goes when the notice has run out."""
        life.marked = self.clock.now()

    def throttle(self, action: str, times: int = 1) -> None:
        """Refuse the next requests of an action for coming too fast."""
        self.throttles[action] = times

    # The course of time ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let everything happen whose time has come."""
        now = self.clock.now()
        for life in list(self.lives.values()):
            if life.marked is not None and life.ended is None and now >= life.marked + self.timing.notice:
                self.end(life, "Server.SpotInstanceTermination: Spot instance termination")
            code, _ = life.state(now, self.timing)
            if code == 16 and not life.booted:
                life.booted = True
                if self.on_run is not None:
                    self.on_run(life)
            if code == 48 and not life.reaped:
                self._reap(life)
            if life.ended is not None and now >= life.ended + self.timing.shutting_down + self.timing.terminated:
                self._forget(life)

    def _reap(self, life: Life) -> None:
        life.reaped = True
        instance = self.ec2.get_instance(life.id)
        for nic in list(instance.nics.values()):
            instance.detach_eni(nic)
            if nic.delete_on_termination:
                self.ec2.delete_network_interface(nic.id)
        instance.terminate()
        if self.machines is not None:
            self.machines.remove(life.id)

    def _forget(self, life: Life) -> None:
        for id, reservation in list(self.ec2.reservations.items()):
            reservation.instances[:] = [each for each in reservation.instances if each.id != life.id]
            if not reservation.instances:
                del self.ec2.reservations[id]
        del self.lives[life.id]
        self.ec2.tags.pop(life.id, None)

    def close(self) -> None:
        """Forget everything in the account."""
        for name, (_, owner) in list(s3_backends.bucket_accounts.items()):
            if owner == self.id:
                del s3_backends.bucket_accounts[name]
        for backends in (ec2_backends, iam_backends, s3_backends, elbv2_backends):
            backends.pop(self.id, None)
