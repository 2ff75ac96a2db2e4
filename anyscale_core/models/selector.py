"""Selectors in the syntax of Kubernetes label selectors: ``a=b, c!=d, e in (f, g), h notin (i), j, !k``; all have to hold.

Source: Kubernetes documentation, Labels and Selectors. Values may have any character but blanks, commas and parentheses, so
that a user's e-mail address is one.
"""

import enum
import re
from collections.abc import Iterator, Mapping

import attrs

KEY = r"[\w./-]+"
VALUE = r"[^\s,()=!]*"
TERM = re.compile(
    rf"\s*(?:(?P<set>{KEY})\s+(?P<word>in|notin)\s*\((?P<values>[^()]*)\)"
    rf"|(?P<key>{KEY})\s*(?P<sign>==|=|!=)\s*(?P<value>{VALUE})"
    rf"|(?P<absent>!)?\s*(?P<exists>{KEY}))\s*(?P<end>,|$)"
)
HINT = "write a in (x, y), b notin (z), c=d, e!=f, g or !h"


class Operator(enum.Enum):
    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    ABSENT = "absent"


@attrs.frozen
class Term:
    """One requirement. NOT_IN holds for what has no such key, as in Kubernetes."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def fits(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.ABSENT:
                return self.key not in labels


@attrs.frozen
class Selector:
    """Requirements that all have to hold; without any, everything fits."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Selector":
        """Read a selector. Raises ValueError with the remedy."""
        return cls(tuple(_terms(text)))

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Tell whether ``labels`` meet every requirement."""
        return all(term.fits(labels) for term in self.terms)

    @property
    def keys(self) -> frozenset[str]:
        """The keys that it asks for."""
        return frozenset(term.key for term in self.terms)


def _terms(text: str) -> Iterator[Term]:
    place, expected = 0, bool(text.strip())
    while expected:
        found = TERM.match(text, place)
        if found is None:
            raise ValueError(f"{text!r} is not a selector; {HINT}")
        yield _term(found)
        place, expected = found.end(), found["end"] == ","


def _term(found: re.Match[str]) -> Term:
    if found["set"]:
        values = frozenset(value.strip() for value in found["values"].split(","))
        return Term(found["set"], Operator(found["word"]), values)
    if found["key"]:
        operator = Operator.NOT_IN if found["sign"] == "!=" else Operator.IN
        return Term(found["key"], operator, frozenset({found["value"]}))
    return Term(found["exists"], Operator.ABSENT if found["absent"] else Operator.EXISTS)
