"""The four SDKs, each with its fault carrier, over real HTTP against one small server that notes what it carried out."""

import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from anyscale_conformance.faults.http import HttpCarrier
from anyscale_conformance.faults.http_azure import AzureCarrier
from anyscale_conformance.faults.http_botocore import BotocoreCarrier
from anyscale_conformance.faults.http_google import GoogleCarrier
from anyscale_conformance.faults.http_kubernetes import KubernetesCarrier

from anyscale_core.testing.clock import ManualClock

REPLIES = {
    "botocore": b"<RunInstancesResponse><reservationId>r-1</reservationId><instancesSet/></RunInstancesResponse>",
    "kubernetes": b'{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}',
}
DISCOVERY = {
    "name": "compute", "version": "v1", "baseUrl": "", "rootUrl": "", "servicePath": "", "batchPath": "batch",
    "resources": {"instances": {"methods": {
        verb: {
            "id": f"compute.instances.{verb}", "path": "compute/v1/projects/{project}/zones/z/instances",
            "httpMethod": method, "parameterOrder": ["project"],
            "parameters": {
                "project": {"type": "string", "required": True, "location": "path"},
                "requestId": {"type": "string", "location": "query"},
            },
        }
        for verb, method in (("insert", "POST"), ("list", "GET"))
    }}},
}  # fmt: skip


