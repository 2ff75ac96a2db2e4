"""Mutators for any provider: layers that break a driver from above, so that an author can try the suite on his own kit."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from anyscale_conformance.kit import Kit
from anyscale_core.drivers.base import Driver, DriverConfig
from anyscale_core.drivers.layers import Call, Layer, Next, layered
from anyscale_core.errors import NotFound, Unsupported
from anyscale_core.hookspecs import Provider
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner


@attrs.frozen(kw_only=True)
class Mutator:
    """One way to break any driver, and the checks of which one at least must see it."""

    says: str
    caught_by: tuple[str, ...]
    layer: Layer


def broken(kit: type[Kit], mutator: Mutator) -> type[Kit]:
    """Return the kit of the provider with all of its drivers broken in this way."""

    class Broken(kit):  # type: ignore[misc, valid-type]
        def provider(self) -> Provider:
            provider: Provider = super().provider()
            factories: dict[str, Any] = {
                slot: _behind(getattr(provider, slot), mutator.layer) for slot in provider.slots()
            }
            return attrs.evolve(provider, **factories)

    Broken.name = kit.name
    return Broken


def _behind(factory: Callable[[DriverConfig], Driver], layer: Layer) -> Callable[[DriverConfig], Driver]:
    return lambda config: layered(factory(config), layer)


def _lists_one_less(call: Call, next: Next, /) -> Any:
    found = next(call)
    return found[:-1] if call.verb == "list" else found


def _lists_one_twice(call: Call, next: Next, /) -> Any:
    found = next(call)
    return found + found[:1] if call.verb == "list" else found


def _lists_all_clusters(call: Call, next: Next, /) -> Any:
    if call.verb != "list" or not isinstance(call.args[0], Owner):
        return next(call)
    return next(attrs.evolve(call, args=(attrs.evolve(call.args[0], cluster=None),)))


def _deletes_nothing(call: Call, next: Next, /) -> Any:
    if call.verb != "delete":
        return next(call)
    return dict.fromkeys(call.args[0], Deletion.GONE) if call.slot == "cluster" else Deletion.GONE


def _absent_raises(call: Call, next: Next, /) -> Any:
    answer = next(call)
    answers = answer.values() if isinstance(answer, Mapping) else (answer,)
    if call.verb == "delete" and Deletion.ALREADY_ABSENT in answers:
        raise NotFound("there is nothing of that name", reason="RESOURCE")
    return answer


def _refuses_by_another_name(call: Call, next: Next, /) -> Any:
    try:
        return next(call)
    except Unsupported as error:
        raise Unsupported(error.message, reason="not.supported") from error


def _writes_into_the_spec(call: Call, next: Next, /) -> Any:
    answer = next(call)
    specs = call.args[0] if call.slot == "cluster" and call.verb == "create" else call.args[:1]
    for spec in specs if call.verb == "create" else ():
        tags = getattr(spec, "tags", None)
        if isinstance(tags, dict):
            tags["seen"] = "yes"
    return answer


def _raises_its_own(call: Call, next: Next, /) -> Any:
    try:
        return next(call)
    except NotFound as error:
        raise LookupError(str(error)) from error


MUTATORS: Mapping[str, Mutator] = {
    "ListsOneLess": Mutator(
        says="Each list lacks its last thing.", caught_by=("X-PAGE-02", "X-EC-01"), layer=_lists_one_less
    ),
    "ListsOneTwice": Mutator(
        says="Each list has its first thing twice.", caught_by=("X-PAGE-02",), layer=_lists_one_twice
    ),
    "ListsAllClusters": Mutator(
        says="A list shows other clusters' things.", caught_by=("X-OWN-02",), layer=_lists_all_clusters
    ),
    "DeletesNothing": Mutator(
        says="A delete says GONE and does nothing.", caught_by=("X-LEAK-01",), layer=_deletes_nothing
    ),
    "AbsentRaises": Mutator(
        says="Deleting the absent raises NotFound.", caught_by=("X-IDEM-05",), layer=_absent_raises
    ),
    "RefusesByAnotherName": Mutator(
        says="Unsupported does not name the capability.", caught_by=("K-CAP-04",), layer=_refuses_by_another_name
    ),
    "WritesIntoTheSpec": Mutator(
        says="The spec's tags are written into.", caught_by=("X-ISO-01",), layer=_writes_into_the_spec
    ),
    "RaisesItsOwn": Mutator(
        says="NotFound leaves as a LookupError.", caught_by=("X-OWN-02", "C-GET-01"), layer=_raises_its_own
    ),
}
"""By name. Not all concern every provider: one that declares everything refuses nothing."""
