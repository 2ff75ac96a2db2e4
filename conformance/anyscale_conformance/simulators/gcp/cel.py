"""The part of the Common Expression Language that IAM conditions and workload identity pools are written in.

Source: cloud.google.com/iam/docs/conditions-attribute-reference and .../workload-identity-federation#conditions; the grammar is
that of github.com/google/cel-spec, without macros over lists and without arithmetic.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

Scope = Mapping[str, Any]
Expression = Callable[[Scope], Any]
TOKEN = re.compile(
    r"""\s*(?:(?P<text>[rR]?"(?:[^"\\]|\\.)*"|[rR]?'(?:[^'\\]|\\.)*')|(?P<number>\d+)|(?P<word>[A-Za-z_]\w*)"""
    r"""|(?P<sign>&&|\|\||==|!=|<=|>=|[-!<>()\[\].,?:+]))"""
)
RELATIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "in": lambda item, many: item in many,
}  # fmt: skip
METHODS: Mapping[str, Callable[..., Any]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": lambda text, part: part in text,
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
    "size": len,
    "split": lambda text, by: text.split(by),
    "lowerAscii": str.lower,
    "upperAscii": str.upper,
    "join": lambda parts, by="": by.join(parts),
    "extract": lambda text, template: _extract(text, template),
    "getAttribute": lambda attributes, name, default: attributes.get(name, default),
}
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "timestamp": lambda text: datetime.fromisoformat(text),
    "duration": lambda text: timedelta(seconds=float(text.removesuffix("s"))),
    "size": len,
    "string": str,
    "int": int,
}


class CelError(Exception):
    """An expression that is none, or that has no value in this scope (a field that is not there)."""


def parse(text: str) -> Expression:
    """Return the expression. Raises CelError."""
    return _Parser(text).parse()


def holds(text: str, scope: Scope) -> bool:
    """Return whether a condition holds; one that has no value does not, as IAM reads it. Raises CelError for no condition."""
    expression = parse(text)
    try:
        return expression(scope) is True
    except CelError:
        return False


def operators(text: str) -> int:
    """Return how many logical operators an expression has. Raises CelError."""
    return sum(token in (("sign", "&&"), ("sign", "||"), ("sign", "!")) for token in _Parser(text).tokens)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            found = TOKEN.match(text, at)
            if found is None:
                raise CelError(f"unexpected {text[at : at + 10]!r} in {text!r}")
            kind = str(found.lastgroup)
            self.tokens.append((kind, found.group(kind)))
            at = found.end()
        self._at = 0

    def parse(self) -> Expression:
        result = self._choice()
        if self._at < len(self.tokens):
            raise self._bad()
        return result

    def _choice(self) -> Expression:
        condition = self._either()
        if not self._take("?"):
            return condition
        yes = self._either()
        self._must(":")
        no = self._choice()
        return lambda scope: yes(scope) if condition(scope) is True else no(scope)

    def _either(self) -> Expression:
        parts = [self._both()]
        while self._take("||"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda scope: _any(parts, scope)

    def _both(self) -> Expression:
        parts = [self._relation()]
        while self._take("&&"):
            parts.append(self._relation())
        return parts[0] if len(parts) == 1 else lambda scope: not _any([_not(part) for part in parts], scope)

    def _relation(self) -> Expression:
        left = self._sum()
        if self._at < len(self.tokens) and self.tokens[self._at][1] in RELATIONS:
            relation = RELATIONS[self._next()[1]]
            right = self._sum()
            return lambda scope: _applied(relation, left(scope), right(scope))
        return left

    def _sum(self) -> Expression:
        left = self._unary()
        while self._take("+"):
            left = _added(left, self._unary())
        return left

    def _unary(self) -> Expression:
        if self._take("!"):
            return _not(self._unary())
        return self._member()

    def _member(self) -> Expression:
        value = self._primary()
        while True:
            if self._take("."):
                name = self._next()[1]
                value = _called(name, value, self._arguments()) if self._take("(") else _selected(value, name)
            elif self._take("["):
                value = _indexed(value, self._choice())
                self._must("]")
            else:
                return value

    def _primary(self) -> Expression:
        kind, word = self._next()
        if kind == "text":
            text = _unquoted(word)
            return lambda _: text
        if kind == "number":
            number = int(word)
            return lambda _: number
        if word == "(":
            inner = self._choice()
            self._must(")")
            return inner
        if word == "[":
            items = self._arguments("]")
            return lambda scope: [item(scope) for item in items]
        if kind != "word":
            raise self._bad()
        if word in ("true", "false"):
            return lambda _: word == "true"
        if word == "has" and self._take("("):
            inner = self._choice()
            self._must(")")
            return lambda scope: _has(inner, scope)
        if self._take("("):
            if word not in FUNCTIONS:
                raise CelError(f"there is no function {word}")
            arguments = self._arguments()
            return lambda scope: _applied(FUNCTIONS[word], *(argument(scope) for argument in arguments))
        return lambda scope: _field(scope, word)

    def _arguments(self, end: str = ")") -> list[Expression]:
        found: list[Expression] = []
        while not self._take(end):
            if found:
                self._must(",")
            found.append(self._choice())
        return found

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self.tokens):
            raise self._bad()
        self._at += 1
        return self.tokens[self._at - 1]

    def _take(self, sign: str) -> bool:
        if self._at < len(self.tokens) and self.tokens[self._at] == ("sign", sign):
            self._at += 1
            return True
        return False

    def _must(self, sign: str) -> None:
        if not self._take(sign):
            raise self._bad()

    def _bad(self) -> CelError:
        return CelError(f"not an expression: {self._text!r}")


def _any(parts: Sequence[Expression], scope: Scope) -> bool:
    """Return whether any part holds. A part without a value counts only when no other decides."""
    failure: CelError | None = None
    for part in parts:
        try:
            if part(scope) is True:
                return True
        except CelError as error:
            failure = error
    if failure is not None:
        raise failure
    return False


def _not(part: Expression) -> Expression:
    return lambda scope: part(scope) is not True


def _added(left: Expression, right: Expression) -> Expression:
    return lambda scope: _applied(operator.add, left(scope), right(scope))


def _called(name: str, value: Expression, arguments: Sequence[Expression]) -> Expression:
    if name not in METHODS:
        raise CelError(f"there is no method {name}")
    return lambda scope: _applied(METHODS[name], value(scope), *(argument(scope) for argument in arguments))


def _selected(value: Expression, name: str) -> Expression:
    return lambda scope: _field(value(scope), name)


def _indexed(value: Expression, key: Expression) -> Expression:
    return lambda scope: _applied(operator.getitem, value(scope), key(scope))


def _field(of: Any, name: str) -> Any:
    if not isinstance(of, Mapping) or name not in of:
        raise CelError(f"there is no {name}")
    return of[name]


def _has(inner: Expression, scope: Scope) -> bool:
    try:
        inner(scope)
    except CelError:
        return False
    return True


def _applied(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, re.error) as error:
        raise CelError(str(error))


def _unquoted(word: str) -> str:
    if word[0] in "rR":
        return word[2:-1]
    return re.sub(r"\\(.)", r"\1", word[1:-1])


def _extract(text: str, template: str) -> str:
    """Return what stands where the template has its name in braces; empty when the text is of another form."""
    before, _, rest = template.partition("{")
    _, _, after = rest.partition("}")
    start = text.find(before)
    if start < 0:
        return ""
    start += len(before)
    end = text.find(after, start) if after else len(text)
    return text[start:end] if end >= 0 else ""
