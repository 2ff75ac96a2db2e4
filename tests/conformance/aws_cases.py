"""What a cloud does on AWS, call by call, each ready to be tried without one of its permissions.

A case makes what its call needs, with all rights, and tells how to make the call, how to take back what it made, and how to
leave the account as it was.
"""

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import obstore.exceptions
from anyscale_aws.client import new_session
from anyscale_aws.cluster import AwsCluster
from anyscale_aws.identity import AwsIdentity
from anyscale_aws.kit_oracle import AccountOracle
from anyscale_aws.names import bucket_name
from anyscale_aws.networking import AwsNetworking
from anyscale_aws.permissions import NEEDS, policies
from anyscale_aws.storage import AwsStorage
from anyscale_conformance.simulators.aws import AwsSimulator, Key, Timing, sts

from anyscale_core.clock import Clock
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import CloudError, PermissionDenied, QuotaExceeded
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.ids import CloudName, ClusterId, NodeId, PlaneId, Token
from anyscale_core.models.instance import Created, Deletion, InstanceSpec, NodeKind
from anyscale_core.models.networking import EndpointSpec, NetworkMode, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.models.storage import BucketSpec, UrlMethod
from anyscale_core.testing.builders import a_bootstrap
from tests.conformance.aws import EXTERNAL_ID, IMAGE, PLANE, REGION, TYPE, World, trusting

CLOUD = Owner(plane=PlaneId("pln_1"), cloud=CloudName("aws"))
OWNER = attrs.evolve(CLOUD, cluster=ClusterId("clu_1"))
ROLE = "control-plane"
WHO: Mapping[str, Any] = {"owner": CLOUD}
SPOT_QUOTA = "L-34B43A08"
THEIRS = ["their-bucket", "their-other-bucket"]
PART_BYTES = 6 << 20
TAKEN_DOWN = 20
"""Looks at what is being taken down, each some minutes after the last."""
EC2_TRUST = {
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]
}


@attrs.frozen(kw_only=True)
class Drivers:
    """The four drivers of a cloud."""

    cluster: AwsCluster
    identity: AwsIdentity
    storage: AwsStorage
    networking: AwsNetworking


@attrs.frozen(kw_only=True)
class Trial:
    """A call that is ready. ``undo``: takes back what it made (None: it takes away, or moves). ``clean``: the rest."""

    act: Callable[[], object]
    undo: Callable[[], object] | None = None
    clean: Callable[[], object] = lambda: None


