"""The registry of checks: ``@check("X-IDEM-01", ...)`` on a plain function that takes a Context.

A check proves one promise of ``promises.PROMISES``. One that holds for several kinds of things is expanded to a row for each
that the provider makes: ``X-IDEM-01[cluster]``, ``X-IDEM-01[networking.endpoint]``.
"""

import enum
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs

from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.promises import PROMISES

if TYPE_CHECKING:
    from anyscale_conformance.context import Context

Run = Callable[["Context"], None]


class Level(enum.Enum):
    """Whether a failure costs the grade."""

    MUST = "must"
    SHOULD = "should"


class Uses(enum.Enum):
    """What a check needs of a kit beyond drivers and an inventory; without it the row is UNVERIFIED."""

    JOURNAL = "a journal of writes on the wire"
    WIRE = "faults on the wire, below the driver"
    TIMEOUTS = "a wire that shows how long each request may take"
    CLOCK = "a clock moved by hand"
    CODES = "the vendor's codes for each category"


class Hand(enum.Enum):
    """What a kit can do to its cloud behind the driver's back (``Kit.hands``); without it the row is UNVERIFIED."""

    SELL_OUT = "sell_out"
    """``(instance_type, zone=None)``: there are none to be had, in that zone or anywhere."""
    OVERBOOK = "overbook"
    """``(instance_type)``: the cloud accepts such instances, and finds out only then that there are none to be had."""
    RESTOCK = "restock"
    """``()``: everything is to be had again."""
    LIMIT = "limit"
    """``(instances)``: the account may have this many instances and no more; holds for drivers that are built later."""
    KILL = "kill"
    """``(name)``: the instance is gone without a word."""
    STOP = "stop"
    """``(name)``: the instance exists and does not run."""
    ANNOUNCE = "announce"
    """``(name)``: the cloud announces that it will take the instance back."""
    LAG = "lag"
    """``(window)``: lists are this old."""
    OFFER = "offer"
    """``(kind)``: let the customer have a network, bucket or identity; returns what a spec's ``adopt`` names it by.

    With ``no network`` and so on, return a well-formed name of one that does not exist.
    """
    ADD_DUPLICATE = "add_duplicate"
    """``(name)``: a second instance of that name and those tags exists, made behind the driver's back."""
    PROTECT = "protect"
    """``(name)``: the cloud refuses to delete the instance."""
    RELEASE = "release"
    """``(name)``: it does so no longer."""
    SPOIL = "spoil"
    """``(network)``: something is wrong with the network that a look over it must find."""
    FILL = "fill"
    """``(network)``: the network has no free address for another instance."""
    MAY = "may"
    """``(identity, bucket, key, access)``: whether the cloud lets this identity do that now; by trying, or by its own word."""
    SHARE = "share"
    """``(bucket, prefix)``: somebody else is let in there, behind the driver's back; the inventory shows it as a grant."""
    FOREIGN_PROOF = "foreign_proof"
    """``(audience, subject)``: return the genuine proof of a machine of another account."""
    USE_URL = "use_url"
    """``(url, method, body)``: do what a browser would with a signed URL; return the HTTP status and the body."""
    DAMAGE = "damage"
    """``(bucket)``: a byte of the next object that travels to or from this bucket is changed on the way."""


Needed = Uses | Hand | Effect


@attrs.frozen(kw_only=True)
class Check:
    """One check. ``on``: the subjects it is expanded for (``subjects.SUBJECTS``), empty for one row per provider.

    ``slots``: driver slots that the provider must fill. ``needs``: capability ids that it must declare, else the row is a
    verified refusal. ``uses``: what the kit must offer. ``why``: for a check that no mutant needs, why it is there.
    """

    id: str
    run: Run
    on: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    uses: tuple[Needed, ...] = ()
    level: Level = Level.MUST
    why: str = ""

    @property
    def sentence(self) -> str:
        """The promise, as docs/contract.md has it."""
        return PROMISES[self.id]

    @property
    def explanation(self) -> str:
        """How it is checked: the function's docstring."""
        return inspect.getdoc(self.run) or ""


CHECKS: dict[str, Check] = {}
"""Every check, by id; filled by ``load``."""


def check(
    id: str,
    *,
    on: tuple[str, ...] = (),
    slots: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    uses: tuple[Needed, ...] = (),
    level: Level = Level.MUST,
    why: str = "",
) -> Callable[[Run], Run]:
    """Register a function as the check of a promise. Raises ValueError for an unknown id, and for one that is taken."""
    if id not in PROMISES:
        raise ValueError(f"{id} is no promise of the contract; add it to docs/contract.md and promises.py first")

    def register(run: Run) -> Run:
        if id in CHECKS:
            raise ValueError(f"{id} is checked by {CHECKS[id].run.__module__} already; extend that check")
        CHECKS[id] = Check(id=id, run=run, on=on, slots=slots, needs=needs, uses=uses, level=level, why=why)
        return run

    return register


def load() -> Mapping[str, Check]:
    """Import every module of ``checks`` and return all that they register, by id in order."""
    package = importlib.import_module("anyscale_conformance.checks")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(CHECKS.items()))
