"""What the verbs do to objects: create, update, patch, apply, delete; each with the API's own refusals."""

import enum
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from anyscale_conformance.simulators.kubernetes import admission, defaults, deletion, fields, patches, validation
from anyscale_conformance.simulators.kubernetes.kinds import Kind
from anyscale_conformance.simulators.kubernetes.problems import (
    Fault,
    Problem,
    already_exists,
    bad_request,
    conflict,
    forbidden_field,
    invalid,
    invalid_value,
    not_found,
    required,
)
from anyscale_conformance.simulators.kubernetes.schema import of as schema_of
from anyscale_conformance.simulators.kubernetes.store import Entry, Object
from anyscale_conformance.simulators.kubernetes.users import Caller
from anyscale_conformance.simulators.kubernetes.values import Reading, missing, read
from anyscale_conformance.simulators.kubernetes.world import World

CREATED_BY_PUT = {
    "leases",
    "endpoints",
    "events",
    "limitranges",
    "roles",
    "rolebindings",
    "clusterroles",
    "clusterrolebindings",
}
NEEDS_VERSION = {"leases", "poddisruptionbudgets", "gatewayclasses", "gateways", "httproutes"}
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
_SYSTEM_META = (
    "uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion",
)  # fmt: skip


class Clashes(enum.Enum):
    """What becomes of an applied field that somebody else has set otherwise."""

    REFUSED = "refused"
    TAKEN = "taken over"


