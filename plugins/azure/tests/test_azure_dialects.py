"""The drivers on other implementations of the API: what those may leave out of answers, and how they may write ids."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from anyscale_azure.client import Azure, new_session
from anyscale_azure.cluster import AzureCluster
from anyscale_azure.identity import AzureIdentity
from anyscale_azure.networking import AzureNetworking
from anyscale_azure.storage import AzureStorage
from anyscale_azure.testing import OWNER, World
from azure.core.pipeline.transport import RequestsTransport
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter

from anyscale_core.errors import Conflict
from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.instance import Created, InstanceState
from anyscale_core.models.networking import EndpointSpec, EndpointState, NetworkSpec
from anyscale_core.models.storage import BucketSpec

Dialect = Callable[[PreparedRequest, Response], None]
ID = re.compile(r'"(/subscriptions/[^"]*)"', re.IGNORECASE)


def without_bodies(request: PreparedRequest, response: Response) -> None:
    if request.method == "PUT" and response.status_code in (200, 201):
        response.status_code, response._content = 201, b""
        response.headers["Content-Length"] = "0"


def without_etags(request: PreparedRequest, response: Response) -> None:
    response.headers.pop("ETag", None)
    content = response.content
    if content[:1] == b"{":
        response._content = json.dumps(_bare(json.loads(content))).encode()


def in_capitals(request: PreparedRequest, response: Response) -> None:
    response._content = ID.sub(lambda found: f'"{_but_the_name(found.group(1))}"', response.content.decode()).encode()


def in_small_letters(request: PreparedRequest, response: Response) -> None:
    response._content = ID.sub(lambda found: f'"{found.group(1).lower()}"', response.content.decode()).encode()


def with_locations(request: PreparedRequest, response: Response) -> None:
    """Name the place to look at by Location and Retry-After, and not by Azure-AsyncOperation."""
    where = response.headers.pop("Azure-AsyncOperation", None)
    if where:
        response.headers.update({"Location": where, "Retry-After": "15"})


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _bare(each) for name, each in value.items() if name.lower() != "etag"}
    return [_bare(each) for each in value] if isinstance(value, list) else value


def _but_the_name(id: str) -> str:
    path, slash, name = id.rpartition("/")
    return f"{path.upper()}{slash}{name}"


class Speaking(HTTPAdapter):
    """Answers in another dialect what the simulator has answered."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(max_retries=False)
        self._dialect = dialect

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        response = super().send(request, *args, **kwargs)
        if response.content and response.status_code < 300:
            self._dialect(request, response)
        return response


def speaking(world: World, dialect: Dialect) -> Azure:
    session = new_session(4)
    session.mount("https://", Speaking(dialect))
    transport = RequestsTransport(session=session, session_owner=False)
    return Azure(world.settings, world.clock, transport=transport, credential=world.at.credential())


@pytest.mark.parametrize(
    "dialect", [without_bodies, without_etags, in_capitals, in_small_letters, with_locations], ids=lambda d: d.__name__
)
def test_a_whole_story_ends_with_nothing_left_in_every_dialect(dialect: Dialect, world: World) -> None:
    world.at.hands.storage_account("rg", world.settings.storage_account)
    world.storage  # noqa: B018 - it tells the settings where blobs are
    azure, config = speaking(world, dialect), world.config()
    cluster, identity = AzureCluster(config, azure), AzureIdentity(config, azure)
    networking, storage = AzureNetworking(config, azure), AzureStorage(config, azure)
    before = [thing.id for thing in world.at.inventory()]

    networking.create(NetworkSpec(name="main"), owner=OWNER, token=world.token(), deadline=world.soon())
    identity.create(
        IdentitySpec(name="ray", owner=OWNER, subjects=("system:serviceaccount:a:b",)), token=world.token(),
        deadline=world.soon(),
    )  # fmt: skip
    storage.create(BucketSpec(name="data"), owner=OWNER, token=world.token(), deadline=world.soon())
    world.clock.sleep(timedelta(minutes=1))
    for prefix in ("a/", "b/"):
        storage.grant(
            "data", prefix, identity="ray", access=Access.WRITE, owner=OWNER, token=world.token(), deadline=world.soon()
        )
    spec, token = world.spec(network="main", identity="ray"), world.token()
    (outcome,) = cluster.create([spec], token=token, deadline=world.soon())
    assert isinstance(outcome, Created)
    assert outcome.instance.state is InstanceState.PENDING
    world.clock.sleep(timedelta(minutes=2))
    (again,) = cluster.create([spec], token=token, deadline=world.soon())
    assert isinstance(again, Created)
    assert again.instance.id == outcome.instance.id
    (machine,) = cluster.list(OWNER, deadline=world.soon())
    assert (machine.id, machine.state) == (outcome.instance.id, InstanceState.RUNNING)
    assert machine.address
    assert cluster.get(machine.id, owner=OWNER, deadline=world.soon()) == machine

    way = EndpointSpec(name="way", owner=OWNER, network="main", target_address=machine.address, target_port=8443)
    networking.expose(way, token=world.token(), deadline=world.soon())
    world.clock.sleep(timedelta(minutes=1))
    (network,) = networking.list(OWNER, deadline=world.soon())
    assert [endpoint.state for endpoint in network.endpoints] == [EndpointState.READY]

    networking.withdraw("way", owner=OWNER, deadline=world.soon())
    cluster.delete([machine.id], owner=OWNER, deadline=world.soon())
    world.clock.sleep(timedelta(minutes=10))
    assert cluster.list(OWNER, deadline=world.soon()) == ()
    networking.withdraw("way", owner=OWNER, deadline=world.soon())
    storage.delete("data", owner=OWNER, deadline=world.soon())
    identity.delete("ray", owner=OWNER, deadline=world.soon())
    networking.delete("main", owner=OWNER, deadline=world.soon())
    world.clock.sleep(timedelta(minutes=2))
    assert [thing.id for thing in world.at.inventory()] == before


def test_an_account_whose_first_answer_is_empty_is_busy_until_it_is_there(world: World) -> None:
    world.storage  # noqa: B018
    storage, token = AzureStorage(world.config(), speaking(world, without_bodies)), world.token()
    with pytest.raises(Conflict) as caught:
        storage.create(BucketSpec(name="data"), owner=OWNER, token=token, deadline=world.soon())
    assert caught.value.reason == "BUSY"
    world.clock.sleep(timedelta(minutes=1))
    assert storage.create(BucketSpec(name="data"), owner=OWNER, token=token, deadline=world.soon()).name == "data"