class Town(World):
    """A customer's account that trusts the control plane's; ``furnish`` puts one of everything into it."""

    def __init__(
        self, simulator: AwsSimulator, number: int, home: Path, *, owner: Owner = CLOUD,
        clock: Clock | None = None, timing: Timing | None = None,
    ) -> None:  # fmt: skip
        super().__init__(simulator, number, clock=clock, timing=timing)
        self.home, self.owner, self._minted = home, owner, 0
        plane_account = simulator.account(PLANE, region=REGION, clock=self.clock)
        self.plane = simulator.issue(plane_account.administrator("plane"))
        self.arn = self.role(ROLE, trusting(PLANE, external_id=EXTERNAL_ID))
        self.theirs = self.role("theirs", EC2_TRUST)
        self.local = simulator.issue(self.at.restricted("local", {}))
        self._here, self._there = new_session(), new_session()
        self._there.set_credentials(self.plane.id, self.plane.secret)
        self._here.set_credentials(self.local.id, self.local.secret)
        self.bucket = bucket_name(self.owner, "bucket-of-pln-1")
        self.permissions = AwsIdentity(self.config()).permissions(NEEDS)
        self.allow()
        self.base = self.drivers()

    def furnish(self) -> None:
        """Make what calls look at: a network with a head and two ways in, two identities, two buckets."""
        for name in ("work", "mine"):
            made = (self.drivers_here() if name == "mine" else self.base).identity
            made.create(IdentitySpec(name=name, owner=CLOUD), token=self.token(), deadline=self.soon())
        self.base.networking.create(NetworkSpec(name="net", mode=NetworkMode.PUBLIC), token=self.token(), **self.who())
        self.base.storage.create(BucketSpec(name="bucket-of-pln-1"), token=self.token(), **self.who())
        self.at.s3.create_bucket(THEIRS[0], REGION)
        self.base.storage.create(
            BucketSpec(name="adopted", adopt=f"s3://{THEIRS[0]}"), token=self.token(), **self.who()
        )
        (self.head,) = self.launch(self.base.cluster, "head")
        self.wait()
        found = self.base.cluster.get(self.head, owner=OWNER, deadline=self.soon())
        self.address = found.address
        self.base.networking.expose(self.way("nlb"), token=self.token(), deadline=self.soon())
        by_address = self.drivers(endpoint="address").networking
        by_address.expose(self.way("door"), token=self.token(), deadline=self.soon())
        self.wait()

    def config(self, **settings: Any) -> DriverConfig:
        """Return how drivers are configured that assume the control plane's role."""
        known = {
            "role_arn": self.arn, "external_id": EXTERNAL_ID, "endpoint_url": self.simulator.url, "image": IMAGE,
            "endpoint": "nlb", "instance_types": [TYPE], "adopted_roles": [self.theirs], "adopted_buckets": THEIRS,
        }  # fmt: skip
        return DriverConfig(
            owner=self.owner, home=self.home, region=REGION, settings=known | settings, clock=self.clock
        )

    def drivers(self, **settings: Any) -> Drivers:
        """Return drivers that know nothing yet."""
        return _drivers(self.config(**settings), self.session)

    def drivers_here(self) -> Drivers:
        """Return drivers with credentials of the account itself, whose own policy is what allows them to assume roles."""
        return _drivers(self.config(role_arn="", external_id=""), lambda: self._here)

    def session(self) -> Any:
        """Return a session of the control plane's own account."""
        return self._there

    def role_key(self) -> Key:
        """Return a key of the control plane's role."""
        return self.simulator.issue(sts.session(self.simulator, self.at, ROLE, "test", timedelta(hours=1)))

    def allow(self, *, without: str = "") -> None:
        """Let the control plane do what the permissions say, without one action."""
        kept = [each for each in self.permissions if each.action != without]
        role = next(role for role in self.at.iam.roles.values() if role.name == ROLE)
        documents = policies(kept, account=self.at.id)
        role.policies = {str(number): json.dumps(each) for number, each in enumerate(documents)}
        statements = [statement for each in documents for statement in each["Statement"]]
        self.simulator.issue(attrs.evolve(self.local, policy={"Statement": statements}))

    def inventory(self) -> list[tuple[str, str]]:
        """Return kind and id of everything in the account."""
        return sorted((item.kind, f"{item.id} {item.name}") for item in AccountOracle(self.at).inventory())

    def name(self, stem: str) -> str:
        """Return a name that has not been given yet."""
        self._minted += 1
        return f"{stem}-{self._minted}"

    def token(self) -> Token:
        return Token(self.name("token"))

    def soon(self) -> datetime:
        return self.clock.now() + timedelta(seconds=30)

    def who(self) -> dict[str, Any]:
        return {"owner": CLOUD, "deadline": self.soon()}

    def way(self, name: str) -> EndpointSpec:
        return EndpointSpec(name=name, owner=OWNER, network="net", target_address=self.address, target_port=8443)

    def launch(self, cluster: AwsCluster, name: str, *, market: MarketType = MarketType.SPOT) -> list[Any]:
        """Launch an instance in the network, as an identity; return its id. Raises the error of its outcome."""
        spec = InstanceSpec(
            name=name, node_id=NodeId(f"nod_{name}"), owner=OWNER, kind=NodeKind.HEAD, group="head", network="net",
            instance_type=TYPE, identity="work", bootstrap=a_bootstrap(identity_provider="aws"), market_type=market,
        )  # fmt: skip
        (outcome,) = cluster.create([spec], token=self.token(), deadline=self.soon())
        if not isinstance(outcome, Created):
            raise outcome.error
        return [outcome.instance.id]

    def until_gone(self, delete: Callable[[], Deletion]) -> None:
        """Delete, and let time pass, until it is gone."""
        for _ in range(TAKEN_DOWN):
            if delete() is Deletion.ALREADY_ABSENT:
                return
            self.wait()
        raise AssertionError("what is taken down does not go")

    def no_instance(self, name: str) -> None:
        """Take an instance away, if there is one of that name."""
        ids = [one.id for one in self.base.cluster.list(OWNER, deadline=self.soon()) if one.name == name]
        self.base.cluster.delete(ids, owner=OWNER, deadline=self.soon())
        self.wait()


def _drivers(config: DriverConfig, sessions: Callable[[], Any]) -> Drivers:
    return Drivers(
        cluster=AwsCluster(config, sessions), identity=AwsIdentity(config, sessions),
        storage=AwsStorage(config, sessions), networking=AwsNetworking(config, sessions),
    )  # fmt: skip


