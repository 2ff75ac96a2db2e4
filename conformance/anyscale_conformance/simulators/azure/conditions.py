"""Conditions of role assignments, as far as they are about blobs: parsed, refused when they are none, and evaluated.

The language is that of Azure's attribute-based access control (``learn.microsoft.com``: Azure role assignment condition format
and syntax).
"""

import fnmatch
import re
from collections.abc import Callable, Mapping

import attrs

TOKEN = re.compile(
    r"\s*(?:(?P<word>@?[A-Za-z][\w.]*(?::[A-Za-z]+)?)|(?P<mark>&&|\|\||[!(){},\[\]])|'(?P<text>(?:[^']|'')*)')",
    re.DOTALL,
)
ATTRIBUTE = re.compile(r"\s*\[([^\]]+)\]")
OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda have, want: have == want,
    "StringStartsWith": lambda have, want: have.startswith(want),
    "StringLike": lambda have, want: fnmatch.fnmatchcase(have, want),
}
PATH = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path"
PREFIX = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs:prefix"
"""What a list is of; it is of the request, and a list has no path."""
NAME = "Microsoft.Storage/storageAccounts/blobServices/containers:name"


@attrs.frozen(kw_only=True)
class Asked:
    """What is asked for. ``attributes`` by the names that conditions use; ``suboperation``: ``Blob.List``."""

    action: str
    suboperation: str = ""
    attributes: Mapping[str, str] = attrs.field(factory=dict)


Test = Callable[[Asked], bool]


def parse(text: str) -> Test:
    """Return what decides for a condition. Raises ValueError for one that it does not understand."""
    parser = _Parser(text)
    test = parser.either()
    parser.end()
    return test


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def either(self) -> Test:
        first = self._both()
        while self._takes("||", "OR"):
            left, right = first, self._both()
            first = self._any(left, right)
        return first

    def end(self) -> None:
        if self._text[self._at :].strip():
            raise ValueError(f"there is something after its end: {self._text[self._at :]!r}")

    def _both(self) -> Test:
        first = self._one()
        while self._takes("&&", "AND"):
            left, right = first, self._one()
            first = self._all(left, right)
        return first

    def _one(self) -> Test:
        if self._takes("!", "NOT"):
            return self._none(self._one())
        if self._takes("("):
            inner = self.either()
            self._want(")")
            return inner
        if self._takes("ActionMatches"):
            wanted = self._braces()[0]
            return lambda asked: fnmatch.fnmatchcase(asked.action.lower(), wanted.lower())
        if self._takes("SubOperationMatches"):
            wanted = self._braces()[0]
            return lambda asked: asked.suboperation == wanted
        if self._takes("Exists"):
            name = self._attribute()
            return lambda asked: name in asked.attributes
        return self._comparison()

    def _comparison(self) -> Test:
        name = self._attribute()
        word = self._word().rpartition(":")[2]
        wanted = self._braces() if self._peek() == "{" else (self._quoted(),)
        is_not, blind = "Not" in word, word.endswith("IgnoreCase")
        plain = word.replace("Not", "").removesuffix("IgnoreCase")
        if plain not in OPERATORS:
            raise ValueError(f"{word!r} is no operator that is known")
        compare = OPERATORS[plain]

        def test(asked: Asked) -> bool:
            have = asked.attributes.get(name)
            if have is None:
                return is_not
            pairs = [(have.lower(), one.lower()) if blind else (have, one) for one in wanted]
            return any(compare(*pair) for pair in pairs) != is_not

        return test

    def _attribute(self) -> str:
        if not self._takes("@Resource", "@Request", "@Principal", "@Environment"):
            raise ValueError(f"an attribute is wanted at {self._text[self._at :][:40]!r}")
        found = ATTRIBUTE.match(self._text, self._at)
        if found is None:
            raise ValueError("an attribute needs its name in brackets")
        self._at = found.end()
        return found[1].strip()

    def _braces(self) -> tuple[str, ...]:
        self._want("{")
        found = [self._quoted()]
        while self._takes(","):
            found.append(self._quoted())
        self._want("}")
        return tuple(found)

    def _quoted(self) -> str:
        found = TOKEN.match(self._text, self._at)
        if found is None or found["text"] is None:
            raise ValueError(f"a text in quotes is wanted at {self._text[self._at :][:40]!r}")
        self._at = found.end()
        return found["text"].replace("''", "'")

    def _word(self) -> str:
        found = TOKEN.match(self._text, self._at)
        if found is None or not found["word"]:
            raise ValueError(f"a word is wanted at {self._text[self._at :][:40]!r}")
        self._at = found.end()
        return found["word"]

    def _peek(self) -> str:
        found = TOKEN.match(self._text, self._at)
        return "" if found is None else (found["word"] or found["mark"] or "")

    def _takes(self, *words: str) -> bool:
        found = TOKEN.match(self._text, self._at)
        if found is None or (found["word"] or found["mark"]) not in words:
            return False
        self._at = found.end()
        return True

    def _want(self, word: str) -> None:
        if not self._takes(word):
            raise ValueError(f"{word!r} is wanted at {self._text[self._at :][:40]!r}")

    @staticmethod
    def _any(left: Test, right: Test) -> Test:
        return lambda asked: left(asked) or right(asked)

    @staticmethod
    def _all(left: Test, right: Test) -> Test:
        return lambda asked: left(asked) and right(asked)

    @staticmethod
    def _none(inner: Test) -> Test:
        return lambda asked: not inner(asked)
