"""Profiles: parts of the contract that a provider may be graded for."""

from collections.abc import Mapping

from anyscale_conformance.rows import Row

_SERIES = {"C": "cluster", "I": "identity", "S": "storage", "N": "networking", "P": "cluster"}

PROFILES: Mapping[str, frozenset[str]] = {
    "core-compute": frozenset({"cluster"}),
    "core-identity": frozenset({"identity"}),
    "core-storage": frozenset({"storage"}),
    "core-network": frozenset({"networking"}),
    "full-platform": frozenset({"cluster", "identity", "storage", "networking"}),
}
"""Driver slots by profile. What concerns no slot, such as the loading of the plugin, is part of each."""


def slots_of(row: Row) -> frozenset[str]:
    """Return the driver slots that a row is about; empty for the plugin as a whole."""
    if row.subject:
        return frozenset({row.subject.partition(".")[0]}) & PROFILES["full-platform"]
    series = row.check.id.partition("-")[0]
    return frozenset(row.check.slots) or frozenset({_SERIES[series]} if series in _SERIES else ())


def belongs(row: Row, profile: str) -> bool:
    """Tell whether a row is part of a profile."""
    return slots_of(row) <= PROFILES[profile]