def forbidden(town: Town, case: Callable[[Town], Trial], action: str) -> CloudError | None:
    """Try a case without an action; return the error that names it, None when the call does not need it.

    Fails when a call that was refused has left something that its own undoing, with the same rights, does not take back.
    """
    start = town.inventory()
    trial = case(town)
    before = town.inventory()
    town.allow(without=action)
    error = _refused(trial.act, action)
    if trial.undo is not None:
        again = _refused(trial.undo, action)
        town.allow()
        if again is not None:
            trial.undo()
        assert town.inventory() == before
    town.allow()
    trial.clean()
    assert town.inventory() == start
    return error


def _refused(call: Callable[[], object], action: str) -> CloudError | None:
    """Return the error that names an action; one of another action is raised."""
    try:
        call()
    except (PermissionDenied, QuotaExceeded) as error:
        words = f"{error.message} {error.hint} {' '.join(getattr(error, '__notes__', ()))}"
        if action not in words and isinstance(error, PermissionDenied):
            raise
        return error if action in words else None
    return None


# Networks ---------------------------------------------------------------------------------------------------------------


def a_network_is_made(town: Town) -> Trial:
    name, networking = town.name("net"), town.drivers().networking
    spec = NetworkSpec(name=name, mode=NetworkMode.PUBLIC)
    return Trial(
        act=lambda: networking.create(spec, token=Token(name), **town.who()),
        undo=lambda: town.drivers().networking.delete(name, **town.who()),
    )


def a_network_is_made_once_more(town: Town) -> Trial:
    made = a_network_is_made(town)
    made.act()
    return Trial(act=made.act, clean=made.undo or made.act)


def a_network_is_adopted(town: Town) -> Trial:
    name, networking = town.name("net"), town.drivers().networking
    vpc = town.at.ec2.create_vpc("10.251.0.0/16")
    subnet = town.at.ec2.create_subnet(vpc.id, "10.251.0.0/24", availability_zone=f"{REGION}a")

    def clean() -> None:
        town.at.ec2.delete_subnet(subnet.id)
        town.at.ec2.delete_vpc(vpc.id)

    return Trial(
        act=lambda: networking.create(NetworkSpec(name=name, adopt=vpc.id), token=town.token(), **town.who()),
        undo=lambda: town.drivers().networking.delete(name, **town.who()),
        clean=clean,
    )


def a_network_is_deleted(town: Town) -> Trial:
    made = a_network_is_made(town)
    made.act()
    assert made.undo is not None
    return Trial(act=made.undo, clean=made.undo)


def a_way_is_opened(town: Town, *, kind: str) -> Trial:
    spec, networking = town.way(town.name("way")), town.drivers(endpoint=kind).networking
    return Trial(
        act=lambda: networking.expose(spec, token=town.token(), deadline=town.soon()),
        undo=lambda: town.until_gone(
            lambda: town.drivers(endpoint=kind).networking.withdraw(spec.name, owner=OWNER, deadline=town.soon())
        ),
    )


def a_way_is_moved(town: Town, *, kind: str) -> Trial:
    spec, networking = town.way(town.name("way")), town.drivers(endpoint=kind).networking
    networking.expose(spec, token=town.token(), deadline=town.soon())
    moved = attrs.evolve(spec, target_port=8444)
    return Trial(
        act=lambda: networking.expose(moved, token=town.token(), deadline=town.soon()),
        clean=lambda: town.until_gone(lambda: networking.withdraw(spec.name, owner=OWNER, deadline=town.soon())),
    )


def a_way_is_withdrawn(town: Town, *, kind: str) -> Trial:
    made = a_way_is_opened(town, kind=kind)
    made.act()
    assert made.undo is not None
    return Trial(act=made.undo, clean=made.undo)


# Instances --------------------------------------------------------------------------------------------------------------


def an_instance_is_launched(town: Town) -> Trial:
    name, cluster = town.name("one"), town.drivers().cluster
    return Trial(act=lambda: town.launch(cluster, name), undo=lambda: town.no_instance(name))


def an_instance_is_too_many(town: Town) -> Trial:
    name, cluster = town.name("one"), town.drivers().cluster
    limit = town.at.quotas[SPOT_QUOTA]
    town.at.quotas[SPOT_QUOTA] = 2.0

    def act() -> None:
        try:
            town.launch(cluster, name)
        finally:
            town.at.quotas[SPOT_QUOTA] = limit

    return Trial(act=act, undo=lambda: None)


def an_instance_is_deleted(town: Town) -> Trial:
    name, cluster = town.name("one"), town.drivers().cluster
    ids = town.launch(town.base.cluster, name, market=MarketType.ON_DEMAND)
    return Trial(
        act=lambda: cluster.delete(ids, owner=OWNER, deadline=town.soon()), clean=lambda: town.no_instance(name)
    )


