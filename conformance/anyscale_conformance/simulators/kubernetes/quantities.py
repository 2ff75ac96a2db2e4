"""Quantities (``500m``, ``1Gi``, ``2``): their value, and the canonical form in which an API server keeps them."""

import re
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from functools import lru_cache

_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE])|[eE]([+-]?\d+))?")

FAULT = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


@lru_cache(maxsize=4096)
def value(text: str) -> Decimal:
    """Return what a quantity is worth. Raises ValueError for what is none."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(FAULT)
    number, suffix, exponent = found.groups()
    try:
        if suffix in _BINARY:
            return Decimal(number) * _BINARY[suffix]
        return Decimal(number).scaleb(int(exponent) if exponent else _DECIMAL[suffix or ""])
    except (InvalidOperation, KeyError):
        raise ValueError(FAULT) from None


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """Return the one form of a quantity: no fraction, the largest suffix of its family. Raises ValueError for what is none.

    Source: k8s.io/apimachinery, pkg/api/resource, Quantity: 1.5 is 1500m, 1024Mi is 1Gi, 0.5Gi is 512Mi.
    """
    worth = value(text)
    found = _FORM.fullmatch(text)
    suffix = found[2] if found else None
    if suffix in _BINARY and worth == worth.to_integral_value() and abs(worth) >= 1024:
        return _largest(int(worth), tuple(_BINARY.items())[::-1])
    return show(worth)


def show(worth: Decimal) -> str:
    """Return the decimal form of a value; what is finer than a nano is rounded up."""
    nano = int(worth.scaleb(9).to_integral_value(ROUND_CEILING))
    if nano == 0:
        return "0"
    scales = [("E", 27), ("P", 24), ("T", 21), ("G", 18), ("M", 15), ("k", 12), ("", 9), ("m", 6), ("u", 3), ("n", 0)]
    return _largest(nano, tuple((suffix, 10**exponent) for suffix, exponent in scales))


def show_binary(worth: Decimal) -> str:
    """Return the binary form of a value (``4Gi``), as sums of memory are shown."""
    if worth != worth.to_integral_value() or abs(worth) < 1024:
        return show(worth)
    return _largest(int(worth), tuple(_BINARY.items())[::-1])


def _largest(number: int, scales: tuple[tuple[str, int], ...]) -> str:
    for suffix, size in scales:
        if number % size == 0:
            return f"{number // size}{suffix}"
    return str(number)
