"""What Pods get from other objects: variables and files; and what they say when those objects are not there."""

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any

from anyscale_conformance.simulators.kubernetes import quantities
from anyscale_conformance.simulators.kubernetes.admission import requests
from anyscale_conformance.simulators.kubernetes.store import Entry
from anyscale_conformance.simulators.kubernetes.tokens import Tokens
from anyscale_conformance.simulators.kubernetes.world import World


def missing(world: World, pod: Entry) -> str:
    """Return what a kubelet says when a Pod's volumes cannot be made, empty when they can."""
    for volume in pod.obj["spec"].get("volumes", ()):
        for plural, ref in _sources(volume):
            problem = "" if ref.get("optional") else _lacking(world, pod.namespace, plural, ref)
            if problem:
                return f'MountVolume.SetUp failed for volume "{volume["name"]}" : {problem}'
    return ""


def missing_variable(world: World, pod: Entry, container: Mapping[str, Any]) -> str:
    """Return what a kubelet says when a container's environment cannot be made, empty when it can."""
    for variable in container.get("env", ()):
        for key, plural in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
            ref = (variable.get("valueFrom") or {}).get(key)
            if ref is None or ref.get("optional"):
                continue
            entry = world.get(plural, pod.namespace, ref.get("name", ""))
            if entry is None:
                return f'{plural.removesuffix("s")} "{ref.get("name", "")}" not found'
            if ref["key"] not in entry.obj.get("data", {}):
                word = "Secret" if plural == "secrets" else "ConfigMap"
                return f"couldn't find key {ref['key']} in {word} {pod.namespace}/{ref['name']}"
    for source in container.get("envFrom", ()):
        for key, plural in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
            ref = source.get(key)
            if ref is not None and not ref.get("optional") and world.get(plural, pod.namespace, ref["name"]) is None:
                return f'{plural.removesuffix("s")} "{ref["name"]}" not found'
    return ""


def variables(world: World, pod: Entry, container: Mapping[str, Any]) -> dict[str, str]:
    """Return a container's environment; ``$(NAME)`` in a value is what was set before it."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        for key, plural in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
            if (ref := source.get(key)) is not None:
                data = _data(world, plural, pod.namespace, ref["name"])
                found |= {f"{source.get('prefix', '')}{name}": value.decode() for name, value in data.items()}
    for variable in container.get("env", ()):
        value = variable.get("value")
        source = variable.get("valueFrom")
        if source is not None:
            value = _value(world, pod, container, source)
        if value is not None:
            found[variable["name"]] = expand(value, found)
    return found


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return a text with ``$(NAME)`` replaced by variables; what is not known stays, ``$$`` is a dollar."""

    def replaced(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^()]+)\)", replaced, text)


def files(world: World, tokens: Tokens, pod: Entry, volume: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a volume by their paths in it."""
    sources = (volume.get("projected") or {}).get("sources") or [volume]
    found: dict[str, bytes] = {}
    for source in sources:
        for key, plural in (("secret", "secrets"), ("configMap", "configmaps")):
            if (ref := source.get(key)) is not None:
                data = _data(world, plural, pod.namespace, ref.get("secretName") or ref.get("name", ""))
                items = ref.get("items")
                found |= data if not items else {one["path"]: data[one["key"]] for one in items if one["key"] in data}
        if (asked := source.get("serviceAccountToken")) is not None:
            account = world.get("serviceaccounts", pod.namespace, pod.obj["spec"]["serviceAccountName"])
            if account is not None:
                audiences = [asked["audience"]] if asked.get("audience") else []
                token, _ = tokens.issue(
                    account, audiences=audiences, seconds=asked.get("expirationSeconds", 3600), bound=pod
                )
                found[asked["path"]] = token.encode()
        for item in (source.get("downwardAPI") or {}).get("items", ()):
            found[item["path"]] = field(pod, (item.get("fieldRef") or {}).get("fieldPath", "")).encode()
    return found


def field(pod: Entry, path: str) -> str:
    """Return what a ``fieldRef`` says of a Pod."""
    for part in ("labels", "annotations"):
        if path.startswith(f"metadata.{part}['"):
            return str(pod.meta.get(part, {}).get(path.partition("'")[2].rpartition("'")[0], ""))
        if path == f"metadata.{part}":
            return "\n".join(f'{key}="{value}"' for key, value in sorted(pod.meta.get(part, {}).items()))
    value: Any = pod.obj
    for word in path.split("."):
        value = value.get(word, "") if isinstance(value, Mapping) else ""
    return str(value)


def _value(world: World, pod: Entry, container: Mapping[str, Any], source: Mapping[str, Any]) -> str | None:
    if (ref := source.get("fieldRef")) is not None:
        return field(pod, ref["fieldPath"])
    if (ref := source.get("resourceFieldRef")) is not None:
        part, _, word = ref["resource"].partition(".")
        have = (container.get("resources") or {}).get(part, {}).get(word)
        amount = quantities.value(have) if have else requests(pod.obj["spec"]).get(word, quantities.value("0"))
        return str(-(-amount // quantities.value(ref.get("divisor") or "1")))
    for key, plural in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
        if (ref := source.get(key)) is not None:
            data = _data(world, plural, pod.namespace, ref["name"])
            return data[ref["key"]].decode() if ref["key"] in data else None
    return None


def _lacking(world: World, namespace: str, plural: str, ref: Mapping[str, Any]) -> str:
    name = ref.get("secretName") or ref.get("name", "")
    entry = world.get(plural, namespace, name)
    if entry is None:
        return f'{plural.removesuffix("s")} "{name}" not found'
    keys = {*entry.obj.get("data", {}), *entry.obj.get("binaryData", {})}
    lacking = [item["key"] for item in ref.get("items") or () if item["key"] not in keys]
    return (
        f"references non-existent {'secret' if plural == 'secrets' else 'config'} key: {lacking[0]}" if lacking else ""
    )


def _sources(volume: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for source in (volume, *((volume.get("projected") or {}).get("sources") or ())):
        for key, plural in (("secret", "secrets"), ("configMap", "configmaps")):
            if (ref := source.get(key)) is not None:
                yield plural, ref


def _data(world: World, plural: str, namespace: str, name: str) -> dict[str, bytes]:
    entry = world.get(plural, namespace, name)
    if entry is None:
        return {}
    if plural == "secrets":
        return {key: base64.b64decode(value) for key, value in entry.obj.get("data", {}).items()}
    binary = {key: base64.b64decode(value) for key, value in entry.obj.get("binaryData", {}).items()}
    return {key: value.encode() for key, value in entry.obj.get("data", {}).items()} | binary