# Identities -------------------------------------------------------------------------------------------------------------


def an_identity_is_made(town: Town, *, adopt: str | None = None) -> Trial:
    name, identity = town.name("id"), town.drivers().identity
    spec = IdentitySpec(name=name, owner=CLOUD, adopt=adopt)
    return Trial(
        act=lambda: identity.create(spec, token=town.token(), deadline=town.soon()),
        undo=lambda: town.drivers().identity.delete(name, **town.who()),
    )


def a_role_is_adopted(town: Town) -> Trial:
    return an_identity_is_made(town, adopt=town.theirs)


def an_identity_is_deleted(town: Town) -> Trial:
    made = an_identity_is_made(town)
    made.act()
    assert made.undo is not None
    (name,) = {each.name for each in town.base.identity.list(**town.who())} - {"work", "mine"}
    _grant(town.base.storage, town, identity=name)
    return Trial(act=made.undo, clean=made.undo)


# Buckets ----------------------------------------------------------------------------------------------------------------


def a_bucket_is_made(town: Town) -> Trial:
    name, storage = town.name("bucket-of-pln-1"), town.drivers().storage
    spec = BucketSpec(name=name, cors_origins=("https://console.test",))
    return Trial(
        act=lambda: storage.create(spec, token=Token(name), **town.who()),
        undo=lambda: town.drivers().storage.delete(name, **town.who()),
    )


def a_bucket_is_made_once_more(town: Town) -> Trial:
    made = a_bucket_is_made(town)
    made.act()
    return Trial(act=made.act, clean=made.undo or made.act)


def a_bucket_is_adopted(town: Town) -> Trial:
    name, theirs, storage = town.name("used"), THEIRS[1], town.drivers().storage
    town.at.s3.create_bucket(theirs, REGION)
    return Trial(
        act=lambda: storage.create(BucketSpec(name=name, adopt=f"s3://{theirs}"), token=town.token(), **town.who()),
        undo=lambda: town.drivers().storage.delete(name, **town.who()),
        clean=lambda: town.at.s3.delete_bucket(theirs),
    )


def a_bucket_is_let_go_of(town: Town) -> Trial:
    made = a_bucket_is_adopted(town)
    made.act()
    assert made.undo is not None

    def clean() -> None:
        assert made.undo is not None
        made.undo()
        made.clean()

    return Trial(act=made.undo, clean=clean)


def a_bucket_is_deleted(town: Town) -> Trial:
    made = a_bucket_is_made(town)
    made.act()
    assert made.undo is not None
    (name,) = {each.name for each in town.base.storage.list(**town.who())} - {"bucket-of-pln-1", "adopted"}
    _grant(town.base.storage, town, bucket=name)
    return Trial(act=made.undo, clean=made.undo)


def a_prefix_is_granted(town: Town, *, bucket: str = "bucket-of-pln-1") -> Trial:
    storage = town.drivers().storage
    return Trial(
        act=lambda: _grant(storage, town, bucket=bucket),
        undo=lambda: _revoke(town.drivers().storage, town, bucket=bucket),
    )


def a_prefix_is_granted_from_here(town: Town) -> Trial:
    here = town.drivers_here().storage
    return Trial(
        act=lambda: _grant(here, town, identity="mine"),
        undo=lambda: _revoke(town.drivers_here().storage, town, identity="mine"),
    )


def a_grant_is_revoked(town: Town, *, bucket: str = "bucket-of-pln-1") -> Trial:
    storage = town.drivers().storage
    _grant(town.base.storage, town, bucket=bucket)
    return Trial(
        act=lambda: _revoke(storage, town, bucket=bucket), clean=lambda: _revoke(town.base.storage, town, bucket=bucket)
    )


def a_url_is_used(town: Town, *, method: UrlMethod) -> Trial:
    storage = town.drivers().storage
    town.at.s3.put_object(town.bucket, "there", b"x")

    def act() -> None:
        url = storage.signed_url(
            "bucket-of-pln-1", "there", method=method, expires_in=timedelta(minutes=1), **town.who()
        ).reveal()
        body = b"x" if method is UrlMethod.PUT else None
        try:
            urllib.request.urlopen(urllib.request.Request(url, method=method.value, data=body), timeout=10).close()
        except urllib.error.HTTPError as error:
            raise PermissionDenied(error.read().decode(), reason="POLICY") from error

    return Trial(act=act, clean=lambda: town.at.s3.delete_object(town.bucket, "there"))


