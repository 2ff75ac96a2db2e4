"""Writes ``shapes.json``: every field of the bodies that the simulator takes, from the models of Microsoft's own SDKs.

    python -m anyscale_conformance.simulators.azure.derive --write

The SDKs are generated from the published specifications of the REST interfaces. Only this module needs them: what a server
checks must not cost each of its users the import of five of them. A test derives the table again and compares.
"""

import argparse
import collections.abc
import datetime
import decimal
import enum
import importlib
import json
import types
import typing
from typing import Any

from anyscale_conformance.simulators.azure.shapes import TABLE

ROOTS = {
    "compute": (
        "azure.mgmt.compute.models", "VirtualMachine", "VirtualMachineUpdate", "Disk", "DiskUpdate", "Image", "ImageUpdate",
        "VirtualMachineScaleSet", "VirtualMachineScaleSetUpdate", "VirtualMachineScaleSetVMInstanceRequiredIDs",
        "SshPublicKeyResource", "SshPublicKeyUpdateResource", "ProximityPlacementGroup", "ProximityPlacementGroupUpdate",
        "CapacityReservationGroup", "CapacityReservationGroupUpdate",
    ),
    "network": (
        "azure.mgmt.network.models", "VirtualNetwork", "Subnet", "NetworkInterface", "NetworkSecurityGroup", "SecurityRule",
        "PublicIPAddress", "LoadBalancer", "NatGateway", "RouteTable", "TagsObject",
    ),
    "storage": (
        "azure.mgmt.storage.models", "StorageAccountCreateParameters", "StorageAccountUpdateParameters", "BlobContainer",
        "ManagementPolicy", "StorageAccountCheckNameAvailabilityParameters", "StorageAccountRegenerateKeyParameters",
        "BlobServiceProperties", "AccountSasParameters",
    ),
    "containers": (
        "azure.mgmt.containerservice.models", "ManagedCluster", "AgentPool", "TagsObject",
        "AgentPoolDeleteMachinesParameter",
    ),
    "identity": ("azure.mgmt.msi.v2024_11_30.models", "Identity", "IdentityUpdate", "FederatedIdentityCredential"),
    "authorization": (
        "azure.mgmt.authorization.v2022_04_01.models", "RoleAssignmentCreateParameters", "RoleDefinition",
    ),
}  # fmt: skip
"""Where each family's models are, and those that requests are made of."""
SCALARS: dict[Any, str] = {
    str: "str", int: "int", float: "float", bool: "bool", bytes: "str", datetime.datetime: "str", datetime.date: "str",
    datetime.timedelta: "str", datetime.time: "str", decimal.Decimal: "float", Any: "any", object: "any",
}  # fmt: skip
OPEN = frozenset({"VirtualMachineSizeTypes", "DiskApiVersion"})
"""Enumerations that name some of what there is: any text will do."""
MSREST = {
    "str": "str",
    "int": "int",
    "long": "int",
    "float": "float",
    "bool": "bool",
    "object": "any",
    "bytearray": "str",
}
"""What the older generation calls its types; dates and durations are text."""

Table = dict[str, dict[str, list[Any]]]


def derive() -> Table:
    """Return the table: of each model its fields, each with its type, and with ``r`` (read-only) and ``q`` (required).

    Types are ``str int float bool any``, ``enum:a|b``, ``list:T``, ``map:T`` and ``ref:family.Model``.
    """
    table: Table = {}
    for family, (module, *names) in ROOTS.items():
        models = importlib.import_module(module)
        for name in names:
            _add(table, family, models, getattr(models, name))
    return dict(sorted(table.items()))


def _add(table: Table, family: str, models: Any, model: Any) -> str:
    """Put a model and all that it refers to into the table; return its name there."""
    key = f"{family}.{model.__name__}"
    if key not in table:
        table[key] = {}
        if hasattr(model, "_attribute_map"):
            _add_old(table, key, family, models, model)
        else:
            _add_new(table, key, family, models, model)
    return key


