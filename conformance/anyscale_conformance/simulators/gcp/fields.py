"""Partial answers: ``fields=items(name,labels/owner),nextPageToken``."""

from typing import Any

Mask = dict[str, "Mask"]


def cut(body: Any, mask: str) -> Any:
    """Return what a mask leaves of an answer."""
    parsed, _ = _parse(mask, 0)
    return _cut(body, parsed)


def _cut(value: Any, mask: Mask) -> Any:
    if not mask:
        return value
    if isinstance(value, list):
        return [_cut(item, mask) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        inner = mask.get(key, mask.get("*"))
        if inner is not None:
            kept[key] = _cut(item, inner)
    return kept


def _parse(text: str, at: int) -> tuple[Mask, int]:
    """Return the mask from a position on, and where it ends: at the text's end or behind its closing parenthesis."""
    mask: Mask = {}
    path: list[str] = [""]
    inner: Mask = {}
    while at <= len(text):
        sign = text[at] if at < len(text) else ","
        at += 1
        if sign == "/":
            path.append("")
        elif sign == "(":
            inner, at = _parse(text, at)
        elif sign in ",)":
            _add(mask, path, inner)
            path, inner = [""], {}
            if sign == ")" or at > len(text):
                break
        else:
            path[-1] += sign
    return mask, at


def _add(mask: Mask, path: list[str], inner: Mask) -> None:
    for word in path:
        if not word.strip():
            return
        mask = mask.setdefault(word.strip(), {})
    mask.update(inner)