def objects_are_used(town: Town) -> Trial:
    storage = town.drivers().storage

    def act() -> None:
        store = storage.objects("bucket-of-pln-1", "p/", owner=CLOUD)
        try:
            store.put("a", b"x")
            store.get("a").bytes()
            list(store.list())
            store.delete(["a"])
        except obstore.exceptions.BaseError as error:
            raise PermissionDenied(str(error), reason="POLICY") from error

    return Trial(act=act, clean=lambda: town.at.s3.delete_object(town.bucket, "p/a"))


def an_upload_breaks_off(town: Town) -> None:
    """Let an upload in parts fail in its middle, which aborts it."""

    def parts() -> Iterator[bytes]:
        yield b"x" * PART_BYTES
        raise EOFError

    store = town.drivers().storage.objects("bucket-of-pln-1", "p/", owner=CLOUD)
    with contextlib.suppress(EOFError):
        store.put("broken", parts(), use_multipart=True)


def _grant(storage: AwsStorage, town: Town, *, bucket: str = "bucket-of-pln-1", identity: str = "work") -> object:
    return storage.grant(bucket, "p/", identity=identity, access=Access.WRITE, token=town.token(), **town.who())


def _revoke(storage: AwsStorage, town: Town, *, bucket: str = "bucket-of-pln-1", identity: str = "work") -> object:
    return storage.revoke(bucket, "p/", identity=identity, **town.who())


def _look(verb: Callable[[Town, Drivers], object]) -> Callable[[Town], Trial]:
    """Return the case of a call that changes nothing."""

    def case(town: Town) -> Trial:
        drivers = town.drivers()
        return Trial(act=lambda: verb(town, drivers), undo=lambda: None)

    return case


def credentials_are_given_here(town: Town) -> Trial:
    identity = town.drivers_here().identity
    return Trial(act=lambda: identity.credentials("mine", **town.who()), undo=lambda: None)


Case = Callable[[Town], Trial]
CASES: Mapping[str, tuple[Case, ...]] = {
    "cluster.create": (an_instance_is_launched, an_instance_is_too_many),
    "cluster.get": (_look(lambda town, to: to.cluster.get(town.head, owner=OWNER, deadline=town.soon())),),
    "cluster.list": (_look(lambda town, to: to.cluster.list(CLOUD, deadline=town.soon())),),
    "cluster.delete": (an_instance_is_deleted,),
    "cluster.offerings": (_look(lambda town, to: to.cluster.offerings(deadline=town.soon())),),
    "cluster.quotas": (_look(lambda town, to: to.cluster.quotas(deadline=town.soon())),),
    "identity.create": (an_identity_is_made, a_role_is_adopted),
    "identity.get": (_look(lambda town, to: to.identity.get("work", **town.who())),),
    "identity.list": (_look(lambda town, to: to.identity.list(**town.who())),),
    "identity.delete": (an_identity_is_deleted,),
    "identity.credentials": (
        _look(lambda town, to: to.identity.credentials("work", **town.who())), credentials_are_given_here,
    ),
    "storage.create": (a_bucket_is_made, a_bucket_is_made_once_more, a_bucket_is_adopted),
    "storage.get": (
        _look(lambda town, to: to.storage.get("bucket-of-pln-1", **town.who())),
        _look(lambda town, to: to.storage.get("adopted", **town.who())),
    ),
    "storage.list": (_look(lambda town, to: to.storage.list(**town.who())),),
    "storage.delete": (a_bucket_is_deleted, a_bucket_is_let_go_of),
    "storage.grant": (
        a_prefix_is_granted, a_prefix_is_granted_from_here, partial(a_prefix_is_granted, bucket="adopted"),
    ),
    "storage.revoke": (a_grant_is_revoked, partial(a_grant_is_revoked, bucket="adopted")),
    "storage.signed_url": (
        partial(a_url_is_used, method=UrlMethod.GET), partial(a_url_is_used, method=UrlMethod.PUT),
    ),
    "storage.objects": (objects_are_used,),
    "networking.create": (a_network_is_made, a_network_is_made_once_more, a_network_is_adopted),
    "networking.get": (_look(lambda town, to: to.networking.get("net", **town.who())),),
    "networking.list": (_look(lambda town, to: to.networking.list(**town.who())),),
    "networking.delete": (a_network_is_deleted,),
    "networking.check": (_look(lambda town, to: to.networking.check("net", **town.who())),),
    "networking.expose": tuple(
        partial(case, kind=kind) for case in (a_way_is_opened, a_way_is_moved) for kind in ("nlb", "address")
    ),
    "networking.withdraw": tuple(partial(a_way_is_withdrawn, kind=kind) for kind in ("nlb", "address")),
}  # fmt: skip
"""By the feature that the permissions are declared for."""