def _add_new(table: Table, key: str, family: str, models: Any, model: Any) -> None:
    """Add a model of the newer generation: annotated fields."""
    model()  # fills the fields in
    hints: dict[str, Any] = {}
    for one in (*_heirs(model), *reversed(model.__mro__)):
        if "_attr_to_rest_field" not in one.__dict__ and one is not model and one not in _heirs(model):
            continue
        hints |= typing.get_type_hints(one, localns={"_models": models})
    for one in (model, *_heirs(model)):
        one()
        for attribute, field in one._attr_to_rest_field.items():
            hint = hints.get(attribute, Any)
            is_read_only = field._visibility == ["read"]
            is_optional = type(None) in typing.get_args(hint)
            flags = "r" if is_read_only else "" if is_optional or one is not model else "q"
            # What is only ever read is taken and dropped, whatever is in it.
            of = "any" if is_read_only else _type(table, family, models, hint)
            table[key].setdefault(field._rest_name, [of, flags])


def _heirs(model: Any) -> list[Any]:
    """Return the models that a discriminator may make of this one."""
    return [heir for direct in model.__subclasses__() for heir in (direct, *_heirs(direct))] if _is_base(model) else []


def _is_base(model: Any) -> bool:
    return bool(model.__dict__.get("__mapping__"))


def _type(table: Table, family: str, models: Any, hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), [one for one in typing.get_args(hint) if one is not type(None)]
    if origin in (typing.Union, types.UnionType):
        enums = [one for one in arguments if isinstance(one, type) and issubclass(one, enum.Enum)]
        if enums and enums[0].__name__ not in OPEN:
            return "enum:" + "|".join(str(member.value) for member in enums[0])
        if enums:
            return "str"
        return _type(table, family, models, arguments[0]) if len(arguments) == 1 else "any"
    if origin is typing.Literal:
        return "enum:" + "|".join(str(getattr(one, "value", one)) for one in arguments)
    if origin in (list, collections.abc.Sequence):
        return "list:" + _type(table, family, models, arguments[0])
    if origin in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        return "map:" + _type(table, family, models, arguments[1])
    if hint in SCALARS:
        return SCALARS[hint]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "enum:" + "|".join(str(member.value) for member in hint)
    if isinstance(hint, type) and any(base.__name__ == "Model" for base in hint.__mro__):
        return "ref:" + _add(table, family, models, hint)
    return "any"


def _add_old(table: Table, key: str, family: str, models: Any, model: Any) -> None:
    """Add a model of the older generation: a map of attributes, whose keys may lead below ``properties``."""
    for attribute, told in model._attribute_map.items():
        rules = model._validation.get(attribute, {})
        flags = "r" if rules.get("readonly") else "q" if rules.get("required") else ""
        *above, last = told["key"].replace("\\.", "\0").split(".")
        place = key
        for word in above:
            below = f"{place}.{word}"
            table.setdefault(below, {})
            known = table[place].setdefault(word, [f"ref:{below}", ""])
            known[1] = "q" if flags == "q" else known[1]
            place = below
        of = "any" if flags == "r" else _old_type(table, family, models, told["type"])
        table[place][last.replace("\0", ".")] = [of, flags]


def _old_type(table: Table, family: str, models: Any, text: str) -> str:
    if text[0] in "[{":
        return ("list:" if text[0] == "[" else "map:") + _old_type(table, family, models, text[1:-1])
    if text in MSREST:
        return MSREST[text]
    model = getattr(models, text, None)
    return "str" if model is None else "ref:" + _add(table, family, models, model)


def rendered(table: Table) -> str:
    """Return the table as it is kept: a model a line."""
    lines = (f"{json.dumps(name)}: {json.dumps(fields, sort_keys=True)}" for name, fields in table.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Write the table, or tell whether it is what the SDKs say."""
    parser = argparse.ArgumentParser(prog="derive", description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the table that the simulator reads")
    found = rendered(derive())
    if parser.parse_args().write:
        TABLE.write_text(found)
    print(f"{TABLE.name}: {len(json.loads(found))} models, {len(found)} bytes")


if __name__ == "__main__":
    main()
