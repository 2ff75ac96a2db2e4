"""The model: what the cloud must hold after any sequence of calls, and how it is compared with the oracle; ``moves`` calls.

It knows what each owner has asked for, by subject: what is there, what is going, what is gone, and what hangs on what.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs

from anyscale_conformance.checks.repeats import ATTEMPTS
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal
from anyscale_conformance.faults.plan import Crashed, Effect
from anyscale_conformance.kit import Item
from anyscale_conformance.programs import Draw
from anyscale_conformance.rules import Hand
from anyscale_conformance.subjects import BATCH, ENDPOINT, Subject
from anyscale_core.errors import AlreadyExists, CloudError, Conflict, Retry
from anyscale_core.models.ids import ClusterId, Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner

POOL = 2
"""How many names an owner's things of a kind share, so that they meet."""


@attrs.define(kw_only=True, eq=False)
class Thing:
    """Something that was asked for. ``names``: of its items. ``state``: live, going, gone, moved by a newer order, forgotten."""

    subject: str
    spec: Any
    token: Token
    key: str
    born: int
    """The step that made it."""
    names: tuple[str, ...]
    parent: "Thing | None" = None
    state: str = "live"

    @property
    def owner(self) -> Owner:
        """Whose it is."""
        owner: Owner = self.spec.owner
        return owner

    def __str__(self) -> str:
        return f"{self.subject} {self.names[0]}"


