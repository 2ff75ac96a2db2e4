"""The fake cluster driver."""

import builtins
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import attrs

from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.errors import (
    CapacityUnavailable,
    CloudError,
    Conflict,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Scope,
    Vendor,
)
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import (
    Created,
    Deletion,
    Instance,
    InstanceSpec,
    NotCreated,
    Offering,
    Outcome,
    Quota,
)
from anyscale_core.models.owner import Owner
from anyscale_core.testing.driver import FakeDriver, check_name, name_taken
from anyscale_core.testing.world import Machine, key_of, tags_of

QUOTA_REASONS = {"instances": "COUNT", "CPU": "CORES", "SPOT_CPU": "SPOT", "GPU": "FAMILY"}


class FakeClusterDriver(FakeDriver, ClusterDriver):
    """Instances of the fake cloud."""

    def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
        if not specs:
            return ()
        names = tuple(spec.name for spec in specs)
        owner = specs[0].owner
        return self._call(
            "create", lambda: self._create(specs, token), deadline=deadline, names=names, token=token, owner=owner
        )

    def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
        def act() -> Instance:
            machine = self._owned(id, owner)
            if machine is None:
                raise NotFound(f"no instance {id}", reason="RESOURCE", resource=id)
            return machine.view(self._cloud.clock.now())

        return self._call("get", act, deadline=deadline, names=(id,), owner=owner)

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
        def shown() -> Iterator[tuple[str, Instance]]:
            now = self._cloud.clock.now()
            return ((machine.id, machine.view(now)) for machine in self._cloud.listed() if owner.owns(machine.tags))

        return self._pages(shown, deadline=deadline, owner=owner)

    def delete(self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime) -> Mapping[InstanceId, Deletion]:
        def act() -> Mapping[InstanceId, Deletion]:
            for each in ids:
                if each in self._cloud.protected and self._owned(each, owner):
                    raise Conflict(f"{each} is protected", reason="IN_USE", resource=each, hint="release it first")
            return {each: self._delete(each, owner) for each in ids}

        return self._call("delete", act, deadline=deadline, names=tuple(ids), owner=owner)

    def delete_volume(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        def act() -> Deletion:
            key = key_of(owner, name)
            if key not in self._cloud.volumes:
                return Deletion.ALREADY_ABSENT
            if self._cloud.holder(key) is not None:
                raise Conflict(f"an instance has the volume {name}", reason="IN_USE", resource=name)
            del self._cloud.volumes[key]
            return Deletion.GONE

        return self._call("delete_volume", act, deadline=deadline, names=(name,), owner=owner)

    def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
        return self._call("offerings", lambda: tuple(self._offerings()), deadline=deadline)

    def quotas(self, *, deadline: datetime) -> tuple[Quota, ...]:
        def act() -> tuple[Quota, ...]:
            self._cloud.settle()
            return tuple(
                Quota(metric=metric, scope="account", limit=limit, used=self._cloud.used.get(metric, 0.0))
                for metric, limit in self._cloud.limits.items()
            )

        return self._call("quotas", act, deadline=deadline)

    def _create(self, specs: Sequence[InstanceSpec], token: Token) -> tuple[Outcome, ...]:
        self._cloud.settle()
        names = [spec.name for spec in specs]
        if len(set(names)) < len(names):
            raise InvalidRequest("two specs of the batch have one name", reason="NAME", hint="make the names unique")
        owner = specs[0].owner
        if any((spec.owner.plane, spec.owner.cloud) != (owner.plane, owner.cloud) for spec in specs):
            raise InvalidRequest("the specs of a batch belong to different clouds", reason="COMBINATION")
        key = ("cluster", "create", owner.plane, owner.cloud)
        made = self._cloud.once(key, token, tuple(specs), self._is_alive)
        earlier = {machine.spec.name: machine for machine in self._cloud.ever() if machine.id in made} if made else {}
        return tuple(self._make(spec, earlier.get(spec.name), made) for spec in specs)

    def _make(self, spec: InstanceSpec, earlier: Machine | None, made: builtins.list[str]) -> Outcome:
        """Make one item, unless a call with the same token has made it; one that it failed to make is tried again."""
        try:
            if earlier is None:
                machine = self._launch(spec)
                made.append(machine.id)
            elif self._is_alive(earlier.id):
                machine = earlier
            else:
                message = f"{spec.name} was made by this token and has been deleted"
                raise Conflict(message, reason="TOKEN_SPENT", resource=spec.name, hint="mint a new token")
        except CloudError as error:
            return NotCreated(name=spec.name, error=error)
        return Created(instance=machine.view(self._cloud.clock.now()))

    def _launch(self, spec: InstanceSpec) -> Machine:
        self._check(spec)
        if spec.network in self._cloud.full:
            raise CapacityUnavailable(
                f"no address is free in {spec.network}",
                reason="SUBNET_ADDRESSES",
                scope=Scope.SUBNET,
                resource=spec.name,
            )
        offering = self._place(spec)
        takes = _takes(offering)
        self._check_quota(spec, takes)
        cloud, number = self._cloud, self._cloud.serial()
        now = cloud.clock.now()
        if spec.volume is not None:
            cloud.volumes.setdefault(key_of(spec.owner, spec.volume), spec.owner)
        machine = Machine(
            id=InstanceId(f"i-{number:06d}"),
            spec=spec,
            tags=tags_of(spec),
            zone=offering.zone,
            market_type=offering.market_type,
            address=f"10.{number // 65536}.{number // 256 % 256}.{number % 256}",
            created_at=now,
            runs_at=now + cloud.boot,
            takes=takes,
        )
        cloud.add(machine)
        return machine

    def _check(self, spec: InstanceSpec) -> None:
        check_name(spec.name)
        namesake = self._cloud.named(spec.owner, spec.name)
        if namesake is not None:
            raise name_taken("instance", spec.name, namesake.spec.owner, spec.owner)
        if spec.volume is not None and self._cloud.holder(key_of(spec.owner, spec.volume)) is not None:
            raise Conflict(f"an instance has the volume {spec.volume}", reason="IN_USE", resource=spec.name)
        sold = {offering.instance_type for offering in self._cloud.offerings}
        if spec.instance_type not in sold:
            hint = f"one of {', '.join(sorted(sold))}"
            raise InvalidRequest(f"no instance type {spec.instance_type!r}", reason="FIELD", hint=hint)
        zones = {offering.zone for offering in self._cloud.offerings}
        for zone in spec.zones:
            if zone not in zones:
                hint = f"one of {', '.join(sorted(zones))}"
                raise InvalidRequest(f"no zone {zone!r}", reason="FIELD", hint=hint)

    def _place(self, spec: InstanceSpec) -> Offering:
        """Return the first offering of the spec that there is: by market, then by zone in the spec's order."""
        markets: tuple[MarketType, ...] = (spec.market_type,)
        if spec.market_type is MarketType.PREFER_SPOT:
            markets = (MarketType.SPOT, MarketType.ON_DEMAND)
        matching = [o for o in self._cloud.offerings if o.instance_type == spec.instance_type]
        zones = spec.zones or tuple(dict.fromkeys(offering.zone for offering in matching))
        reason, scope = ("ZONE", Scope.ZONE) if len(zones) == 1 else ("SKU", Scope.REGION)
        for market in markets:
            for zone in zones:
                for offering in matching:
                    if (offering.zone, offering.market_type) != (zone, market) or not offering.available:
                        continue
                    shortage = self._cloud.short(spec.instance_type, zone, market)
                    if shortage is None:
                        return offering
                    shortage.fired += 1
        vendor = Vendor(provider=self.provider, service="cluster.create", code="InsufficientInstanceCapacity")
        raise CapacityUnavailable(
            f"no {spec.instance_type} ({spec.market_type.value}) in {', '.join(zones) or 'any zone'}",
            reason=reason, scope=scope, vendor=vendor, resource=spec.name,
        )  # fmt: skip

    def _check_quota(self, spec: InstanceSpec, takes: Mapping[str, float]) -> None:
        for metric, amount in takes.items():
            limit, used = self._cloud.limits.get(metric), self._cloud.used.get(metric, 0.0)
            if limit is not None and amount > 0 and used + amount > limit:
                raise QuotaExceeded(
                    f"the account may have {limit:g} {metric}; {used:g} are in use",
                    metric=metric, limit=limit, used=used, reason=QUOTA_REASONS.get(metric, "COUNT"),
                    scope=Scope.ACCOUNT, resource=spec.name, hint=f"ask the cloud for more {metric}",
                )  # fmt: skip

    def _offerings(self) -> Iterator[Offering]:
        for offering in self._cloud.offerings:
            short = self._cloud.short(offering.instance_type, offering.zone, offering.market_type)
            yield attrs.evolve(offering, available=offering.available and not short, takes=_takes(offering))

    def _delete(self, id: InstanceId, owner: Owner) -> Deletion:
        machine = self._owned(id, owner)
        if machine is None:
            return Deletion.ALREADY_ABSENT
        now = self._cloud.clock.now()
        if machine.goes_at is None:
            machine.goes_at = now + self._cloud.delete_takes
        self._cloud.settle()
        return Deletion.GOING if machine.goes_at > now else Deletion.GONE

    def _owned(self, id: InstanceId, owner: Owner) -> Machine | None:
        self._cloud.settle()
        machine = self._cloud.machines.get(id)
        return machine if machine is not None and owner.owns(machine.tags) else None

    def _is_alive(self, id: str) -> bool:
        machine = self._cloud.machines.get(InstanceId(id))
        return machine is not None and machine.goes_at is None


def _takes(offering: Offering) -> dict[str, float]:
    """Return how much of each limit one instance of an offering takes."""
    cores = "SPOT_CPU" if offering.market_type is MarketType.SPOT else "CPU"
    resources = offering.resources
    return {"instances": 1.0, cores: resources.get("CPU", 0.0), "GPU": resources.get("GPU", 0.0)}
