"""Microsoft.Storage: accounts, their keys, containers and lifecycles. What is in containers is Azurite's."""

import base64
import os
import re
from datetime import timedelta

from anyscale_conformance.simulators.azure import blobs, shapes
from anyscale_conformance.simulators.azure.errors import ArmError, invalid
from anyscale_conformance.simulators.azure.kinds import Flow, Kind, fits, shown
from anyscale_conformance.simulators.azure.operations import route
from anyscale_conformance.simulators.azure.registry import register
from anyscale_conformance.simulators.azure.store import Resource, instant
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Reply, Request

ACCOUNTS = "Microsoft.Storage/storageAccounts"
SERVICES = f"{ACCOUNTS}/blobServices"
CONTAINERS = f"{SERVICES}/containers"
POLICIES = f"{ACCOUNTS}/managementPolicies"
MOST_TAGS = 15
"""Fewer than other resources have (REST reference of Microsoft.Storage/storageAccounts)."""
MOST_CORS, MOST_ORIGINS = 5, 64
"""https://learn.microsoft.com/rest/api/storageservices/cross-origin-resource-sharing--cors--support-for-the-azure-storage-services"""
NAME = r"[a-z0-9]{3,24}"


def list_keys(at: Subscription, account: Resource, request: Request) -> Reply:
    """Answer with an account's keys."""
    if account.properties.get("allowSharedKeyAccess") is False:
        raise ArmError(
            409,
            "KeyBasedAuthenticationNotPermitted",
            "Key based authentication is not permitted on this storage account.",
        )
    keys = [
        {"keyName": name, "value": value, "permissions": "FULL", "creationTime": instant(account.made_at)}
        for name, value in account.hidden["keys"].items()
    ]
    return Reply(status=200, body={"keys": keys})


def regenerate_key(at: Subscription, account: Resource, request: Request) -> Reply:
    """Make one of an account's keys anew."""
    name = shapes.checked("storage.StorageAccountRegenerateKeyParameters", request.body or {})["keyName"]
    if name not in account.hidden["keys"]:
        raise invalid(f"The key name {name} is not key1 or key2.", code="InvalidKeyName")
    account.hidden["keys"][name] = new_key()
    blobs.announce(at, account)
    return list_keys(at, account, request)


@register
class Account(Kind):
    """A storage account. Its name is one in all of Azure."""

    type = ACCOUNTS
    shape = "storage.StorageAccountCreateParameters"
    patch = "storage.StorageAccountUpdateParameters"
    put_flow = Flow.LOCATION
    delete_flow = Flow.SYNC
    takes = timedelta(seconds=18)
    created_status = 202
    name_pattern = r".+"
    actions = {"listkeys": list_keys, "regeneratekey": regenerate_key}  # noqa: RUF012 - a table

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        name = request.target.name
        if not fits(NAME, name):
            raise invalid(
                f"{name} is not a valid storage account name. Storage account name must be between 3 and 24 characters in length "
                "and use numbers and lower-case letters only.", code="AccountNameInvalid",
            )  # fmt: skip
        if old is None and not at.blobs.is_free(at, name):
            raise ArmError(409, "StorageAccountAlreadyTaken", f"The storage account named {name} is already taken.")
        if old is not None and old.state == "Creating":
            raise ArmError(
                409, "StorageAccountOperationInProgress",
                "An operation is currently performing on this storage account that requires exclusive access.",
            )  # fmt: skip
        if len(body.get("tags") or {}) > MOST_TAGS:
            raise invalid(f"A storage account has at most {MOST_TAGS} tags.", code="InvalidTags", target="tags")
        is_deep = (body.get("properties") or {}).get("isHnsEnabled")
        if old is not None and bool(is_deep) != bool(old.properties.get("isHnsEnabled")) and is_deep is not None:
            raise ArmError(
                409, "PropertyIsImmutable", "The property 'isHnsEnabled' was specified in the input, but it cannot be updated "
                "as it is read-only.", target="isHnsEnabled",
            )  # fmt: skip
        if body.get("kind") == "BlobStorage" and not (body.get("properties") or {}).get("accessTier"):
            raise invalid("The access tier is required for the kind BlobStorage.", code="AccessTierRequired")
        if old is None and sum(1 for _ in at.all(ACCOUNTS)) >= at.limit("storageAccounts", ""):
            raise ArmError(
                409, "MaxStorageAccountsCountPerSubscriptionExceeded",
                f"The maximum number of accounts ({at.limit('storageAccounts', '')}) has been reached.",
            )  # fmt: skip

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        before = (old or {}).get("properties") or {}
        for name, value in before.items():
            resource.properties.setdefault(name, value)
        for name in ("sku", "kind", "location"):
            if name in (old or {}):
                resource.body.setdefault(name, (old or {})[name])
        resource.body.setdefault("kind", "StorageV2")
        resource.hidden.setdefault("keys", {"key1": new_key(), "key2": new_key()})
        defaults: Body = {
            "creationTime": instant(at.now()), "primaryLocation": resource.location, "statusOfPrimary": "available",
            "supportsHttpsTrafficOnly": True, "allowBlobPublicAccess": False, "minimumTlsVersion": "TLS1_2",
            "primaryEndpoints": at.blobs.endpoints(resource.name), "encryption": {"keySource": "Microsoft.Storage"},
            "networkAcls": {"bypass": "AzureServices", "defaultAction": "Allow", "ipRules": [], "virtualNetworkRules": []},
        }  # fmt: skip
        for name, value in defaults.items():
            resource.properties.setdefault(name, value)
        service = f"{resource.id}/blobServices/default"
        if at.find(service) is None:
            at.make(service, SERVICES, {"properties": {"deleteRetentionPolicy": {"enabled": False}}})

    def finish(self, at: Subscription, resource: Resource) -> ArmError | None:
        blobs.announce(at, resource)
        return None

    def leave(self, at: Subscription, resource: Resource) -> None:
        blobs.empty(at, resource)

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = shown(resource)
        body.pop("etag")
        return body


