"""The kinds of things that drivers make, behind one shape, so that a check of all drivers is written once.

A subject's name is its row's: ``cluster``, ``identity``, ``storage``, ``networking`` are the things of the four verbs;
``networking.endpoint`` and ``storage.grant`` are what the other verbs make.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import attrs

from anyscale_conformance.expect import CheckFailed, expect, expect_equal
from anyscale_core.errors import NotFound
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import InstanceId, NodeId, Token
from anyscale_core.models.instance import Created, Deletion, NotCreated
from anyscale_core.models.owner import Owner

if TYPE_CHECKING:
    from anyscale_conformance.context import Context

MAIN = ("cluster", "identity", "storage", "networking")
"""What the four verbs make: one subject per slot."""
BATCH = "cluster.batch"
ENDPOINT = "networking.endpoint"
GRANT = "storage.grant"
ALL = (*MAIN, BATCH, ENDPOINT, GRANT)
"""Everything that any verb makes."""
LASTING = (*MAIN, BATCH, ENDPOINT)
"""Everything that can be listed."""


class Subject(ABC):
    """One kind of thing. ``kind``: what an oracle calls it. ``needs``: the capabilities without which none can be made."""

    name: str
    slot: str
    kind: str
    needs: tuple[str, ...] = ()
    create_action: str
    delete_action: str
    size: int = 1
    """How many items of its kind one create makes."""

    def __init__(self, ctx: "Context") -> None:
        self.ctx = ctx

    @property
    def driver(self) -> Any:
        """The driver that makes it."""
        return self.ctx.driver(self.slot)

    @abstractmethod
    def spec(self, name: str | None = None, *, owner: Owner | None = None) -> Any:
        """Return the smallest valid spec, under a new name unless one is given, of the row's owner unless one is given."""

    @abstractmethod
    def create(self, spec: Any, *, token: Token | None = None) -> Any:
        """Create one, with a new token unless one is given; return what the driver shows of it. Raises what it raises."""

    @abstractmethod
    def key(self, thing: Any) -> str:
        """Return what ``get`` and ``delete`` take: an id or a name."""

    def get(self, key: str, *, owner: Owner | None = None) -> Any:
        """Get it."""
        return self.driver.get(key, owner=owner or self.ctx.owner, deadline=self.deadline())

    def list(self, *, owner: Owner | None = None) -> tuple[Any, ...]:
        """List all of an owner, as the driver does now."""
        return tuple(self.driver.list(owner or self.ctx.owner, deadline=self.deadline()))

    @abstractmethod
    def delete(self, key: str, *, owner: Owner | None = None) -> Deletion:
        """Begin to delete it."""

    def others(self, spec: Any) -> tuple[Any, ...]:
        """Return specs that differ from this one in one thing each."""
        return (self.renamed(spec, self.ctx.name()), attrs.evolve(spec, tags={**spec.tags, "conformance": "other"}))

    def renamed(self, spec: Any, name: str) -> Any:
        """Return the spec under another name."""
        return attrs.evolve(spec, name=name)

    def retagged(self, spec: Any, tags: dict[str, str]) -> Any:
        """Return the spec with these tags of the user."""
        return attrs.evolve(spec, tags=tags)

    def listed(self, *, owner: Owner | None = None) -> tuple[Any, ...]:
        """List all of an owner after the declared window, when a list has to be right."""
        self.ctx.pass_window("consistency.list")
        return self.list(owner=owner)

    def names(self, *, owner: Owner | None = None) -> tuple[str, ...]:
        """Return the names that a list shows after the declared window, in order, with what is being deleted left out."""
        things = self.listed(owner=owner)
        going = ("deleting",)
        return tuple(sorted(t.name for t in things if getattr(getattr(t, "state", None), "value", "") not in going))

    def delete_for_good(self, key: str, *, owner: Owner | None = None) -> None:
        """Delete it and wait until it is gone. Fails the check when that takes longer than the kit's patience."""
        if self.delete(key, owner=owner) is not Deletion.GOING:
            return
        self.ctx.eventually(
            lambda: self.is_gone(key, owner=owner), f"the {self.kind} {key} to be gone after its delete"
        )

    def delete_and_wait(self, key: str) -> None:
        """Delete it and wait until a repeat says that it is gone: for what cannot be got, too."""
        if self.delete(key) is Deletion.GOING:
            self.ctx.eventually(
                lambda: self.delete(key) is not Deletion.GOING, f"the delete of {self.kind} {key} to end"
            )

    def is_gone(self, key: str, *, owner: Owner | None = None) -> bool:
        """Tell whether ``get`` proves it absent."""
        try:
            self.get(key, owner=owner)
        except NotFound:
            return True
        return False

    def make(self, name: str | None = None, *, owner: Owner | None = None) -> Any:
        """Create one from the smallest spec."""
        return self.create(self.spec(name, owner=owner))

    def deadline(self) -> Any:
        """A deadline that no single call should reach."""
        return self.ctx.deadline()

    def token(self, token: Token | None) -> Token:
        """The token given, or a new one."""
        return self.ctx.token() if token is None else token

    def _sample(self, name: str) -> Any:
        sample = getattr(self.ctx.samples, name)
        if sample is None:
            raise RuntimeError(f"the kit's samples() gives no {name}, and the provider fills the slot {self.slot}")
        return sample


