"""Capabilities as records: what a provider says it can do, and how far."""

import enum
from collections.abc import Iterable, Mapping
from datetime import timedelta

import attrs

from anyscale_core.errors import Unsupported


class Level(enum.Enum):
    CORE = "core"
    """Every driver of the slot has it."""
    EXTENDED = "extended"
    EXPERIMENTAL = "experimental"


@attrs.frozen(kw_only=True)
class Capability:
    """One optional power or number of the contract. ``verb`` is the driver method that refuses when it is absent."""

    id: str
    slot: str
    level: Level
    says: str
    verb: str = ""
    since: str = "1.0"


CAPABILITIES: Mapping[str, Capability] = {
    capability.id: capability
    for capability in (
        Capability(id="cluster.batch", slot="cluster", level=Level.CORE, says="A batch of equal specs is one call.", verb="create"),
        Capability(id="cluster.spot", slot="cluster", level=Level.EXTENDED, says="Offerings have a SPOT market.", verb="create"),
        Capability(id="cluster.zones", slot="cluster", level=Level.EXTENDED, says="Instances are placed in a zone of the spec.", verb="create"),
        Capability(id="cluster.images", slot="cluster", level=Level.EXTENDED, says="image_uri is honoured.", verb="create"),
        Capability(id="cluster.notices", slot="cluster", level=Level.EXTENDED, says="Interruptions are announced on the instance.", verb="list"),
        Capability(id="cluster.quotas", slot="cluster", level=Level.EXTENDED, says="Quotas are known before they are hit.", verb="quotas"),
        Capability(id="identity.create", slot="identity", level=Level.EXTENDED, says="Identities can be made, not only adopted.", verb="create"),
        Capability(id="identity.credentials", slot="identity", level=Level.EXTENDED, says="Short-lived credentials are handed out.", verb="credentials"),
        Capability(id="identity.prove", slot="identity", level=Level.CORE, says="A node can prove itself.", verb="prove"),
        Capability(id="identity.binds_instance", slot="identity", level=Level.EXTENDED, says="A proof names the very instance."),
        Capability(id="storage.signed_urls", slot="storage", level=Level.EXTENDED, says="URLs that are good for one method and a time.", verb="signed_url"),
        Capability(id="storage.grants", slot="storage", level=Level.CORE, says="Access is granted by prefix.", verb="grant"),
        Capability(id="networking.expose", slot="networking", level=Level.CORE, says="A head can be reached from outside.", verb="expose"),
        Capability(id="networking.create", slot="networking", level=Level.EXTENDED, says="Networks can be made, not only adopted.", verb="create"),
        Capability(id="adopt", slot="", level=Level.EXTENDED, says="What the customer already has can be adopted.", verb="create"),
    )
}  # fmt: skip
"""Every capability of this contract, by id."""


@attrs.frozen(kw_only=True)
class Capabilities:
    """What one provider claims: pure, offline, stable. ``windows`` are declared times that waits are scaled to.

    ``numbers``: ``list.page_size``, ``name.max_len``, ``tags.max``, ``create.batch_max``. ``windows``:
    ``consistency.list`` (a thing created is listed within), ``consistency.delete``, ``token.lifetime``.
    """

    supported: frozenset[str] = frozenset()
    emulated: Mapping[str, str] = attrs.field(factory=dict)
    """Works by our own doing: id -> note."""
    unsupported: Mapping[str, str] = attrs.field(factory=dict)
    """id -> why."""
    numbers: Mapping[str, int] = attrs.field(factory=dict)
    windows: Mapping[str, timedelta] = attrs.field(factory=dict)

    def has(self, id: str) -> bool:
        """Tell whether the capability can be used, natively or emulated."""
        return id in self.supported or id in self.emulated

    def require(self, id: str) -> None:
        """Raise Unsupported, with the capability's id as its reason, unless the provider has it."""
        if not self.has(id):
            why = self.unsupported.get(id, "the provider does not declare it")
            raise Unsupported(f"{id} is not supported: {why}", reason=id)

    def faults(self, slots: Iterable[str]) -> tuple[str, ...]:
        """Return what is wrong with these claims for a provider of ``slots``; empty when they are sound."""
        slots = set(slots)
        known = set(CAPABILITIES)
        claimed = self.supported | set(self.emulated)
        out = [f"unknown capability {id!r}" for id in sorted((claimed | set(self.unsupported)) - known)]
        out += [f"{id} is both claimed and unsupported" for id in sorted(claimed & set(self.unsupported))]
        for capability in CAPABILITIES.values():
            if capability.level is Level.CORE and capability.slot in slots and capability.id not in claimed:
                out.append(f"core capability {capability.id} is missing")
        return tuple(out)
