"""Every type there is, by its name in small letters."""

from anyscale_conformance.simulators.azure.kinds import Kind
from anyscale_conformance.simulators.azure.wire import Target

KINDS: dict[str, Kind] = {}
"""Filled by ``register``: the modules of rules do so when they are imported."""
PLAIN = {"microsoft.resources/resourcegroups": "Microsoft.Resources/resourceGroups"}


def register(kind: type[Kind]) -> type[Kind]:
    """Let a type be."""
    KINDS[kind.type.lower()] = kind()
    return kind


def known_type(target: Target) -> str:
    """Return the type that a path names in the words it is registered by; words that nobody knows as they were written."""
    for count in range(len(target.words), 0, -1):
        start = "/".join(target.words[:count]).lower()
        known = KINDS[start].type if start in KINDS else PLAIN.get(start)
        if known is not None:
            return "/".join((known, *target.words[count:]))
    return "/".join(target.words)