@attrs.frozen(kw_only=True)
class Target:
    """What a request is about."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""


class Objects:
    """Carries out verbs on a world. Every method raises Problem with what an API server would answer."""

    def __init__(self, world: World) -> None:
        self._world = world

    def get(self, target: Target) -> Entry:
        """Return an object."""
        entry = self._world.store.get(target.kind, target.namespace, target.name)
        if entry is None:
            raise not_found(target.kind.plural, target.kind.group, target.name)
        return entry

    def create(self, target: Target, body: Any, caller: Caller) -> Entry:
        """Make an object; its name comes from the body, or is made up from ``generateName``."""
        obj = self._read(target, body, caller)
        return self._create(target, obj, caller, managers=None)

    def replace(self, target: Target, body: Any, caller: Caller) -> tuple[Entry, bool]:
        """Put an object in place of the one there is; return it, and whether it is new."""
        obj = self._read(target, body, caller)
        name = obj["metadata"].setdefault("name", target.name)
        if name != target.name:
            raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({target.name})")
        old = self._world.store.get(target.kind, target.namespace, target.name)
        if old is None and target.kind.plural in CREATED_BY_PUT and not target.subresource:
            return self._create(target, obj, caller, managers=None), True
        if old is None:
            raise not_found(target.kind.plural, target.kind.group, target.name)
        if target.kind.plural in NEEDS_VERSION and not obj["metadata"].get("resourceVersion"):
            raise self._invalid(
                target, target.name, [invalid_value("metadata.resourceVersion", 0, "must be specified for an update")]
            )
        return self._update(target, old, obj, caller, managers=None), False

    def patch(self, target: Target, change: Callable[[Object], Any], caller: Caller) -> Entry:
        """Change an object by a function of it, which is what a patch is."""
        old = self.get(target)
        changed = change(self._whole(target.kind, old.obj))
        if not isinstance(changed, dict):
            raise bad_request("the patched object is no object")
        obj = self._read(target, changed, caller)
        if obj["metadata"].get("name") != target.name:
            raise bad_request(
                f"the name of the object ({obj['metadata'].get('name')}) does not match the name on the URL ({target.name})"
            )
        return self._update(target, old, obj, caller, managers=None)

    def strategic(self, target: Target, patch: Any, caller: Caller) -> Entry:
        """Change an object by a strategic merge patch. Custom resources know none."""
        if not target.kind.model:
            raise unsupported_media()
        shape = schema_of(target.kind)
        return self.patch(target, lambda obj: patches.strategic_merge(shape, obj, patch), caller)

    def apply(self, target: Target, body: Any, caller: Caller, *, clashes: Clashes) -> tuple[Entry, bool]:
        """Apply a configuration; return the object, and whether it is new."""
        applied = self._applied(target, body, caller)
        shape = schema_of(target.kind)
        old = self._world.store.get(target.kind, target.namespace, target.name)
        writer = self._writer(target, caller, "Apply")
        if old is None:
            if target.subresource:
                raise not_found(target.kind.plural, target.kind.group, target.name)
            if uid := applied["metadata"].get("uid"):
                raise conflict(
                    target.kind.plural, target.kind.group, target.name,
                    f"uid mismatch: the provided object specified uid {uid}, and no existing object was found",
                )  # fmt: skip
            mine = attrs.evolve(writer, fields=fields.owned(shape, _owned(target, applied)))
            return self._create(target, applied, caller, managers=[mine]), True
        known = fields.managers(old.obj)
        if clashes is Clashes.REFUSED and (found := fields.clashes(shape, old.obj, applied, known, writer)):
            raise _clashing(found)
        merged, managers = fields.apply(shape, old.obj, applied, known, writer)
        return self._update(target, old, merged, caller, managers=managers), False

    def delete(self, target: Target, options: Mapping[str, Any], caller: Caller) -> deletion.Deleted:
        """Delete an object, as the options say, at once or as far as grace and finalizers allow."""
        entry = self.get(target)
        return deletion.delete(self._world, entry, options, is_dry=caller.is_dry)

    def _create(self, target: Target, obj: Object, caller: Caller, *, managers: list[fields.Manager] | None) -> Entry:
        world, kind = self._world, target.kind
        meta = obj["metadata"]
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = f"{meta['generateName'][:58]}{world.letters(5)}"
        name = meta.get("name", "")
        if target.name and name != target.name:
            raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({target.name})")
        if meta.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        for word in _SYSTEM_META:
            meta.pop(word, None)
        if kind.is_namespaced:
            admission.namespace(world, kind, target.namespace, name)
        if kind.has_status:
            obj.pop("status", None)
        meta |= {"uid": world.uid(), "creationTimestamp": world.stamp}
        defaults.fill(world, kind, obj)
        if managers is None:
            managers = fields.updated(
                schema_of(kind), None, _owned(target, obj), (), self._writer(target, caller, "Update")
            )
        admission.mutate(world, kind, obj, target.namespace)
        self._check(target, obj, None)
        admission.admit(world, kind, obj, target.namespace)
        if name and world.store.get(kind, target.namespace, name) is not None:
            raise already_exists(kind.plural, kind.group, name)
        _write_managers(meta, managers)
        if caller.is_dry:
            return Entry(kind=kind, namespace=target.namespace, name=name, revision=0, obj=obj)
        return world.put(kind, target.namespace, name, obj)

    def _update(
        self, target: Target, old: Entry, obj: Object, caller: Caller, *, managers: list[fields.Manager] | None
    ) -> Entry:
        world, kind = self._world, target.kind
        meta = obj["metadata"] = dict(obj["metadata"])
        self._preconditions(target, old, meta)
        for word in _SYSTEM_META:
            meta.pop(word, None)
            if word in old.meta:
                meta[word] = old.meta[word]
        obj = _scoped(kind, target.subresource, old.obj, obj)
        obj["metadata"] = meta = dict(obj["metadata"])
        if not target.subresource:
            defaults.fill(world, kind, obj, old.obj)
            defaults.on_update(kind, obj, old.obj)
            if obj.get("spec") != old.obj.get("spec") and "generation" in old.meta:
                meta["generation"] = old.meta["generation"] + 1
        self._check(target, obj, old.obj)
        if not target.subresource:
            admission.readmit(world, kind, obj, old)
        if managers is None:
            given = meta.pop("managedFields", None)
            known = [] if given in ([], [{}]) else fields.managers(old.obj)
            managers = fields.updated(
                schema_of(kind),
                _owned(target, old.obj),
                _owned(target, obj),
                known,
                self._writer(target, caller, "Update"),
            )
        _write_managers(meta, managers)
        if _same(obj, old.obj):
            return old
        if caller.is_dry:
            return attrs.evolve(old, obj=obj, bare=None)
        entry = world.put(kind, target.namespace, target.name, obj)
        return deletion.settle(world, entry)

    def _read(self, target: Target, body: Any, caller: Caller) -> Object:
        """Return the body as an object of its kind, as ``fieldValidation`` wants unknown fields to be taken."""
        kind = target.kind
        obj, reading = self._decode(target, body)
        if reading.unknown and caller.validation == "Strict":
            words = ", ".join(f'unknown field "{path}"' for path in reading.unknown)
            raise bad_request(
                f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: strict decoding error: {words}'
            )
        if caller.validation != "Ignore":
            caller.warnings.extend(f'unknown field "{path}"' for path in reading.unknown)
        return obj

    def _applied(self, target: Target, body: Any, caller: Caller) -> Object:
        if not caller.field_manager:
            raise _options_invalid([required("fieldManager", "is required for apply patch")])
        kind = target.kind
        if isinstance(body, dict) and body.get("apiVersion") != kind.api_version:
            raise bad_request(
                f"Incorrect version specified in apply patch. Specified patch version: {body.get('apiVersion', '')}, expected: "
                f"{kind.api_version}"
            )
        if isinstance(body, dict) and not body.get("kind"):
            raise bad_request("Object 'Kind' is missing in the apply patch")
        obj, reading = self._decode(target, body)
        if reading.unknown:
            about = f"{target.namespace}/{target.name}; {kind.group}/{kind.version}, Kind={kind.kind}"
            raise Problem(
                500,
                "",
                f"failed to create typed patch object ({about}): .{reading.unknown[0]}: field not declared in schema",
            )
        meta = obj["metadata"]
        if meta.get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        if meta.setdefault("name", target.name) != target.name:
            raise bad_request(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({target.name})"
            )
        meta.pop("creationTimestamp", None)
        return _owned(target, obj) | {"metadata": meta}

    def _decode(self, target: Target, body: Any) -> tuple[Object, Reading]:
        kind = target.kind
        if not isinstance(body, dict):
            raise bad_request("the object provided is unrecognized (must be of type Object): couldn't get version/kind")
        words = (body.get("apiVersion") or kind.api_version, body.get("kind") or kind.kind)
        if words != (kind.api_version, kind.kind):
            raise bad_request(
                f"the API version in the data ({words[0]}) does not match the expected API version ({kind.api_version})"
                if words[0] != kind.api_version
                else f'{words[1]} in version "{kind.version}" cannot be handled as a {kind.kind}: no kind "{words[1]}" is '
                f'registered for version "{kind.api_version}"'
            )
        reading = Reading(kind=kind.kind, version=kind.version)
        obj = read(
            schema_of(kind), {key: value for key, value in body.items() if key not in ("kind", "apiVersion")}, reading
        )
        meta = obj.setdefault("metadata", {})
        if kind.is_namespaced and meta.setdefault("namespace", target.namespace) != target.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if not kind.is_namespaced:
            meta.pop("namespace", None)
        return obj, reading

    def _preconditions(self, target: Target, old: Entry, meta: Mapping[str, Any]) -> None:
        plural, group = target.kind.plural, target.kind.group
        version, uid = meta.get("resourceVersion"), meta.get("uid")
        if uid and uid != old.uid:
            raise conflict(
                plural, group, target.name,
                f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old.uid}",
            )  # fmt: skip
        if version and version != str(old.revision):
            raise conflict(plural, group, target.name, MODIFIED)

    def _check(self, target: Target, obj: Object, old: Object | None) -> None:
        faults = missing(schema_of(target.kind), obj) + validation.faults(self._world, target.kind, obj, old)
        seen = {(fault.field, fault.reason): fault for fault in faults}
        if seen:
            raise self._invalid(target, obj["metadata"].get("name", ""), list(seen.values()))

    def _invalid(self, target: Target, name: str, faults: list[Fault]) -> Problem:
        return invalid(target.kind.kind, target.kind.group, name, faults)

    def _writer(self, target: Target, caller: Caller, operation: str) -> fields.Manager:
        return fields.Manager(
            name=caller.field_manager or caller.agent, operation=operation, api_version=target.kind.api_version,
            time=self._world.stamp, subresource=target.subresource,
        )  # fmt: skip

    def _whole(self, kind: Kind, obj: Object) -> Object:
        return {"apiVersion": kind.api_version, "kind": kind.kind, **obj}


def unsupported_media() -> Problem:
    """415: this kind cannot be changed by such a patch."""
    return Problem(
        415, "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
    )  # fmt: skip


def check_options(caller: Caller, *, has_force: bool, is_apply: bool) -> None:
    """Refuse options that do not go with a patch. Raises Problem 422."""
    if has_force and not is_apply:
        raise _options_invalid([forbidden_field("force", "may not be specified for non-apply patch")])
    if len(caller.field_manager) > 128:
        raise _options_invalid([invalid_value("fieldManager", caller.field_manager, "may not be more than 128 bytes")])


def _options_invalid(faults: list[Fault]) -> Problem:
    return invalid("PatchOptions", "meta.k8s.io", "", faults)


def _clashing(found: list[fields.Clash]) -> Problem:
    """409: fields that others have set; each with who has."""

    def who(manager: fields.Manager) -> str:
        words = f'"{manager.name}"' + (f' with subresource "{manager.subresource}"' if manager.subresource else "")
        return words if manager.operation == "Apply" else f"{words} using {manager.api_version} at {manager.time}"

    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f"conflict with {who(clash.manager)}",
            "field": fields.show(clash.path),
        }
        for clash in found
    ]
    if len(found) == 1:
        text = f"{causes[0]['message']}: {causes[0]['field']}"
    else:
        lines = []
        for name in sorted({who(clash.manager) for clash in found}):
            lines += [f"conflicts with {name}:"]
            lines += [f"- {fields.show(clash.path)}" for clash in found if who(clash.manager) == name]
        text = "\n".join(lines)
    count = f"{len(found)} conflict{'s' if len(found) > 1 else ''}"
    return Problem(409, "Conflict", f"Apply failed with {count}: {text}", details={"causes": causes})


def _scoped(kind: Kind, subresource: str, old: Object, new: Object) -> Object:
    """Return the new object with those parts of the old one that the path cannot write."""
    if subresource == "status":
        kept = {key: value for key, value in old.items() if key != "status"}
        kept["metadata"] = old["metadata"] | {
            key: new["metadata"][key] for key in ("managedFields",) if key in new["metadata"]
        }
        return kept | ({"status": new["status"]} if "status" in new else {})
    if kind.has_status:
        new = {key: value for key, value in new.items() if key != "status"}
        return new | ({"status": old["status"]} if "status" in old else {})
    return dict(new)


def _owned(target: Target, obj: Object) -> Object:
    """Return what of an object a write at this path can own: the status through its own path alone, and there nothing else."""
    if target.subresource == "status":
        return {key: value for key, value in obj.items() if key in ("metadata", "status")}
    return {key: value for key, value in obj.items() if key != "status"} if target.kind.has_status else obj


def _write_managers(meta: Object, managers: list[fields.Manager]) -> None:
    meta.pop("managedFields", None)
    if managers:
        meta["managedFields"] = [manager.render() for manager in managers]


def _same(new: Object, old: Object) -> bool:
    """Tell whether a write changes nothing but the time at which its writer last wrote."""

    def bare(obj: Object) -> Object:
        meta = {key: value for key, value in obj["metadata"].items() if key not in ("managedFields", "resourceVersion")}
        managers = [
            {key: value for key, value in entry.items() if key != "time"}
            for entry in obj["metadata"].get("managedFields", ())
        ]
        return {**obj, "metadata": meta, "managers": managers}

    return bare(new) == bare(old)
