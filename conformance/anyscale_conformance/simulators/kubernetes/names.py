"""How things may be called: names, labels and annotations. Source: kubernetes.io, Object Names and IDs; Labels and Selectors."""

import re
from collections.abc import Mapping
from typing import Any

from anyscale_conformance.simulators.kubernetes.problems import Fault, invalid_value, required

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_ANNOTATIONS = 256 * 1024

SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with "
    f"an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
    f"alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
LABEL_1035_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end "
    f"with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '{_LABEL_1035}')"
)
QUALIFIED_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED}')"
)
VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end "
    f"with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '{_VALUE}')"
)
_PATH_NAMES = {"roles", "rolebindings", "clusterroles", "clusterrolebindings"}
_LABEL_NAMES = {"namespaces"}


def of_object(plural: str, meta: Mapping[str, Any]) -> list[Fault]:
    """Return the faults of an object's metadata: its name, labels and annotations."""
    name = meta.get("name", "")
    if not name:
        found = [required("metadata.name", "name or generateName is required")]
    elif plural in _PATH_NAMES:
        found = [invalid_value("metadata.name", name, "may not contain '/' or '%'")] if re.search("[/%]", name) else []
    elif plural in _LABEL_NAMES:
        found = dns_label("metadata.name", name)
    elif plural == "services":
        found = dns_label_1035("metadata.name", name)
    else:
        found = subdomain("metadata.name", name)
    found += labels("metadata.labels", meta.get("labels") or {})
    annotations = meta.get("annotations") or {}
    for key in annotations:
        found += qualified("metadata.annotations", key.lower())
    size = sum(len(key) + len(value) for key, value in annotations.items())
    if size > _ANNOTATIONS:
        found.append(Fault(
            reason="FieldValueTooLong", field="metadata.annotations",
            message=f"Too long: may not be more than {_ANNOTATIONS} bytes",
        ))  # fmt: skip
    for word in meta.get("finalizers") or ():
        if word not in ("orphan", "foregroundDeletion", "kubernetes") and "/" not in word:
            found.append(
                invalid_value(
                    "metadata.finalizers", word, "name is neither a standard finalizer name nor is it fully qualified"
                )
            )
    for index, owner in enumerate(meta.get("ownerReferences") or ()):
        found += [
            required(f"metadata.ownerReferences[{index}].{key}", f"{key} must not be empty")
            for key in ("apiVersion", "kind", "name", "uid")
            if not owner.get(key)
        ]
    return found


def labels(field: str, found: Mapping[str, str]) -> list[Fault]:
    """Return the faults of labels: their keys and their values."""
    faults = []
    for key, value in found.items():
        faults += qualified(field, key)
        faults += label_value(field, value)
    return faults


def label_value(field: str, value: str) -> list[Fault]:
    """Return the faults of a label's value."""
    if len(value) > 63:
        return [_too_long(field, value, 63)]
    return [] if re.fullmatch(_VALUE, value) else [invalid_value(field, value, VALUE_RULE)]


def qualified(field: str, key: str) -> list[Fault]:
    """Return the faults of a qualified name: ``name`` or ``prefix/name``."""
    prefix, slash, name = key.rpartition("/")
    faults = []
    if slash and (not re.fullmatch(_SUBDOMAIN, prefix) or len(prefix) > 253):
        faults.append(invalid_value(field, key, f"prefix part {SUBDOMAIN_RULE}"))
    if len(name) > 63:
        faults.append(invalid_value(field, key, "name part must be no more than 63 bytes"))
    if not re.fullmatch(_QUALIFIED, name):
        faults.append(invalid_value(field, key, QUALIFIED_RULE))
    return faults


def subdomain(field: str, name: str) -> list[Fault]:
    """Return the faults of a DNS subdomain: most names are one."""
    faults = [invalid_value(field, name, "must be no more than 253 bytes")] if len(name) > 253 else []
    return faults + ([] if re.fullmatch(_SUBDOMAIN, name) else [invalid_value(field, name, SUBDOMAIN_RULE)])


def dns_label(field: str, name: str) -> list[Fault]:
    """Return the faults of a DNS label: namespaces, containers, volumes."""
    faults = [invalid_value(field, name, "must be no more than 63 bytes")] if len(name) > 63 else []
    return faults + ([] if re.fullmatch(_LABEL, name) else [invalid_value(field, name, LABEL_RULE)])


def dns_label_1035(field: str, name: str) -> list[Fault]:
    """Return the faults of a label that begins with a letter: Services."""
    faults = [invalid_value(field, name, "must be no more than 63 bytes")] if len(name) > 63 else []
    return faults + ([] if re.fullmatch(_LABEL_1035, name) else [invalid_value(field, name, LABEL_1035_RULE)])


def _too_long(field: str, value: str, most: int) -> Fault:
    return Fault(
        reason="FieldValueInvalid", field=field, message=f'Invalid value: "{value}": must be no more than {most} bytes'
    )