class InstanceSubject(Subject):
    """Instances, one by one; a batch is made with the driver itself."""

    name, slot, kind = "cluster", "cluster", "instance"
    create_action, delete_action = "cluster.create", "cluster.delete"

    def spec(self, name: str | None = None, *, owner: Owner | None = None) -> Any:
        name = name or self.ctx.name()
        owner = owner or self.ctx.owner
        sample = self._sample("instance")
        node_id = NodeId(f"nod_{name}")
        bootstrap = None if sample.bootstrap is None else attrs.evolve(sample.bootstrap, node_id=node_id)
        return attrs.evolve(sample, name=name, node_id=node_id, owner=owner, bootstrap=bootstrap)

    def create(self, spec: Any, *, token: Token | None = None) -> Any:
        outcomes = self.driver.create([spec], token=self.token(token), deadline=self.deadline())
        expect(len(outcomes) == 1, f"cluster.create of one spec returned {len(outcomes)} outcomes, not one")
        outcome = outcomes[0]
        if isinstance(outcome, NotCreated):
            raise outcome.error
        if not isinstance(outcome, Created):
            raise CheckFailed(f"cluster.create returned a {type(outcome).__name__}, neither Created nor NotCreated")
        return outcome.instance

    def key(self, thing: Any) -> str:
        return str(thing.id)

    def get(self, key: str, *, owner: Owner | None = None) -> Any:
        return self.driver.get(InstanceId(key), owner=owner or self.ctx.owner, deadline=self.deadline())

    def delete(self, key: str, *, owner: Owner | None = None) -> Deletion:
        id = InstanceId(key)
        answer = self.driver.delete([id], owner=owner or self.ctx.owner, deadline=self.deadline())
        expect(set(answer) == {id}, f"cluster.delete of {id} answered for {sorted(answer)}")
        return Deletion(answer[id])

    def renamed(self, spec: Any, name: str) -> Any:
        node_id = NodeId(f"nod_{name}")
        bootstrap = None if spec.bootstrap is None else attrs.evolve(spec.bootstrap, node_id=node_id)
        return attrs.evolve(spec, name=name, node_id=node_id, bootstrap=bootstrap)


@attrs.frozen(kw_only=True)
class BatchSpec:
    """Several instances that are wanted in one call. ``name`` is the first one's."""

    owner: Owner
    specs: tuple[Any, ...]

    @property
    def name(self) -> str:
        """What the batch is called in messages."""
        return str(self.specs[0].name)


@attrs.frozen(kw_only=True)
class Batch:
    """What a batch made."""

    instances: tuple[Any, ...]

    @property
    def name(self) -> str:
        """What the batch is called in messages."""
        return str(self.instances[0].name)