class Server(http.server.ThreadingHTTPServer):
    """Answers everything with success and keeps the method and path of each request."""

    daemon_threads = True

    def __init__(self, reply: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.carried: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @classmethod
    @contextmanager
    def running(cls, reply: bytes = b"{}") -> Iterator["Server"]:
        """Serve for the length of a block."""
        server = cls(reply)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Note it and answer."""
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.carried.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(self.server.reply)))
        self.end_headers()
        self.wfile.write(self.server.reply)

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@attrs.frozen(kw_only=True)
class Seen:
    """What an SDK shows of an error: ``unsent``, ``unanswered``, ``broken`` or ``answered`` with status, code and Retry-After."""

    how: str
    status: int = 0
    code: str = ""
    retry_after: str | None = None


@attrs.frozen(kw_only=True)
class Sdk:
    """One SDK. ``write`` and ``read`` send one request each; ``seen`` reads the SDK's own error."""

    carrier: HttpCarrier[Any]
    clock: ManualClock
    server: Server
    write: Callable[[], object]
    read: Callable[[], object]
    seen: Callable[[BaseException], Seen]
    action: str


SDKS: dict[str, Callable[[Server, int], Sdk]] = {}
"""By name: builds an SDK that makes so many attempts of its own."""


@contextmanager
def sdk(name: str, *, attempts: int = 1) -> Iterator[Sdk]:
    """Give one SDK with a server of its own."""
    with Server.running(REPLIES.get(name, b"{}")) as server:
        yield SDKS[name](server, attempts)


@functools.cache
def aws_session() -> Any:
    """Return one boto3 session for all tests: a new one reads the services' models again."""
    import boto3

    return boto3.Session()


def aws_client(session: Any, service: str, url: str, attempts: int = 1) -> Any:
    """Return a client of boto3 that talks to ``url``."""
    from botocore.config import Config

    retries = {"mode": "standard", "total_max_attempts": attempts}
    return session.client(
        service, endpoint_url=url, region_name="us-east-1", aws_access_key_id="A", aws_secret_access_key="x",
        config=Config(retries=retries, read_timeout=5, connect_timeout=5),
    )  # fmt: skip


def _botocore(server: Server, attempts: int) -> Sdk:
    from botocore import exceptions

    clock = ManualClock()
    carrier = BotocoreCarrier(clock)
    client = aws_client(aws_session(), "ec2", server.url, attempts)
    carrier.attach(client)

    def seen(error: BaseException) -> Seen:
        if isinstance(error, exceptions.ConnectTimeoutError):
            return Seen(how="unsent")
        if isinstance(error, exceptions.ReadTimeoutError):
            return Seen(how="unanswered")
        if isinstance(error, exceptions.ConnectionClosedError):
            return Seen(how="broken")
        meta = getattr(error, "response")["ResponseMetadata"]  # noqa: B009 - mypy knows nothing of botocore's errors
        code = getattr(error, "response")["Error"]["Code"]  # noqa: B009
        return Seen(
            how="answered", status=meta["HTTPStatusCode"], code=code, retry_after=meta["HTTPHeaders"].get("retry-after")
        )

    return Sdk(
        carrier=carrier, clock=clock, server=server, seen=seen, action="ec2.RunInstances",
        write=lambda: client.run_instances(MinCount=1, MaxCount=1, ImageId="ami-1", ClientToken="tok-1"),
        read=lambda: client.describe_instances(),
    )  # fmt: skip


def _azure(server: Server, attempts: int) -> Sdk:
    from azure.core import exceptions
    from azure.core.pipeline.policies import RetryPolicy
    from azure.core.rest import HttpRequest
    from azure.mgmt.core import ARMPipelineClient

    clock = ManualClock()
    carrier = AzureCarrier(clock)
    retry = RetryPolicy(retry_total=attempts - 1, retry_backoff_factor=0)
    client: Any = ARMPipelineClient(base_url=server.url, policies=[retry], transport=carrier.transport())
    path = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm1?api-version=2026-04-01"

    def call(method: str) -> None:
        client.send_request(HttpRequest(method, f"{server.url}{path}", json={})).raise_for_status()

    def seen(error: BaseException) -> Seen:
        if isinstance(error, exceptions.ServiceRequestError):
            return Seen(how="unsent")
        if isinstance(error, exceptions.ServiceResponseTimeoutError):
            return Seen(how="unanswered")
        if isinstance(error, exceptions.ServiceResponseError):
            return Seen(how="broken")
        assert isinstance(error, exceptions.HttpResponseError)
        response: Any = error.response
        code = str(error.error.code if error.error else "")
        return Seen(
            how="answered", status=response.status_code, code=code, retry_after=response.headers.get("retry-after")
        )

    return Sdk(
        carrier=carrier, clock=clock, server=server, seen=seen, action="Microsoft.Compute/virtualMachines.put",
        write=lambda: call("PUT"), read=lambda: call("GET"),
    )  # fmt: skip


def _google(server: Server, attempts: int) -> Sdk:
    import httplib2
    from googleapiclient.discovery import build_from_document
    from googleapiclient.errors import HttpError

    clock = ManualClock()
    carrier = GoogleCarrier(clock)
    service = build_from_document(
        {**DISCOVERY, "rootUrl": f"{server.url}/"}, http=carrier.http(httplib2.Http(timeout=5))
    )

    def call(request: Any) -> object:
        request._sleep = lambda _: None
        result: object = request.execute(num_retries=attempts - 1)
        return result

    def seen(error: BaseException) -> Seen:
        how = {ConnectionRefusedError: "unsent", TimeoutError: "unanswered", ConnectionResetError: "broken"}
        if type(error) in how:
            return Seen(how=how[type(error)])  # type: ignore[index]
        assert isinstance(error, HttpError)
        detail = error.error_details[0]
        return Seen(
            how="answered", status=error.status_code, code=detail["reason"], retry_after=error.resp.get("retry-after")
        )

    return Sdk(
        carrier=carrier, clock=clock, server=server, seen=seen, action="instances.post",
        write=lambda: call(service.instances().insert(project="p", requestId="tok-1")),
        read=lambda: call(service.instances().list(project="p")),
    )  # fmt: skip


def _kubernetes(server: Server, attempts: int) -> Sdk:
    import urllib3
    from kubernetes.client import ApiClient, Configuration

    clock = ManualClock()
    carrier = KubernetesCarrier(clock)
    configuration = Configuration(host=server.url)
    configuration.retries = urllib3.Retry(
        total=attempts - 1, backoff_factor=0, status_forcelist={500, 429}, allowed_methods=None, raise_on_status=False
    )
    client = ApiClient(configuration)
    carrier.attach(client.rest_client.pool_manager)

    def call(method: str) -> None:
        url = f"{server.url}/api/v1/namespaces/n/pods"
        response = client.rest_client.request(method, url, body={} if method == "POST" else None, _request_timeout=5)
        if response.status >= 400:
            raise RefusedByServer(response.status, json.loads(response.read()), response.headers.get("retry-after"))

    def seen(error: BaseException) -> Seen:
        if isinstance(error, RefusedByServer):
            return Seen(how="answered", status=error.status, code=error.body["reason"], retry_after=error.retry_after)
        cause = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else error
        if isinstance(cause, urllib3.exceptions.ConnectTimeoutError):
            return Seen(how="unsent")
        return Seen(how="unanswered" if isinstance(cause, urllib3.exceptions.ReadTimeoutError) else "broken")

    return Sdk(
        carrier=carrier, clock=clock, server=server, seen=seen, action="pods.create",
        write=lambda: call("POST"), read=lambda: call("GET"),
    )  # fmt: skip


class RefusedByServer(Exception):
    """An API server's Status with a failure."""

    def __init__(self, status: int, body: Any, retry_after: str | None) -> None:
        super().__init__(str(body))
        self.status, self.body, self.retry_after = status, body, retry_after


SDKS.update(botocore=_botocore, azure=_azure, google=_google, kubernetes=_kubernetes)
