"""The catalogue: instance types are named shapes of Pods, from the settings or from a ConfigMap, checked here."""

import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_core.errors import Fault, InvalidRequest, SpecError
from anyscale_core.models import wire
from anyscale_core.models.cluster import MarketType, nearest
from anyscale_core.models.instance import Offering
from anyscale_kubernetes.client import Api
from anyscale_kubernetes.config import Settings
from anyscale_kubernetes.errors import quantity
from anyscale_kubernetes.kinds import CONFIG_MAP

KEY = "instance_types.yaml"
"""The key of the ConfigMap that holds the catalogue."""
MARKETS = (MarketType.ON_DEMAND, MarketType.SPOT)
FRESH = timedelta(minutes=1)
STARTUP = timedelta(minutes=1)


@attrs.frozen(kw_only=True)
class Shape:
    """What Ray gets of a Pod. ``CPU``: whole cores; ``memory``: a quantity (``16Gi``); ``custom``: Ray's own resources."""

    CPU: int
    memory: str
    GPU: int = 0
    custom: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class InstanceType:
    """A named shape, where its Pods may run, and what one costs per hour in each market that there is."""

    resources: Shape
    accelerator: str = ""
    node_selector: Mapping[str, str] = attrs.field(factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    markets: tuple[str, ...] = ("ON_DEMAND", "SPOT")
    price_per_hour: Mapping[str, float] = attrs.field(factory=dict)
    gpu_resource: str = "nvidia.com/gpu"
    cpu_architecture: str = ""

    @property
    def memory(self) -> int:
        """The memory in bytes."""
        return int(quantity(self.resources.memory))

    def ray_resources(self) -> dict[str, float]:
        """Return what Ray sees of one."""
        shape = self.resources
        out = {"CPU": float(shape.CPU), "memory": float(self.memory)} | {k: float(v) for k, v in shape.custom.items()}
        if shape.GPU:
            out["GPU"] = float(shape.GPU)
        return out | ({f"accelerator_type:{self.accelerator}": 1.0} if self.accelerator else {})

    def pod_resources(self) -> dict[str, str]:
        """Return the requests and limits of one's container."""
        out = {"cpu": str(self.resources.CPU), "memory": str(self.memory)}
        return out | ({self.gpu_resource: str(self.resources.GPU)} if self.resources.GPU else {})


def _simple(cpu: int, gib: int) -> InstanceType:
    return InstanceType(resources=Shape(CPU=cpu, memory=f"{gib}Gi"))


DEFAULTS: Mapping[str, InstanceType] = {
    "2CPU-8GB": _simple(2, 8), "4CPU-16GB": _simple(4, 16), "8CPU-32GB": _simple(8, 32), "16CPU-64GB": _simple(16, 64),
}  # fmt: skip
"""The catalogue of a cloud that gives none."""


def read_types(raw: object, *, subject: str) -> dict[str, InstanceType]:
    """Return a catalogue from its plain form. Raises SpecError with every fault of every type."""
    if not isinstance(raw, Mapping):
        raise SpecError([Fault(path="", message="is not a mapping of names to shapes")], subject=subject)
    faults: list[Fault] = []
    found: dict[str, InstanceType] = {}
    for name, body in raw.items():
        try:
            found[str(name)] = wire.structure(body, InstanceType, subject=subject)
        except SpecError as error:
            faults += [attrs.evolve(fault, path=f"{name}.{fault.path}") for fault in error.faults]
            continue
        faults += [attrs.evolve(fault, path=f"{name}.{fault.path}") for fault in _faults(found[str(name)])]
    if faults:
        raise SpecError(faults, subject=subject)
    return found


def _faults(type: InstanceType) -> Iterator[Fault]:
    if type.resources.CPU <= 0:
        yield Fault(path="resources.CPU", message=f"{type.resources.CPU} is not above 0; Pods have whole cores here")
    if type.resources.GPU < 0:
        yield Fault(path="resources.GPU", message=f"{type.resources.GPU} is negative")
    try:
        if type.memory < 1 << 20:
            yield Fault(path="resources.memory", message=f"{type.memory} bytes are less than 1 MiB")
    except ValueError as error:
        yield Fault(path="resources.memory", message=str(error))
    known = {market.value for market in MARKETS}
    for market in sorted({*type.markets, *type.price_per_hour} - known):
        yield Fault(path="markets", message=f"{market!r} is none of {', '.join(sorted(known))}")
    for market, price in type.price_per_hour.items():
        if price < 0:
            yield Fault(path=f"price_per_hour.{market}", message=f"{price} is negative")


class Catalogue:
    """The instance types of a cloud; those of a ConfigMap are read when they are needed and kept for a minute."""

    def __init__(self, settings: Settings, api: Api) -> None:
        self._settings, self._api = settings, api
        self._lock = threading.Lock()
        self._read_at: datetime | None = None
        self._types: Mapping[str, InstanceType] = DEFAULTS
        if settings.instance_types:
            self._types = read_types(settings.instance_types, subject="setting instance_types of provider kubernetes")

    def types(self, *, deadline: datetime) -> Mapping[str, InstanceType]:
        """Return every type by name. Raises InvalidRequest for a ConfigMap that has faults, naming all of them."""
        name = self._settings.instance_types_config_map
        if not name:
            return self._types
        now = self._api.clock.now()
        with self._lock:
            if self._read_at is not None and now - self._read_at < FRESH:
                return self._types
        types = self._read(name, deadline)
        with self._lock:
            self._types, self._read_at = types, now
        return types

    def type(self, name: str, *, deadline: datetime) -> InstanceType:
        """Return one type. Raises InvalidRequest(UNSUPPORTED_VALUE) for a name that there is not."""
        types = self.types(deadline=deadline)
        if name not in types:
            raise InvalidRequest(
                f"there is no instance type {name!r}{nearest(name, dict(types))}", reason="UNSUPPORTED_VALUE",
                hint=f"choose one of {', '.join(sorted(types))}, or add it to the catalogue",
            )  # fmt: skip
        return types[name]

    def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
        """Return type x zone x market; which of them the cluster has room for, only its scheduler knows."""
        return tuple(
            Offering(
                instance_type=name, zone=zone, market_type=MarketType(market),
                price_per_hour=float(type.price_per_hour.get(market, 0.0)), resources=type.ray_resources(),
                startup=STARTUP, takes={"pods": 1.0, "requests.cpu": float(type.resources.CPU)},
            )
            for name, type in sorted(self.types(deadline=deadline).items())
            for zone in self._settings.zones or ("",)
            for market in type.markets
        )  # fmt: skip

    def _read(self, name: str, deadline: datetime) -> dict[str, InstanceType]:
        import yaml

        body = self._api.get(CONFIG_MAP, name, deadline=deadline)
        subject = f"the ConfigMap {name}"
        try:
            return read_types(yaml.safe_load((body.get("data") or {}).get(KEY, "")), subject=subject)
        except (SpecError, yaml.YAMLError) as error:
            raise InvalidRequest(str(error), reason="FIELD", resource=name, hint=f"mend its key {KEY}") from error
