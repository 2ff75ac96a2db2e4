"""The ``filter``, ``orderBy``, ``maxResults`` and ``pageToken`` of lists.

Two kinds of expressions, never mixed in one filter: comparisons (``labels.a = b``, ``name:*``, ``a OR b``, ``NOT a``,
``-a``), and ``field eq regex`` or ``field ne regex``, whose value has to match the whole field. Source: the text of the
``filter`` parameter in the discovery document of compute; AIP-160.
"""

import base64
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.schema import Json

Test = Callable[[Json], bool]
T = TypeVar("T")
TOKEN = re.compile(
    r"""\s*(?:(?P<sign>[()])|(?P<op><=|>=|!=|=|<|>|:)|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<word>[^\s()=!<>:"']+))"""
)
NOTHING = object()


def parse(text: str) -> Test:
    """Return the test that a filter stands for. Raises 400 for what is none."""
    if not text.strip():
        return lambda _: True
    return _Parser(text).parse()


def page(
    items: Sequence[T], *, key: Callable[[T], Sequence[Any]], size: int, token: str, scope: str
) -> tuple[Sequence[T], str]:
    """Return one page of items in the order of their keys, and the token of the next: it comes after the last one shown.

    So what is deleted between two pages hides nothing. ``scope`` binds a token to its query. Raises 400 for one of another.
    """
    rest = [item for item in items if list(key(item)) > after] if (after := _opened(token, scope)) else list(items)
    shown = rest[:size]
    return shown, _sealed(list(key(shown[-1])), scope) if len(rest) > size else ""


def bad_token(token: str) -> ApiError:
    """Return the 400 for a page token that is not one of this query."""
    return ApiError(400, "invalid", f"Invalid value for field 'pageToken': '{token}'. Page token is invalid.")


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            found = TOKEN.match(text, at)
            if found is None:
                raise self._bad()
            self._tokens.append((str(found.lastgroup), found.group(str(found.lastgroup))))
            at = found.end()
        self._at = 0
        self._kinds: set[str] = set()

    def parse(self) -> Test:
        test = self._any()
        if self._at < len(self._tokens) or len(self._kinds) > 1:
            raise self._bad()
        return test

    def _any(self) -> Test:
        tests = [self._all()]
        while self._is("word", "OR"):
            self._at += 1
            tests.append(self._all())
        return lambda item: any(test(item) for test in tests)

    def _all(self) -> Test:
        tests = [self._one()]
        while self._at < len(self._tokens) and not self._is("sign", ")") and not self._is("word", "OR"):
            if self._is("word", "AND"):
                self._at += 1
            tests.append(self._one())
        return lambda item: all(test(item) for test in tests)

    def _one(self) -> Test:
        if self._is("word", "NOT"):
            self._at += 1
            inner = self._one()
            return lambda item: not inner(item)
        if self._is("sign", "("):
            self._at += 1
            inner = self._any()
            if not self._is("sign", ")"):
                raise self._bad()
            self._at += 1
            return inner
        kind, field = self._next()
        if kind != "word":
            raise self._bad()
        if field.startswith("-"):
            negated = self._comparison(field[1:])
            return lambda item: not negated(item)
        return self._comparison(field)

    def _comparison(self, field: str) -> Test:
        kind, op = self._next()
        if kind == "word" and op in ("eq", "ne"):
            self._kinds.add("regex")
            pattern, path = re.compile(_plain(self._next()[1])), field.split(".")
            return lambda item: any(pattern.fullmatch(_text(value)) for value in _values(item, path)) == (op == "eq")
        if kind != "op":
            raise self._bad()
        self._kinds.add("comparison")
        kind, word = self._next()
        if kind not in ("word", "text"):
            raise self._bad()
        return _compared(field.split("."), op, word)

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise self._bad()
        self._at += 1
        return self._tokens[self._at - 1]

    def _is(self, kind: str, text: str) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at] == (kind, text)

    def _bad(self) -> ApiError:
        return ApiError(
            400, "invalid", f"Invalid value for field 'filter': '{self._text}'. Invalid list filter expression."
        )


def _compared(path: Sequence[str], op: str, word: str) -> Test:
    """Return the test of one comparison, prepared once for all items."""
    if op == ":" and word == "*":
        return lambda item: bool(_values(item, path))
    if op == "!=":
        equal = _compared(path, "=", word)
        return lambda item: not equal(item)
    fits = _fitting(op, word)
    return lambda item: any(fits(_text(value)) for value in _values(item, path))


def _fitting(op: str, word: str) -> Callable[[str], bool]:
    wanted = _plain(word)
    if op == "=" and word[:1] not in "\"'" and "*" in wanted:
        pattern = re.compile(".*".join(re.escape(part) for part in wanted.split("*")), re.IGNORECASE)
        return lambda text: pattern.fullmatch(text) is not None
    if op == "=":
        return wanted.__eq__
    if op == ":":
        return lambda text: wanted.lower() in text.lower()
    return lambda text: _ordered(text, op, wanted)


def _ordered(left: str, op: str, right: str) -> bool:
    try:
        a: Any = float(left)
        b: Any = float(right)
    except ValueError:
        a, b = left, right
    return bool({"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op])


def _values(item: Any, path: Sequence[str]) -> list[Any]:
    """Return what stands at a path; lists are looked through, and what is empty is not there."""
    for at, word in enumerate(path):
        if isinstance(item, list):
            return [value for part in item for value in _values(part, path[at:])]
        if not isinstance(item, dict) or word not in item:
            return []
        item = item[word]
    if isinstance(item, list):
        return list(item)
    return [] if item is None or item == {} else [item]


def _plain(word: str) -> str:
    if word[:1] in ("'", '"') and word[-1:] == word[:1] and len(word) > 1:
        return re.sub(r"\\(.)", r"\1", word[1:-1])
    return word


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def text_token(text: str, *, scope: str) -> str:
    """Return the token of a page that comes after a name."""
    return _sealed([text], scope)


def token_text(token: str, *, scope: str) -> str:
    """Return the name that a page comes after; empty for no token. Raises 400 for a token of another query."""
    return str(_opened(token, scope)[0]) if token else ""


def _sealed(key: Sequence[Any], scope: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([key, scope]).encode()).decode()


def _opened(token: str, scope: str) -> list[Any]:
    if not token:
        return []
    try:
        key, whose = json.loads(base64.urlsafe_b64decode(token))
    except ValueError:
        raise bad_token(token)
    if whose != scope or not isinstance(key, list):
        raise bad_token(token)
    return key
