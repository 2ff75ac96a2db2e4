"""Drivers of a cloud that an operator works in: every call becomes an order in the mailbox, and returns what came of it.

They keep the contract that the operator's own drivers keep, for they add nothing: tokens, deadlines, owners and errors travel as
they are. Nothing is retried here: the operator's layers do that, next to the cloud.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from anyscale_core.clock import Clock
from anyscale_core.controlplane.mailbox import Mailbox
from anyscale_core.controlplane.objects import RemoteObjects
from anyscale_core.drivers.base import Driver
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.errors import Retry, Transient
from anyscale_core.models.identity import Access, Credentials, Identity, IdentitySpec, Permission, Principal, Proof
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import Deletion, Instance, InstanceSpec, Offering, Outcome, Quota
from anyscale_core.models.networking import Check, Endpoint, EndpointSpec, Network, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec, Grant, UrlMethod

PATIENCE = timedelta(minutes=1)
"""The deadline of calls that have none of their own."""


class RemoteDriver(Driver):
    """Base of the four. ``provider``: the one whose driver the operator performs the orders with."""

    def __init__(self, mailbox: Mailbox, *, cloud: str, provider: str, clock: Clock) -> None:
        self.provider = provider
        self._mailbox, self._cloud, self._clock = mailbox, cloud, clock

    def _order(self, verb: str, deadline: datetime, **arguments: Any) -> Any:
        return self._mailbox.call(self._cloud, f"{self.slot}.{verb}", arguments, deadline=deadline)


class RemoteCluster(RemoteDriver, ClusterDriver):
    """Instances, by order."""

    def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
        outcomes: tuple[Outcome, ...] = self._order("create", deadline, specs=tuple(specs), token=token)
        return outcomes

    def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
        instance: Instance = self._order("get", deadline, id=id, owner=owner)
        return instance

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
        """Return what the operator lists now: a list that began after this call did, or an error. Never an older report."""
        instances: tuple[Instance, ...] = self._order("list", deadline, owner=owner)
        return instances

    def delete(self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime) -> Mapping[InstanceId, Deletion]:
        deletions: Mapping[InstanceId, Deletion] = self._order("delete", deadline, ids=tuple(ids), owner=owner)
        return deletions

    def delete_volume(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        deletion: Deletion = self._order("delete_volume", deadline, name=name, owner=owner)
        return deletion

    def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
        """Return the catalogue; the last one that is known while no operator answers, so that wishes can be recorded."""
        try:
            offerings: tuple[Offering, ...] = self._order("offerings", deadline)
        except Transient as error:
            kept = self._mailbox.catalogue(self._cloud) if error.retry is Retry.SAME else None
            if kept is None:
                raise
            return kept
        self._mailbox.keep_catalogue(self._cloud, offerings)
        return offerings

    def quotas(self, *, deadline: datetime) -> tuple[Quota, ...]:
        quotas: tuple[Quota, ...] = self._order("quotas", deadline)
        return quotas


class RemoteIdentity(RemoteDriver, IdentityDriver):
    """Identities, by order."""

    def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
        identity: Identity = self._order("create", deadline, spec=spec, token=token)
        return identity

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Identity:
        identity: Identity = self._order("get", deadline, name=name, owner=owner)
        return identity

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
        identities: tuple[Identity, ...] = self._order("list", deadline, owner=owner)
        return identities

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        deletion: Deletion = self._order("delete", deadline, name=name, owner=owner)
        return deletion

    def credentials(self, name: str, *, owner: Owner, deadline: datetime) -> Credentials:
        credentials: Credentials = self._order("credentials", deadline, name=name, owner=owner)
        return credentials

    def prove(self, audience: str, *, subject: str, deadline: datetime) -> Proof:
        proof: Proof = self._order("prove", deadline, audience=audience, subject=subject)
        return proof

    def verify(self, proof: Proof, *, audience: str, deadline: datetime) -> Principal:
        principal: Principal = self._order("verify", deadline, proof=proof, audience=audience)
        return principal

    def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
        """Return what the operator's driver needs: it makes no call to the cloud, but one to the operator."""
        deadline = self._clock.now() + PATIENCE
        permissions: tuple[Permission, ...] = self._order("permissions", deadline, features=tuple(features))
        return permissions


class RemoteStorage(RemoteDriver, StorageDriver):
    """Buckets, by order."""

    def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
        bucket: Bucket = self._order("create", deadline, spec=spec, owner=owner, token=token)
        return bucket

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
        bucket: Bucket = self._order("get", deadline, name=name, owner=owner)
        return bucket

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
        buckets: tuple[Bucket, ...] = self._order("list", deadline, owner=owner)
        return buckets

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        deletion: Deletion = self._order("delete", deadline, name=name, owner=owner)
        return deletion

    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        grant: Grant = self._order(
            "grant", deadline, bucket=bucket, prefix=prefix, identity=identity, access=access, owner=owner, token=token
        )
        return grant

    def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
        deletion: Deletion = self._order(
            "revoke", deadline, bucket=bucket, prefix=prefix, identity=identity, owner=owner
        )
        return deletion

    def objects(self, bucket: str, prefix: str = "", *, owner: Owner) -> RemoteObjects:
        """Return a store whose calls are orders too, for small objects: with the operator's rights, for the plane has none."""
        return RemoteObjects(self._objects_call, bucket=bucket, prefix=prefix, owner=owner)

    def signed_url(
        self, bucket: str, key: str, *, method: UrlMethod, expires_in: timedelta, owner: Owner, deadline: datetime
    ) -> Secret[str]:
        url: Secret[str] = self._order(
            "signed_url", deadline, bucket=bucket, key=key, method=method, expires_in=expires_in, owner=owner
        )
        return url

    def _objects_call(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        deadline = self._clock.now() + PATIENCE
        return self._mailbox.call(self._cloud, f"objects.{verb}", arguments, deadline=deadline)


class RemoteNetworking(RemoteDriver, NetworkingDriver):
    """Networks and ways in, by order."""

    def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
        network: Network = self._order("create", deadline, spec=spec, owner=owner, token=token)
        return network

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Network:
        network: Network = self._order("get", deadline, name=name, owner=owner)
        return network

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Network, ...]:
        networks: tuple[Network, ...] = self._order("list", deadline, owner=owner)
        return networks

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        deletion: Deletion = self._order("delete", deadline, name=name, owner=owner)
        return deletion

    def expose(self, spec: EndpointSpec, *, token: Token, deadline: datetime) -> Endpoint:
        endpoint: Endpoint = self._order("expose", deadline, spec=spec, token=token)
        return endpoint

    def withdraw(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        deletion: Deletion = self._order("withdraw", deadline, name=name, owner=owner)
        return deletion

    def check(self, name: str, *, owner: Owner, deadline: datetime) -> tuple[Check, ...]:
        checks: tuple[Check, ...] = self._order("check", deadline, name=name, owner=owner)
        return checks


REMOTE: Mapping[str, type[RemoteDriver]] = {
    cls.slot: cls for cls in (RemoteCluster, RemoteIdentity, RemoteStorage, RemoteNetworking)
}
