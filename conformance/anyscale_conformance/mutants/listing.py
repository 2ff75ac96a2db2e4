"""Providers whose lists lie, whose threads meet, and who do not keep to themselves."""

import logging
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, ClassVar

import attrs

from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.mutants.base import mutant
from anyscale_core.errors import InvalidRequest, Throttled, Transient
from anyscale_core.models.identity import Credentials, Identity, IdentitySpec, Permission
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Instance, InstanceSpec, InstanceState, Outcome
from anyscale_core.models.networking import Network, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec
from anyscale_core.testing.driver import FakeDriver, Page
from anyscale_core.testing.fake_cluster import FakeClusterDriver
from anyscale_core.testing.fake_identity import FakeIdentityDriver
from anyscale_core.testing.fake_networking import FakeNetworkingDriver
from anyscale_core.testing.fake_storage import FakeStorageDriver
from anyscale_core.testing.world import Machine

logger = logging.getLogger(__name__)


class Paging(FakeDriver):
    """A driver that goes through pages in a way of its own."""

    def _pages(self, shown: Any, *, deadline: datetime, owner: Owner) -> Any:
        out: list[Any] = []
        after: str | None = ""
        while after is not None:
            page = self.page(shown, after, deadline=deadline, owner=owner)
            out, after = self.joined(out, page, after)
        return tuple(out)

    def page(self, shown: Any, after: str, *, deadline: datetime, owner: Owner) -> Page[Any]:
        """Return one page."""
        found: Page[Any] = self._call("list", lambda: self._page(shown, after), deadline=deadline, owner=owner)
        return found

    def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
        """Return all so far, and the token to go on with; None to end."""
        raise NotImplementedError


@mutant("The first page is taken for the list.", caught_by=("X-PAGE-01", "X-PAGE-02"))
class FirstPageOnly(ReferenceKit):
    class Cluster(Paging, FakeClusterDriver):
        def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
            return [*out, *page.items], None


@mutant("The last of a page comes again as the first of the next.", caught_by=("X-PAGE-02",))
class TwiceAtTheBorder(ReferenceKit):
    class Storage(Paging, FakeStorageDriver):
        def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
            return [*out, *out[-1:], *page.items], page.next


@mutant("An error after the first page ends the list, and what there is comes back.", caught_by=("X-PAGE-03",))
class HalfAList(ReferenceKit):
    class Networking(Paging, FakeNetworkingDriver):
        def page(self, shown: Any, after: str, *, deadline: datetime, owner: Owner) -> Page[Any]:
            try:
                return super().page(shown, after, deadline=deadline, owner=owner)
            except Exception:
                if not after:
                    raise
                return Page(items=(), next=None)

        def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
            return [*out, *page.items], page.next


@mutant("A page token that repeats itself is followed for ever.", caught_by=("X-PAGE-04",))
class FollowsForEver(ReferenceKit):
    class Identity(Paging, FakeIdentityDriver):
        def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
            return [*out, *page.items], page.next


@mutant("A page token that has expired ends the list.", caught_by=("X-PAGE-04",))
class ExpiredIsTheEnd(ReferenceKit):
    class Cluster(Paging, FakeClusterDriver):
        def page(self, shown: Any, after: str, *, deadline: datetime, owner: Owner) -> Page[Any]:
            try:
                return super().page(shown, after, deadline=deadline, owner=owner)
            except InvalidRequest:
                return Page(items=(), next=None)

        def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
            if page.next is not None and page.next <= after:
                raise InvalidRequest("the page token leads nowhere")
            return [*out, *page.items], page.next


