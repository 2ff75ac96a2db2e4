"""The storage driver: buckets are containers of the cloud's storage account, grants are role assignments on prefixes."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from anyscale_azure import containers, identities, objects, roles, signing, upkeep
from anyscale_azure import tags as tagging
from anyscale_azure.client import Azure
from anyscale_azure.config import read_settings
from anyscale_azure.containers import CONTAINER, Container
from anyscale_azure.roles import Assignment, Held
from anyscale_azure.tags import Stamp
from anyscale_azure.upkeep import NOTHING, Upkeep
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.storage import ObjectStore, StorageDriver
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec, Grant, StoreAccess, UrlMethod

ACCOUNT = "Microsoft.Storage/storageAccounts"
HANDED = timedelta(hours=1)
"""How long a person's access to a prefix is good; there is no taking it back."""
CREATING = timedelta(seconds=5)
"""How long an account that is being made is left alone; it takes about twenty seconds."""


class AzureStorage(StorageDriver):
    """Containers of one storage account, flat or with folders."""

    provider = "azure"

    def __init__(self, config: DriverConfig, azure: Azure | None = None) -> None:
        self._settings = azure.settings if azure else read_settings(config)
        self._azure = azure or Azure(self._settings, config.clock)
        self._owner = config.owner
        self._granting, self._keeping = threading.Lock(), threading.Lock()
        self._adopted: dict[tuple[str, str, str], str] = {}
        """Containers of adopted buckets, which have names of the customer's, by plane, cloud and name; learned on the way."""

    def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
        tagging.check_owner(owner)
        tagging.check_name(spec.name)
        self._ensure_account(owner, deadline)
        stamp = tagging.stamp(token, [spec, owner])
        there = containers.every(self._azure, deadline)
        for each in there:
            same = tagging.is_same_cloud(each.owner, owner) and each.stamp.token == stamp.token
            if same and each.stamp.request != stamp.request:
                raise tagging.mismatch("bucket", each.name)
        standing = next((c for c in there if c.name == spec.name and tagging.is_same_cloud(c.owner, owner)), None)
        if standing is not None:
            return self._met(standing, spec, owner, stamp, deadline)
        self._check(spec)
        wanted = upkeep.wanted(spec)
        tags = tagging.written(spec.name, owner, stamp, spec.tags)
        if spec.adopt is not None:
            return self._adopt(spec, tags, owner, wanted, deadline)
        container = containers.container_of(spec.name, owner)
        try:
            with self._kept(container, wanted, deadline):
                self._azure.blob(
                    "PUT", self._settings.storage_account, f"/{container}", params=CONTAINER,
                    headers=containers.metadata_of(tags, wanted), deadline=deadline,
                )  # fmt: skip
        except AlreadyExists:
            found = containers.find(self._azure, container, deadline)
            if found is None:
                raise
            return self._met(found, spec, owner, stamp, deadline)
        return Container(container=container, tags=tags, adopted=False).view(self._settings)

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
        return self._owned(name, owner, deadline).view(self._settings)

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
        tagging.check_owner(owner)
        account = self._account(deadline)
        if account is None or not _is_made(account):
            return ()
        found = containers.every(self._azure, deadline)
        for each in found:
            self._learn(each)
        return tuple(each.view(self._settings) for each in found if owner.owns(each.tags))

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        tagging.check_owner(owner)
        found = self._find(name, owner, deadline)
        if found is None:
            return Deletion.ALREADY_ABSENT
        try:
            is_empty = found.adopted or containers.is_empty(self._azure, found.container, deadline)
        except NotFound:  # somebody else's delete was quicker
            return Deletion.ALREADY_ABSENT
        if not is_empty:
            raise Conflict(f"bucket {name!r} is not empty", reason="NOT_EMPTY", resource=name, hint="empty it first")
        with self._kept(found.container, NOTHING, deadline, before=found.upkeep):
            pass
        scope = self._scope(found)
        if found.adopted:
            paths = tuple(each.path for each in roles.at_scope(self._azure, scope, deadline))
        else:  # Azure keeps assignments on what is no more: all on a container that we made go with it
            paths = roles.all_at_scope(self._azure, scope, deadline)
        for assignment in paths:
            self._azure.send("DELETE", assignment, roles.VERSION, deadline=deadline)
        account, path = self._settings.storage_account, f"/{found.container}"
        if found.adopted:
            kept = {f"{containers.META}{key}": value for key, value in found.others.items()}
            params = {**CONTAINER, "comp": "metadata"}
            self._azure.blob("PUT", account, path, params=params, headers=kept, deadline=deadline)
            return Deletion.GONE
        try:
            self._azure.blob("DELETE", account, path, params=CONTAINER, deadline=deadline)
        except NotFound:
            return Deletion.ALREADY_ABSENT
        return Deletion.GONE

    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        tagging.check_owner(owner)
        roles.check_prefix(prefix)
        found = self._owned(bucket, owner, deadline)
        person = identities.find(self._azure, identity, owner, deadline)
        if person is None:
            raise NotFound(f"no identity {identity!r}", reason="REFERENCE", resource=identity)
        # First: it grants nothing, so when it fails nothing is left.
        elsewhere = self._elsewhere(found, prefix, access, deadline)
        word = tagging.digest(token, length=roles.TOKEN)
        # Two grants to one identity are two changes of one assignment; the core lets one control plane at a time make them.
        with self._granting:
            there = roles.at_scope(self._azure, self._scope(found), deadline)
            for assignment in there:
                for held in assignment.held:
                    same = (assignment.principal, assignment.access, held.prefix) == (person.principal, access, prefix)
                    if held.token == word and not same:
                        raise tagging.mismatch("grant", f"{bucket}/{held.prefix}")
            standing = roles.standing(there, person.principal, access)
            base = standing or Assignment(scope=self._scope(found), principal=person.principal, access=access, held=())
            if not any(held.prefix == prefix for held in base.held):
                roles.put(self._azure, roles.with_prefix(base, Held(prefix=prefix, token=word)), deadline)
        store = self._store(found, prefix, {"client_id": Secret(person.client_id)} if person.client_id else {})
        return Grant(bucket=bucket, prefix=prefix, identity=identity, access=access, store=store, elsewhere=elsewhere)

    def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
        tagging.check_owner(owner)
        found = self._find(bucket, owner, deadline)
        person = None if found is None else identities.find(self._azure, identity, owner, deadline)
        if found is None or person is None:
            return Deletion.ALREADY_ABSENT
        answer = Deletion.ALREADY_ABSENT
        with self._granting:
            for assignment in roles.at_scope(self._azure, self._scope(found), deadline):
                less = roles.without(assignment, prefix)
                if assignment.principal == person.principal and less.held != assignment.held:
                    roles.put(self._azure, less, deadline)
                    answer = Deletion.GONE
        return answer

    def objects(self, bucket: str, prefix: str = "", *, owner: Owner) -> ObjectStore:
        self._check_account()
        tagging.check_name(bucket)
        usual = containers.container_of(bucket, owner)
        container = self._adopted.get((owner.plane, owner.cloud, bucket), usual)
        return objects.open_store(self._azure, container, prefix)

    def signed_url(
        self, bucket: str, key: str, *, method: UrlMethod, expires_in: timedelta, owner: Owner, deadline: datetime
    ) -> Secret[str]:
        found = self._owned(bucket, owner, deadline)
        if not timedelta() < expires_in <= signing.LONGEST:
            message = f"a URL cannot be good for {expires_in}"
            hint = f"give more than nothing and at most {signing.LONGEST}"
            raise InvalidRequest(message, reason="FIELD", resource=key, hint=hint)
        now = self._azure.clock.now()
        url = signing.signed(
            self._azure, found.container, key, method, now=now, expires_in=expires_in, deadline=deadline
        )
        return Secret(url)

    def close(self) -> None:
        self._azure.close()

    def _met(self, found: Container, spec: BucketSpec, owner: Owner, stamp: Stamp, deadline: datetime) -> Bucket:
        """Return the bucket that has the name, if this very request made it, as it was to be. Raises what else it is."""
        error = tagging.taken("bucket", spec.name, found.tags, owner, stamp)
        if error is not None:
            raise error
        self._learn(found)
        with self._kept(found.container, found.upkeep, deadline):
            return found.view(self._settings)

    @contextmanager
    def _kept(self, container: str, wanted: Upkeep, deadline: datetime, *, before: Upkeep = NOTHING) -> Iterator[None]:
        """Let the account have what a container wants once the block has ended well, where that is anything or was."""
        if NOTHING == wanted == before:
            yield
            return
        # Two changes of an account's one policy would undo each other; the core lets one control plane at a time make them.
        with self._keeping:
            there = containers.every(self._azure, deadline)
            others = [each.upkeep for each in there if each.container != container]
            changes = upkeep.planned(self._azure, container, wanted, others, deadline)
            yield
            for change in changes:
                change()

    def _adopt(
        self, spec: BucketSpec, tags: dict[str, str], owner: Owner, wanted: Upkeep, deadline: datetime
    ) -> Bucket:
        container = containers.container_in(spec.adopt or "", self._settings)
        found = containers.find(self._azure, container, deadline)
        if found is None:
            raise NotFound(f"no container {container!r} to adopt", reason="REFERENCE", hint="name one that exists")
        if found.owner.plane:
            reason = "OWNED" if tagging.is_same_cloud(found.owner, owner) else "FOREIGN"
            raise AlreadyExists(f"{container} is the bucket {found.name} already", reason=reason, resource=spec.name)
        headers = containers.metadata_of(tags, wanted, adopted=found.others)
        params = {**CONTAINER, "comp": "metadata"}
        account = self._settings.storage_account
        with self._kept(container, wanted, deadline):
            self._azure.blob("PUT", account, f"/{container}", params=params, headers=headers, deadline=deadline)
        adopted = Container(container=container, tags=tags, adopted=True, is_public=found.is_public)
        self._learn(adopted)
        return adopted.view(self._settings)

    def _store(
        self, found: Container, prefix: str, options: Mapping[str, Secret[str]], *, expires_at: datetime | None = None
    ) -> StoreAccess:
        """Return how obstore reaches a prefix. It knows the names ``abfss://`` and ``https://`` of the public cloud alone."""
        account = self._settings.storage_account
        place = {"account_name": Secret(account), "endpoint": Secret(self._azure.blob_url(account))}
        return StoreAccess(url=f"az://{found.container}/{prefix}", options={**place, **options}, expires_at=expires_at)

    def _elsewhere(self, found: Container, prefix: str, access: Access, deadline: datetime) -> StoreAccess | None:
        """Return the access of who cannot have the identity's tokens; None without folders, which alone keep it to a prefix."""
        if not self._settings.hierarchical_namespace:
            return None
        now = self._azure.clock.now()
        query = signing.signed_prefix(
            self._azure, found.container, prefix, access, now=now, expires_in=HANDED, deadline=deadline
        )
        return self._store(found, prefix, {"sas_token": Secret(query)}, expires_at=now + HANDED)

    def _owned(self, name: str, owner: Owner, deadline: datetime) -> Container:
        found = self._find(name, owner, deadline)
        if found is None:
            raise NotFound(f"no bucket {name!r}", reason="RESOURCE", resource=name)
        return found

    def _find(self, name: str, owner: Owner, deadline: datetime) -> Container | None:
        """Return an owner's bucket: one that we made by its container's name, else one that was adopted by the list."""
        self._check_account()
        if not owner.plane or not tagging.is_name(name):
            return None
        found = containers.find(self._azure, containers.container_of(name, owner), deadline)
        if found is None or found.name != name:
            found = next(
                (each for each in containers.every(self._azure, deadline) if each.adopted and each.name == name
                 and tagging.is_same_cloud(each.owner, owner)), None,
            )  # fmt: skip
        if found is None or not owner.owns(found.tags):
            return None
        self._learn(found)
        return found

    def _learn(self, found: Container) -> None:
        if found.adopted:
            self._adopted[found.owner.plane, found.owner.cloud, found.name] = found.container

    def _scope(self, found: Container) -> str:
        return self._settings.resource(
            f"{ACCOUNT}/blobServices/containers", self._settings.storage_account, "default", found.container
        )

    def _check(self, spec: BucketSpec) -> None:
        here = self._settings.location
        if spec.region not in ("", here):
            hint = f"leave region out, or give {here}: an account has one place"
            raise InvalidRequest(f"buckets are in {here}", reason="UNSUPPORTED_VALUE", resource=spec.name, hint=hint)

    def _check_account(self) -> None:
        if not self._settings.storage_account:
            hint = "set storage_account: 3 to 24 small letters and digits, unique in the world"
            raise InvalidRequest("the cloud has no storage account", reason="FIELD", hint=hint)

    def _account(self, deadline: datetime) -> Mapping[str, Any] | None:
        """Return the storage account; None when it has not been made yet."""
        self._check_account()
        name, group = self._settings.storage_account, self._settings.resource_group
        read = self._azure.storage.storage_accounts.get_properties
        try:
            return self._azure.first(f"{ACCOUNT}/read", read, group, name, deadline=deadline).body
        except NotFound as error:
            if error.vendor is not None and error.vendor.code == "ResourceGroupNotFound":
                raise
            return None

    def _ensure_account(self, owner: Owner, deadline: datetime) -> None:
        """Make the account where there is none. Raises Conflict(BUSY) until Azure has made it."""
        found = self._account(deadline)
        name, group = self._settings.storage_account, self._settings.resource_group
        if found is None:
            create = self._azure.storage.storage_accounts.begin_create
            body = self._private_account(owner)
            answer = self._azure.first(f"{ACCOUNT}/write", create, group, name, body, resource=name, deadline=deadline)
            found = answer.body
        if not _is_made(found):
            message = f"the storage account {name} is being made"
            raise Conflict(message, reason="BUSY", resource=name, retry_after=CREATING)

    def _private_account(self, owner: Owner) -> dict[str, object]:
        """Return the body of an account that nobody can read without signing in."""
        whole = Owner(plane=owner.plane, cloud=owner.cloud)
        return {
            "location": self._settings.location,
            "kind": "StorageV2",
            "sku": {"name": "Standard_LRS"},
            "tags": whole.tags(),
            "properties": {
                "isHnsEnabled": self._settings.hierarchical_namespace, "allowBlobPublicAccess": False,
                "allowSharedKeyAccess": False, "minimumTlsVersion": "TLS1_2", "supportsHttpsTrafficOnly": True,
            },
        }  # fmt: skip


def _is_made(account: Mapping[str, Any]) -> bool:
    return bool(account.get("properties", {}).get("provisioningState") == "Succeeded")
