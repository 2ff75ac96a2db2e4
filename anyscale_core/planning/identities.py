"""Whom a cluster's nodes run as: the cloud's ordered rules over who wants what, the first that fits wins."""

from collections.abc import Iterator

from anyscale_core.errors import Fault, SpecError
from anyscale_core.models.cloud import CloudSpec, NodeIdentity, Unmapped, Workload
from anyscale_core.models.selector import Selector

KEYS = frozenset({"workload-type", "project", "user"})
"""What a selector may ask for."""


def identity_for(cloud: CloudSpec, workload: Workload) -> str:
    """Return the name of the identity that a workload runs as; empty for the cloud's own.

    Raises SpecError when no rule fits and the cloud's ``unmapped`` is FAIL.
    """
    labels = workload.labels()
    for rule in cloud.identity_rules:
        if Selector.parse(rule.selector).fits(labels):
            return rule.identity.name or ""
    if cloud.identity_rules and cloud.unmapped is Unmapped.FAIL:
        asked = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
        why = f"no identity of cloud {cloud.name} is for {asked}; ask its owner for a rule"
        raise SpecError([Fault(path="cloud", message=why)], subject="cluster")
    return ""


def mapped(cloud: CloudSpec) -> dict[str, NodeIdentity]:
    """Return the identities that a cloud's rules name, by name, in the order of the rules."""
    return {rule.identity.name: rule.identity for rule in cloud.identity_rules if rule.identity.name}


def faults_of(cloud: CloudSpec) -> Iterator[Fault]:
    """Yield all that is wrong with a cloud's rules."""
    own = cloud.node_identity.name if cloud.node_identity is not None else None
    first: dict[str, NodeIdentity] = {}
    for index, rule in enumerate(cloud.identity_rules):
        path = f"identity_rules[{index}]"
        try:
            unknown = sorted(Selector.parse(rule.selector).keys - KEYS)
        except ValueError as error:
            yield Fault(path=f"{path}.selector", message=str(error))
        else:
            for key in unknown:
                known = ", ".join(sorted(KEYS))
                yield Fault(path=f"{path}.selector", message=f"unknown key {key!r}; known: {known}")
        name = rule.identity.name
        if not name:
            yield Fault(path=f"{path}.identity.name", message="is required")
        elif name == own:
            yield Fault(
                path=f"{path}.identity.name", message=f"{name!r} is the cloud's own identity; leave the rule out"
            )
        elif first.setdefault(name, rule.identity) != rule.identity:
            yield Fault(path=f"{path}.identity", message=f"differs from the identity {name!r} of a rule before")