class BatchSubject(InstanceSubject):
    """Several instances made by one call; a key is their ids, with blanks between."""

    name = BATCH
    needs = ("cluster.batch",)
    size = 3

    def spec(self, name: str | None = None, *, owner: Owner | None = None) -> Any:
        first = super().spec(name, owner=owner)
        rest = tuple(InstanceSubject.spec(self, owner=owner) for _ in range(self.size - 1))
        return BatchSpec(owner=first.owner, specs=(first, *rest))

    def create(self, spec: Any, *, token: Token | None = None) -> Any:
        outcomes = self.driver.create(spec.specs, token=self.token(token), deadline=self.deadline())
        expect_equal(len(outcomes), len(spec.specs), "the number of outcomes of a batch")
        for wanted, outcome in zip(spec.specs, outcomes, strict=True):
            if isinstance(outcome, NotCreated):
                raise outcome.error
            expect_equal(outcome.instance.name, wanted.name, "the name in the outcome at a spec's place in the batch")
        return Batch(instances=tuple(outcome.instance for outcome in outcomes))

    def key(self, thing: Any) -> str:
        return " ".join(instance.id for instance in thing.instances)

    def get(self, key: str, *, owner: Owner | None = None) -> Any:
        return Batch(instances=tuple(InstanceSubject.get(self, id, owner=owner) for id in key.split()))

    def delete(self, key: str, *, owner: Owner | None = None) -> Deletion:
        ids = [InstanceId(id) for id in key.split()]
        answer = self.driver.delete(ids, owner=owner or self.ctx.owner, deadline=self.deadline())
        expect_equal(set(answer), set(ids), "the ids that a delete of a batch answered for")
        order = (Deletion.GOING, Deletion.GONE, Deletion.ALREADY_ABSENT)
        return min((Deletion(each) for each in answer.values()), key=order.index)

    def others(self, spec: Any) -> tuple[Any, ...]:
        more = attrs.evolve(spec, specs=(*spec.specs, InstanceSubject.spec(self, owner=spec.owner)))
        changed = attrs.evolve(spec.specs[-1], tags={"conformance": "other"})
        return (more, attrs.evolve(spec, specs=spec.specs[:-1]), attrs.evolve(spec, specs=(*spec.specs[:-1], changed)))


class NamedSubject(Subject):
    """Identities, buckets and networks: the four verbs by name."""

    sample: str

    def spec(self, name: str | None = None, *, owner: Owner | None = None) -> Any:
        return attrs.evolve(self._sample(self.sample), name=name or self.ctx.name(), owner=owner or self.ctx.owner)

    def create(self, spec: Any, *, token: Token | None = None) -> Any:
        return self.driver.create(spec, owner=spec.owner, token=self.token(token), deadline=self.deadline())

    def key(self, thing: Any) -> str:
        return str(thing.name)

    def delete(self, key: str, *, owner: Owner | None = None) -> Deletion:
        return Deletion(self.driver.delete(key, owner=owner or self.ctx.owner, deadline=self.deadline()))


class IdentitySubject(NamedSubject):
    """Identities."""

    name, slot, kind, sample = "identity", "identity", "identity", "identity"
    needs = ("identity.create",)
    create_action, delete_action = "identity.create", "identity.delete"

    def create(self, spec: Any, *, token: Token | None = None) -> Any:
        return self.driver.create(spec, token=self.token(token), deadline=self.deadline())


class BucketSubject(NamedSubject):
    """Buckets."""

    name, slot, kind, sample = "storage", "storage", "bucket", "bucket"
    create_action, delete_action = "storage.create", "storage.delete"


class NetworkSubject(NamedSubject):
    """Networks."""

    name, slot, kind, sample = "networking", "networking", "network", "network"
    needs = ("networking.create",)
    create_action, delete_action = "networking.create", "networking.delete"


