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


_TABLE = (
    # id (its first word is the slot), level, verb, what it says
    ("cluster.batch", Level.CORE, "create", "A batch of equal specs is one call."),
    ("cluster.spot", Level.EXTENDED, "create", "Offerings have a SPOT market."),
    ("cluster.zones", Level.EXTENDED, "create", "Instances are placed in a zone of the spec."),
    ("cluster.images", Level.EXTENDED, "create", "image_uri is honoured."),
    ("cluster.notices", Level.EXTENDED, "list", "Interruptions are announced on the instance."),
    ("cluster.volumes", Level.EXTENDED, "create", "A volume, and where possible an address, outlives its instance."),
    ("cluster.quotas", Level.EXTENDED, "quotas", "Quotas are known before they are hit."),
    ("identity.create", Level.EXTENDED, "create", "Identities can be made, not only adopted."),
    ("identity.credentials", Level.EXTENDED, "credentials", "Short-lived credentials are handed out."),
    ("identity.prove", Level.CORE, "prove", "A node can prove itself."),
    ("identity.binds_instance", Level.EXTENDED, "", "A proof names the very instance."),
    ("storage.signed_urls", Level.EXTENDED, "signed_url", "URLs that are good for one method and a time."),
    ("storage.grants", Level.CORE, "grant", "Access is granted by prefix."),
    ("networking.expose", Level.CORE, "expose", "A head can be reached from outside."),
    ("networking.create", Level.EXTENDED, "create", "Networks can be made, not only adopted."),
    ("adopt", Level.EXTENDED, "create", "What the customer already has can be adopted."),
)

CAPABILITIES: Mapping[str, Capability] = {
    id: Capability(id=id, slot=id.partition(".")[0] if "." in id else "", level=level, verb=verb, says=says)
    for id, level, verb, says in _TABLE
}
"""Every capability of this contract, by id."""


@attrs.frozen(kw_only=True)
class Capabilities:
    """What one provider claims: pure, offline, stable. ``windows`` are declared times that waits are scaled to.

    ``numbers``: ``list.page_size``, ``name.max_len``, ``tags.max``, ``create.batch_max``,
    ``list.lists`` (how many of the cloud's lists one list reads, page by page; 1 unless it says more). ``windows``:
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
        out = [f"unknown capability {unknown!r}" for unknown in sorted((claimed | set(self.unsupported)) - known)]
        out += [f"{both} is both claimed and unsupported" for both in sorted(claimed & set(self.unsupported))]
        for capability in CAPABILITIES.values():
            if capability.level is Level.CORE and capability.slot in slots and capability.id not in claimed:
                out.append(f"core capability {capability.id} is missing")
        return tuple(out)
