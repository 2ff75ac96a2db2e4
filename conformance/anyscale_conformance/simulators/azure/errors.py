"""What the simulated Azure refuses with: the codes, statuses and messages that the real one is documented to send."""

from collections.abc import Mapping, Sequence
from typing import Any

CONFLICT, BAD_REQUEST, FORBIDDEN, NOT_FOUND = 409, 400, 403, 404


class ArmError(Exception):
    """An answer of ARM that is no success. ``body`` is its error envelope."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        target: str | None = None,
        details: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message, self.target = status, code, message, target
        self.details, self.headers = tuple(details), dict(headers or {})

    @property
    def error(self) -> dict[str, Any]:
        """The inner object, as an operation carries it too."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.target is not None:
            error["target"] = self.target
        if self.details:
            error["details"] = [dict(detail) for detail in self.details]
        return error

    @property
    def body(self) -> dict[str, Any]:
        """The envelope."""
        return {"error": self.error}


def invalid(message: str, *, target: str | None = None, code: str = "InvalidParameter") -> ArmError:
    """Return what a resource provider says of a value that can never do."""
    return ArmError(BAD_REQUEST, code, message, target=target)


def resource_not_found(type: str, name: str, group: str) -> ArmError:
    """Return what ARM says of a resource that is not there."""
    return ArmError(
        NOT_FOUND, "ResourceNotFound",
        f"The Resource '{type}/{name}' under resource group '{group}' was not found. For more details please go to "
        "https://aka.ms/ARMResourceNotFoundFix",
    )  # fmt: skip


def group_not_found(group: str) -> ArmError:
    """Return what ARM says of a resource group that is not there."""
    return ArmError(NOT_FOUND, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")


def group_being_deleted(group: str) -> ArmError:
    """Return what ARM says to a write into a group that is going."""
    return ArmError(
        CONFLICT, "ResourceGroupBeingDeleted",
        f"The resource group '{group}' is in deprovisioning state and cannot perform this operation.",
    )  # fmt: skip


def parent_not_found(parent: str) -> ArmError:
    """Return what ARM says to a write of a child without its parent."""
    return ArmError(
        NOT_FOUND, "ParentResourceNotFound",
        f"Failed to perform 'write' on resource(s) of type, because the parent resource '{parent}' could not be found.",
    )  # fmt: skip


def bad_reference(wanted: str, by: str) -> ArmError:
    """Return what a resource provider says of a reference into nothing."""
    return ArmError(
        BAD_REQUEST, "InvalidResourceReference",
        f"Resource {wanted} referenced by resource {by} was not found. Please make sure that the referenced resource exists, "
        "and that both resources are in the same region.",
    )  # fmt: skip


def quota(name: str, location: str, *, limit: int, used: int, wanted: int) -> ArmError:
    """Return what Compute says when cores would exceed a quota: OperationNotAllowed, told from others by its text alone."""
    return ArmError(
        CONFLICT, "OperationNotAllowed",
        f"Operation could not be completed as it results in exceeding approved {name} quota. Additional details - Deployment "
        f"Model: Resource Manager, Location: {location}, Current Limit: {limit}, Current Usage: {used}, Additional Required: "
        f"{wanted}, (Minimum) New Limit Required: {used + wanted}. Submit a request for Quota increase at "
        "https://aka.ms/ProdportalCRP by specifying parameters listed in the 'Details' section for deployment to succeed. "
        "Please read more about quota limits at https://docs.microsoft.com/en-us/azure/azure-supportability/per-vm-quota-requests",
    )  # fmt: skip