class EndpointSubject(Subject):
    """Ways in, each in a network that is made at the first use."""

    name, slot, kind = ENDPOINT, "networking", "endpoint"
    needs = ("networking.expose", "networking.create")
    create_action, delete_action = "networking.expose", "networking.withdraw"

    def spec(self, name: str | None = None, *, owner: Owner | None = None) -> Any:
        owner = owner or self.ctx.owner
        network = self.ctx.once(("network", owner), lambda: self.ctx.subject("networking").make(owner=owner).name)
        return attrs.evolve(self._sample("endpoint"), name=name or self.ctx.name(), owner=owner, network=network)

    def create(self, spec: Any, *, token: Token | None = None) -> Any:
        return self.driver.expose(spec, token=self.token(token), deadline=self.deadline())

    def key(self, thing: Any) -> str:
        return str(thing.name)

    def get(self, key: str, *, owner: Owner | None = None) -> Any:
        for endpoint in self.list(owner=owner):
            if endpoint.name == key:
                return endpoint
        raise NotFound(f"no network of the owner shows the endpoint {key}", reason="RESOURCE")

    def list(self, *, owner: Owner | None = None) -> tuple[Any, ...]:
        networks = self.driver.list(owner or self.ctx.owner, deadline=self.deadline())
        return tuple(endpoint for network in networks for endpoint in network.endpoints)

    def delete(self, key: str, *, owner: Owner | None = None) -> Deletion:
        return Deletion(self.driver.withdraw(key, owner=owner or self.ctx.owner, deadline=self.deadline()))

    def others(self, spec: Any) -> tuple[Any, ...]:
        return (self.renamed(spec, self.ctx.name()), attrs.evolve(spec, target_port=spec.target_port + 1))


@attrs.frozen(kw_only=True)
class GrantSpec:
    """A grant that is wanted: the arguments of ``StorageDriver.grant``."""

    name: str
    """Its prefix, which ends in '/'."""
    owner: Owner
    bucket: str
    identity: str
    access: Access = Access.WRITE


class GrantSubject(Subject):
    """Grants, each for a prefix of its own in one bucket, to one identity. They are seen by the oracle alone: no get, no list."""

    name, slot, kind = GRANT, "storage", "grant"
    needs = ("storage.grants",)
    create_action, delete_action = "storage.grant", "storage.revoke"

    def spec(self, name: str | None = None, *, owner: Owner | None = None) -> Any:
        owner = owner or self.ctx.owner
        bucket = self.ctx.once(("bucket", owner), lambda: self.ctx.subject("storage").make(owner=owner).name)
        return GrantSpec(name=f"{name or self.ctx.name()}/", owner=owner, bucket=bucket, identity=self._identity(owner))

    def create(self, spec: Any, *, token: Token | None = None) -> Any:
        return self.driver.grant(
            spec.bucket, spec.name, identity=spec.identity, access=spec.access, owner=spec.owner,
            token=self.token(token), deadline=self.deadline(),
        )  # fmt: skip

    def key(self, thing: Any) -> str:
        return f"{thing.bucket}/{thing.prefix}"

    def delete(self, key: str, *, owner: Owner | None = None) -> Deletion:
        bucket, _, prefix = key.partition("/")
        owner = owner or self.ctx.owner
        return Deletion(
            self.driver.revoke(bucket, prefix, identity=self._identity(owner), owner=owner, deadline=self.deadline())
        )

    def others(self, spec: Any) -> tuple[Any, ...]:
        return (attrs.evolve(spec, name=f"{self.ctx.name()}/"), attrs.evolve(spec, access=Access.READ))

    def _identity(self, owner: Owner) -> str:
        if not self.ctx.has_slot("identity") or not self.ctx.provider.capabilities.has("identity.create"):
            return self.ctx.samples.identity_name
        return str(self.ctx.once(("identity", owner), lambda: self.ctx.subject("identity").make(owner=owner).name))


SUBJECTS: dict[str, type[Subject]] = {
    cls.name: cls
    for cls in (
        InstanceSubject,
        BatchSubject,
        IdentitySubject,
        BucketSubject,
        NetworkSubject,
        EndpointSubject,
        GrantSubject,
    )
}
"""Every kind of thing, by its name."""
