"""From checks to rows: what is to be run for one provider, and why a row will not be."""

from collections.abc import Iterable

import attrs

from anyscale_conformance.faults.carriers import Carrier
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.kit import Kit
from anyscale_conformance.rules import Check, Hand, Needed, Uses
from anyscale_conformance.subjects import SUBJECTS
from anyscale_core.drivers.capability import CAPABILITIES
from anyscale_core.hookspecs import Provider

REFUSAL = "K-CAP-04"
"""Expanded to a row for each undeclared capability instead of for subjects."""
WORKS = "K-CAP-05"
"""Expanded to a row for each declared capability."""


@attrs.frozen(kw_only=True)
class Row:
    """One check for one subject (or capability). ``undeclared``: capabilities that it needs and the provider has not."""

    check: Check
    subject: str = ""
    undeclared: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """``X-IDEM-01[cluster]``, or the check's id alone."""
        return f"{self.check.id}[{self.subject}]" if self.subject else self.check.id


def rows_of(provider: Provider, checks: Iterable[Check]) -> tuple[Row, ...]:
    """Return the rows of a provider, by id: each check once for each of its subjects that the provider makes."""
    out: list[Row] = []
    for check in checks:
        out += (_row(provider, check, subject) for subject in _subjects(provider, check))
    return tuple(sorted(out, key=lambda row: row.id))


def missing(row: Row, kit: Kit, carrier: Carrier) -> tuple[str, ...]:
    """Return what the row needs of the kit and the kit does not offer, in words."""
    return tuple(_in_words(need) for need in row.check.uses if not _offers(kit, carrier, need))


def _offers(kit: Kit, carrier: Carrier, need: Needed) -> bool:
    if isinstance(need, Effect):
        return need in carrier.effects
    if isinstance(need, Hand):
        return need in kit.hands()
    return {
        Uses.JOURNAL: lambda: carrier.is_on_wire,
        Uses.WIRE: lambda: carrier.is_on_wire,
        Uses.TIMEOUTS: lambda: carrier.shows_timeouts,
        Uses.CLOCK: lambda: kit.is_virtual,
        Uses.CODES: lambda: any(True for _ in kit.wire_codes()),
    }[need]()


def _in_words(need: Needed) -> str:
    if isinstance(need, Effect):
        return f"the fault {need.value}"
    return f"the hand {need.value}" if isinstance(need, Hand) else need.value


def _row(provider: Provider, check: Check, subject: str) -> Row:
    if check.id in (REFUSAL, WORKS):
        return Row(check=check, subject=subject)
    needs = (*check.needs, *(SUBJECTS[subject].needs if subject else ()))
    undeclared = tuple(dict.fromkeys(need for need in needs if not provider.capabilities.has(need)))
    return Row(check=check, subject=subject, undeclared=undeclared)


def _subjects(provider: Provider, check: Check) -> tuple[str, ...]:
    """Return the names to expand a check for; ``("",)`` for one row, empty when it does not concern the provider."""
    slots = set(provider.slots())
    if not set(check.slots) <= slots:
        return ()
    if check.id == REFUSAL:
        return undeclared_of(provider)
    if check.id == WORKS:
        return tuple(id for id in CAPABILITIES if provider.capabilities.has(id) and _concerns(id, slots))
    if not check.on:
        return ("",)
    return tuple(name for name in check.on if SUBJECTS[name].slot in slots)


def undeclared_of(provider: Provider) -> tuple[str, ...]:
    """Return the capabilities of the provider's slots that it does not declare."""
    slots = set(provider.slots())
    return tuple(id for id in CAPABILITIES if not provider.capabilities.has(id) and _concerns(id, slots))


def _concerns(id: str, slots: set[str]) -> bool:
    slot = CAPABILITIES[id].slot
    # Adopting is for what has a name of the customer's: networks, buckets, identities.
    return slot in slots if slot else bool(slots - {"cluster"})