@mutant("Pages go by number, so what is deleted meanwhile hides something else.", caught_by=("X-PAGE-05",))
class PagesByNumber(ReferenceKit):
    class Storage(FakeStorageDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
            size, out = self._cloud.page_size, list[Bucket]()

            def act() -> tuple[tuple[Bucket, ...], bool]:
                every = sorted((s.bucket for s in self._cloud.buckets.values() if owner.owns(s.bucket.owner.tags())),
                               key=lambda bucket: bucket.name)  # fmt: skip
                return tuple(every[len(out) : len(out) + size]), len(every) > len(out) + size

            more = True
            while more:
                page, more = self._call("list", act, deadline=deadline, owner=owner)
                out += page
            return tuple(out)


@mutant("Each thing of a list is got once more.", caught_by=("X-PAGE-06",))
class GetsEachAgain(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
            found = super().list(owner, deadline=deadline)
            return tuple(self.get(each.name, owner=owner, deadline=deadline) for each in found)


@mutant("An empty page is the end.", caught_by=("X-PAGE-07",))
class EmptyIsTheEnd(ReferenceKit):
    class Networking(Paging, FakeNetworkingDriver):
        def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
            if page.next is not None and page.next <= after:
                raise InvalidRequest("the page token leads nowhere")
            return [*out, *page.items], page.next if page.items else None


@mutant("What was created is not listed until it runs.", caught_by=("X-EC-01",))
class ListsTheRunning(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            found = super().list(owner, deadline=deadline)
            return tuple(
                i for i in found if (i.created_at or self._clock.now()) < self._clock.now() - self._cloud.list_window
            )


@mutant("Whether it exists is looked up in the list, which lags.", caught_by=("X-EC-02",))
class LooksInTheList(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            names = {machine.spec.name for machine in self._cloud.listed()}
            wanted = [s if s.name in names else attrs.evolve(s, name=f"{s.name}-{self._cloud.serial()}") for s in specs]
            unseen = [s.name for s in specs if s.name not in names]
            return super().create(
                wanted, token=Token(f"{token}{self._cloud.serial()}" if unseen else token), deadline=deadline
            )


@mutant("A name that was used once is never free again.", caught_by=("X-EC-03", "X-SEQ-02"))
class NamesAreSpent(ReferenceKit):
    class Storage(FakeStorageDriver):
        def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
            used: dict[str, str] = self._cloud.__dict__.setdefault("used_names", {})
            if used.setdefault(spec.name, token) != token and spec.name not in self._cloud.buckets:
                raise InvalidRequest("the name was used before", reason="NAME")
            return super().create(spec, owner=owner, token=token, deadline=deadline)


@mutant("A delete goes by the name that the id once had.", caught_by=("X-EC-04",))
class DeletesByOldName(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _owned(self, id: Any, owner: Owner) -> Machine | None:
            found = super()._owned(id, owner)
            names = [machine.spec.name for machine in self._cloud.ever() if machine.id == id]
            return found or next((m for m in self._cloud.machines.values() if m.spec.name in names), None)


@mutant("Who comes at the same time with the same token gets one of his own.", caught_by=("X-CON-01",))
class ChecksThenActs(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        busy: ClassVar[set[str]] = set()

        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            name = spec.name
            if name in self.busy:
                spec, token = attrs.evolve(spec, name=f"{name}-b"), Token(f"{token}b")
            self.busy.add(name)
            import time

            time.sleep(0.02)
            try:
                return super().create(spec, owner=owner, token=token, deadline=deadline)
            finally:
                self.busy.discard(name)


@mutant("The name of the call under way is kept on the driver.", caught_by=("X-CON-02", "X-CON-05"))
class KeepsTheCallOnItself(ReferenceKit):
    class Storage(FakeStorageDriver):
        def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
            import time

            self._current = spec.name
            bucket = super().create(spec, owner=owner, token=token, deadline=deadline)
            time.sleep(0.005)
            return attrs.evolve(bucket, name=self._current)


@mutant("What was got once is kept in a cache of the class.", caught_by=("X-CON-06",))
class CacheOfTheClass(ReferenceKit):
    class Identity(FakeIdentityDriver):
        cache: ClassVar[dict[str, Identity]] = {}

        def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
            if token not in self.cache:
                self.cache[token] = super().create(spec, token=token, deadline=deadline)
            return self.cache[token]


@mutant("The spec's tags are written into.", caught_by=("X-ISO-01",))
class WritesIntoTheSpec(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            network = super().create(spec, owner=owner, token=token, deadline=deadline)
            if isinstance(spec.tags, dict):
                spec.tags.update(owner.tags())
            return network


@mutant("Closing one driver closes what all of them use.", caught_by=("X-ISO-02",))
class ClosesForAll(ReferenceKit):
    class Storage(FakeStorageDriver):
        def close(self) -> None:
            self._cloud.__dict__["closed"] = True

        def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
            if self._cloud.__dict__.get("closed"):
                raise InvalidRequest("the client is closed")
            return super().get(name, owner=owner, deadline=deadline)


@mutant("A variable of the environment decides on the region.", caught_by=("X-ISO-03",))
class ReadsTheEnvironment(ReferenceKit):
    class Storage(FakeStorageDriver):
        def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
            os.environ.get("FAKE_REGION")
            return super().create(spec, owner=owner, token=token, deadline=deadline)

    def package(self) -> str:
        return "anyscale_conformance"


@mutant("A statistics host is looked up.", caught_by=("X-ISO-04",))
class CallsHome(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            import contextlib
            import socket

            with contextlib.suppress(OSError):
                socket.getaddrinfo("192.0.2.1", 9)
            return super().create(spec, owner=owner, token=token, deadline=deadline)


@mutant("The spec is logged for debugging, with the secret in clear.", caught_by=("X-SEC-01",))
class LogsTheSecret(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            for spec in specs:
                if spec.bootstrap is not None:
                    logger.debug("user data: %s", spec.bootstrap.join_token.reveal())
            return super().create(specs, token=token, deadline=deadline)


@mutant("The text of an error quotes the request.", caught_by=("X-SEC-01",))
class ErrorQuotesTheSecret(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _check(self, spec: InstanceSpec) -> None:
            try:
                super()._check(spec)
            except InvalidRequest as error:
                error.add_note(f"the request was {spec.bootstrap and spec.bootstrap.join_token.reveal()}")
                raise


@mutant("What an instance was booted with comes back as a tag.", caught_by=("X-SEC-01", "X-SEC-02"))
class SecretInATag(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _launch(self, spec: InstanceSpec) -> Machine:
            machine = super()._launch(spec)
            secret = "" if spec.bootstrap is None else spec.bootstrap.join_token.reveal()
            machine.tags = {**machine.tags, "user-data": secret}
            return machine


class Bare(Secret[str]):
    """A secret that shows itself."""

    def __repr__(self) -> str:
        return self.reveal()

    __str__ = __repr__


@mutant("Credentials show themselves.", caught_by=("X-SEC-03",))
class CredentialsShow(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def credentials(self, name: str, *, owner: Owner, deadline: datetime) -> Credentials:
            found = super().credentials(name, owner=owner, deadline=deadline)
            return attrs.evolve(found, values={key: Bare(value.reveal()) for key, value in found.values.items()})


@mutant("A permission is a wildcard.", caught_by=("X-PRIV-02",))
class Wildcard(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
            return tuple(attrs.evolve(each, action="fake:cluster.*") for each in super().permissions(features))


@mutant("A request that no permission is declared for.", caught_by=("X-PRIV-01",))
class UndeclaredAction(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
            return tuple(each for each in super().permissions(features) if each.action != "fake:storage.list")


@mutant("A permission is declared that nothing uses.", caught_by=("X-PRIV-03",))
class IdlePermission(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
            found = super().permissions(features)
            return (*found, *(attrs.evolve(each, action=f"{each.action}.admin") for each in found[:1]))


@mutant("Reading an identity renews it.", caught_by=("X-PRIV-05",))
class ReadingWrites(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def get(self, name: str, *, owner: Owner, deadline: datetime) -> Identity:
            found = super().get(name, owner=owner, deadline=deadline)
            self._call("create", lambda: None, deadline=deadline)
            return found


@mutant("What is going is not listed any more.", caught_by=("X-PAGE-02",))
class HidesTheGoing(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            found = super().list(owner, deadline=deadline)
            return tuple(each for each in found if each.state is not InstanceState.DELETING)


@mutant("A list is made while it is read.", caught_by=("X-PAGE-01",))
class LazyList(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> Any:
            return (each for each in FakeIdentityDriver.list(self, owner, deadline=deadline))


@mutant("A bucket that is got alone is shown as the whole control plane's.", caught_by=("X-OWN-05",))
class ForgetsTheCluster(ReferenceKit):
    class Storage(FakeStorageDriver):
        def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
            found = super().get(name, owner=owner, deadline=deadline)
            return attrs.evolve(found, owner=attrs.evolve(found.owner, cluster=None))


@mutant("A token is forgotten after some minutes.", caught_by=("X-IDEM-01",))
class TokensExpire(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            slice = int(self._clock.now().timestamp()) // 300
            return super().create(spec, owner=owner, token=Token(f"{token}{slice}"), deadline=deadline)


@mutant("Retry-After is lost when a list is throttled.", caught_by=("X-RTY-02",))
class ListsLoseRetryAfter(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            try:
                return super().list(owner, deadline=deadline)
            except Throttled as error:
                error.retry_after = None
                raise


@mutant("A list that fails is tried once more.", caught_by=("X-RTY-01",))
class ListsAreTriedAgain(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Network, ...]:
            try:
                return super().list(owner, deadline=deadline)
            except Transient:
                return super().list(owner, deadline=deadline)