@register
class BlobService(Kind):
    """The blob service of an account: there is one, called default."""

    type = SERVICES
    shape = "storage.BlobServiceProperties"
    put_flow = Flow.SYNC
    has_location = False
    name_pattern = "default"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        rules = (body["properties"].get("cors") or {}).get("corsRules") or ()
        if len(rules) > MOST_CORS or any(len(rule["allowedOrigins"]) > MOST_ORIGINS for rule in rules):
            raise invalid(
                f"A blob service has at most {MOST_CORS} CORS rules of {MOST_ORIGINS} origins each.",
                code="InvalidXmlDocument",
            )

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = shown(resource)
        body["properties"].pop("provisioningState")
        return body


@register
class Container(Kind):
    """A container. It is Azurite's, and seen from here."""

    type = CONTAINERS
    shape = "storage.BlobContainer"
    patch = "storage.BlobContainer"
    put_flow = Flow.SYNC
    delete_flow = Flow.SYNC
    has_location = False
    name_pattern = r"[a-z0-9](-?[a-z0-9]){2,62}|\$web|\$root"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        account = _account(at, request.target.path)
        wanted = (body.get("properties") or {}).get("publicAccess")
        if wanted not in (None, "None") and not account.properties.get("allowBlobPublicAccess"):
            raise ArmError(409, "PublicAccessNotPermitted", "Public access is not permitted on this storage account.")

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        blobs.make_container(at, _account(at, resource.id), resource)
        resource.properties.update(
            lastModifiedTime=instant(at.now()), leaseStatus="Unlocked", leaseState="Available",
            hasImmutabilityPolicy=False, hasLegalHold=False,
        )  # fmt: skip
        resource.properties.setdefault("publicAccess", "None")

    def leave(self, at: Subscription, resource: Resource) -> None:
        account = at.find(resource.id.partition("/blobServices/")[0])
        if account is not None:
            blobs.drop_container(at, account, resource.name)

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = shown(resource)
        body["properties"].pop("provisioningState")
        return body

    def look(self, at: Subscription, path: str) -> None:
        account = at.find(path.partition("/blobServices/")[0])
        if account is not None:
            blobs.refresh(at, account)


@register
class ManagementPolicy(Kind):
    """The lifecycle of an account's blobs: there is one, called default."""

    type = POLICIES
    shape = "storage.ManagementPolicy"
    put_flow = Flow.SYNC
    delete_flow = Flow.SYNC
    created_status = 200
    has_location = False
    name_pattern = "default"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        rules = body["properties"]["policy"]["rules"]
        names = [rule["name"] for rule in rules]
        if (
            len(set(names)) < len(names)
            or len(names) > 100
            or not all(fits(r"[A-Za-z0-9\-]{1,256}", one) for one in names)
        ):
            raise invalid(
                "The names of the rules have to be different ones of letters, digits and -.", code="InvalidRequest"
            )

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        resource.properties["lastModifiedTime"] = instant(at.now())


@route("POST", "Microsoft.Storage/checkNameAvailability")
def check_name(at: Subscription, request: Request) -> Reply:
    """Answer whether an account may be called so."""
    name = str(shapes.checked("storage.StorageAccountCheckNameAvailabilityParameters", request.body or {})["name"])
    if not fits(NAME, name):
        return Reply(
            status=200,
            body={"nameAvailable": False, "reason": "AccountNameInvalid", "message": f"{name} is not a valid name."},
        )
    if not at.blobs.is_free(at, name):
        text = f"The storage account named {name} is already taken."
        return Reply(status=200, body={"nameAvailable": False, "reason": "AlreadyExists", "message": text})
    return Reply(status=200, body={"nameAvailable": True})


def new_key() -> str:
    """Return a new key of an account, in base64."""
    return base64.b64encode(os.urandom(64)).decode()


def _account(at: Subscription, path: str) -> Resource:
    found = at.find(re.split("/blobServices/", path, flags=re.IGNORECASE)[0])
    assert found is not None
    return found