class Model:
    """What one program has asked for so far."""

    def __init__(self, ctx: Context, subjects: tuple[str, ...]) -> None:
        self.ctx, self.subjects = ctx, subjects
        self.things: list[Thing] = []
        self.story: list[str] = []
        self.serial = 0
        """The step that runs now."""
        sister = attrs.evolve(ctx.owner, cluster=ClusterId(f"{ctx.owner.cluster}b"))
        self.owners = {"ours": ctx.owner, "a stranger's": ctx.stranger, "a sister's": sister}
        """By what a story calls them. A sister: another cluster of the same plane and cloud."""
        for name in subjects:  # what they hang on is made once, and is no part of the model
            for owner in self.owners.values():
                ctx.subject(name).spec(owner=owner)
        self.base = {item.key for item in ctx.inventory()}
        self.pool = {name: [ctx.name() for _ in range(POOL)] for name in subjects}

    def expect_nothing_more_and_nothing_less(self) -> None:
        """Compare the oracle with the model: every live thing once, as it was last ordered, and no other but what is going."""
        items = self.ctx.inventory()
        self.settle(items)
        going = [item for thing in self.of("going") for item in self.items(thing, items)]
        back = ", ".join(str(item) for item in going if item.state in ("pending", "running", "ready"))
        expect(not back, f"{back} was being deleted, and is not any more")
        known = {item.key for item in going}
        for thing in self.of("live"):
            found = self.items(thing, items)
            expect_equal(sorted(item.name for item in found), sorted(thing.names), f"what exists of {thing}")
            target = found[0].detail.get("target")
            if thing.subject == ENDPOINT and target is not None:
                port = target.rpartition(":")[2]
                expect_equal(port, str(thing.spec.target_port), f"the port that {thing} leads to, by its last order,")
            known |= {item.key for item in found}
        kinds = {self.ctx.subject(name).kind for name in self.subjects}
        new = [item for item in items if item.key not in self.base and item.kind in kinds]
        leaked = ", ".join(str(item) for item in new if item.key not in known)
        expect(not leaked, f"nobody asked for {leaked}, and it is there")

    # What rules are made of ----------------------------------------------------------------------------------------

    def tell(self, what: str, it: Subject | None = None, spec: Any = None) -> None:
        """Write a step into the story."""
        words = [what] if it is None else [what, it.name]
        if spec is not None:
            words += [spec.name, "of", next(who for who, owner in self.owners.items() if owner == spec.owner)]
        self.story.append(" ".join(words))

    def of(self, *states: str) -> list[Thing]:
        """Return the things in these states, oldest first."""
        return [thing for thing in self.things if thing.state in states]

    def one(self, draw: Draw, *states: str) -> list[Thing]:
        """Return one of the things in these states, or none when there is none."""
        return draw.one(self.of(*states))

    def is_live(self, thing: Thing) -> bool:
        """Tell whether its owner has something live of that name."""
        wanted = (thing.subject, thing.owner, thing.spec.name)
        return any((other.subject, other.owner, other.spec.name) == wanted for other in self.of("live"))

    def alone(self, draw: Draw, hand: Hand) -> list[Thing]:
        """Return one live instance that has its name to itself, as hands go by names; none when the kit has not the hand."""
        used = [name for thing in self.of("live", "going") for name in thing.names]
        found = [t for t in self.of("live") if t.subject == "cluster" and used.count(t.names[0]) == 1]
        return draw.one(found if hand in self.ctx.hands else [])

    def has(self, key: str, owner: Owner) -> bool:
        """Tell whether an owner has something of that key."""
        return any(thing.key == key and thing.owner == owner for thing in self.of("live", "going"))

    def it(self, thing: Thing) -> Subject:
        """Return the subject of a thing."""
        return self.ctx.subject(thing.subject)

    def spec(self, draw: Draw) -> tuple[Subject, Any, Thing | None]:
        """Return what is to be made, and the network that it hangs on when that is one of the model's."""
        it, owners = self.ctx.subject(draw.of(self.subjects)), tuple(self.owners.values())
        owner = draw.of((owners[0], *owners))  # ours twice as often, so that its own things meet
        # A batch meets no other: an item that cannot be made would leave the rest of it there.
        spec = it.spec(None if it.name == BATCH else draw.of(self.pool[it.name]), owner=owner)
        networks = [thing for thing in self.of("live") if thing.subject == "networking" and thing.owner == owner]
        hangs = it.name in ("cluster", ENDPOINT) and draw.of(("alone", "hanging", "hanging")) == "hanging"
        network = next(iter(draw.one(networks if hangs else [])), None)
        if it.name == ENDPOINT:
            spec = attrs.evolve(spec, target_port=spec.target_port + draw.of((0, 1, 2)))
        return it, spec if network is None else attrs.evolve(spec, network=network.spec.name), network

    def create(self, it: Subject, spec: Any, network: Thing | None) -> None:
        """Create, and hold the outcome against what the model knows of the name."""
        token = self.ctx.token()
        alike = [t for t in self.of("live", "going") if t.subject == it.name and t.spec.name == spec.name]
        mine = [thing for thing in alike if thing.owner == spec.owner]
        try:
            made = self.through(lambda: it.create(spec, token=token))
        except (AlreadyExists, Conflict) as error:
            expect(alike, f"the name {spec.name} is free, and creating the {it.name} raised {error}")
            going = [thing for thing in alike if thing.state == "going"]
            moves = it.name == ENDPOINT and mine and not going
            expect(not moves, f"a newer order for {it.name} {spec.name} is to move it, and raised {error}")
            if isinstance(error, AlreadyExists):
                near = [t for t in alike if (t.owner.plane, t.owner.cloud) == (spec.owner.plane, spec.owner.cloud)]
                right = ("OWNED", "FOREIGN") if 0 < len(near) < len(alike) else ("OWNED",) if near else ("FOREIGN",)
                expect(error.reason in right, f"{it.name} {spec.name} is {right[0]}, and refused as {error.reason}")
            return
        was_live = any(thing.state == "live" for thing in mine)
        expect(not was_live or it.name == ENDPOINT, f"{it.name} {spec.name} was there, and another token made it again")
        for thing in mine:  # its place is taken: a way in was moved, or what was going is gone
            thing.state = "moved" if thing.state == "live" else "gone"
        names = tuple(each.name for each in spec.specs) if it.name == BATCH else (spec.name,)
        thing = Thing(
            subject=it.name, spec=spec, token=token, key=it.key(made), born=self.serial, names=names, parent=network
        )
        self.things.append(thing)

    def delete(self, thing: Thing) -> Deletion | None:
        """Delete what is live; return the answer, None when it was refused, which is right while something hangs on it."""
        children = [child for child in self.of("live", "going") if child.parent is thing]
        try:
            answer: Deletion = self.through(lambda: self.it(thing).delete(thing.key, owner=thing.owner))
        except Conflict as error:
            is_used = children and error.reason in ("IN_USE", "BUSY")
            expect(is_used, f"deleting {thing}, in which there are {len(children)} others, raised {error}")
            return None
        live = ", ".join(str(child) for child in children if child.state == "live")
        expect(not live, f"{thing} was deleted while {live} used it")
        thing.state = "going"
        for older in self.of("moved"):
            if (older.subject, older.owner, older.spec.name) == (thing.subject, thing.owner, thing.spec.name):
                # The orders before it may be forgotten with it: the core never repeats one that a newer one has overtaken.
                older.state = "forgotten"
        return answer

    @contextlib.contextmanager
    def fault(self, effect: Effect) -> Iterator[None]:
        """Let the effect strike the next write of the block, where the carrier can."""
        if effect not in self.ctx.carrier.effects:
            yield
            return
        fault = self.ctx.inject(effect, may_miss=True)
        try:
            yield
        finally:
            fault.lift()

    def through(self, act: Callable[[], Any]) -> Any:
        """Call as the core would: again after a crash, and after an error that says that repeating helps."""
        for _ in range(ATTEMPTS):
            try:
                return act()
            except Crashed:
                self.ctx.restart()
            except CloudError as error:
                if error.retry not in (Retry.SAME, Retry.WITH_TOKEN) or isinstance(error, Conflict):
                    raise
        raise CheckFailed(f"repeating {ATTEMPTS} times with the token did not help")

    def items(self, thing: Thing, items: tuple[Item, ...] | None = None) -> list[Item]:
        """Return what exists of a thing, by its ids where it has such, else by its names and owner."""
        kind, ids = self.it(thing).kind, set(thing.key.split())
        every = self.ctx.inventory() if items is None else items
        named = [i for i in every if i.kind == kind and i.name in thing.names and thing.owner.owns(i.tags)]
        return [item for item in named if item.id in ids] if kind == "instance" else named

    def is_absent(self, thing: Thing) -> bool:
        """Tell whether nothing of a thing exists."""
        return not self.items(thing)

    def settle(self, items: tuple[Item, ...]) -> None:
        """Let what was going and does not exist any more be gone."""
        for thing in self.of("going"):
            if not self.items(thing, items):
                thing.state = "gone"

    def clear(self) -> None:
        """Delete all that is left, networks last, and wait until it is gone."""
        self.ctx.plan.clear()
        self.tell("delete all that is left")
        for thing in sorted(self.of("live", "going"), key=lambda thing: thing.subject == "networking"):
            self.ctx.eventually(partial(self.is_gone, thing), f"{thing} to be gone")

    def is_gone(self, thing: Thing) -> bool:
        """Delete a thing once more; return whether that is done."""
        try:
            return self.it(thing).delete(thing.key, owner=thing.owner) is not Deletion.GOING
        except Conflict as error:
            if error.reason not in ("IN_USE", "BUSY"):
                raise
            return False
