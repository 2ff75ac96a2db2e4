"""The connection to Azure: the one file that knows its SDKs, and loads each at the first call that needs it.

What is made and deleted of compute, and storage accounts, go through the generated SDKs; everything else, and every list, through
a pipeline of azure-mgmt-core with plain dicts. No policy of the pipeline repeats anything, no operation is waited for: the first
answer is the answer.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import attrs

from anyscale_azure.config import CredentialKind, Settings
from anyscale_azure.errors import Failure, translate, unanswered, unsent
from anyscale_core.clock import Clock
from anyscale_core.errors import Applied, CloudError, DeadlineExceeded, Retry, Transient, Unauthenticated

if TYPE_CHECKING:
    from azure.mgmt.compute import ComputeManagementClient
    from azure.mgmt.storage import StorageManagementClient

T = TypeVar("T")
R = TypeVar("R")
STORAGE_SCOPE = "https://storage.azure.com/.default"
LONGEST_S = 60.0
"""No single request is given longer, whatever its deadline leaves."""
NESTING = frozenset({"DeploymentFailed", "InvalidTemplateDeployment", "OperationFailed", "ResourceDeploymentFailure"})
"""Codes that say no more than that something inside has failed."""
USER_AGENT = "anyscale-core"
BLOB_VERSION = "2023-11-03"


@attrs.frozen(kw_only=True)
class Answer:
    """A successful answer. ``headers`` by their names in small letters."""

    status: int
    body: Mapping[str, Any] = attrs.field(factory=dict)
    headers: Mapping[str, str] = attrs.field(factory=dict)
    text: str = ""


class Azure:
    """A connection, shared by the threads that use a driver. ``transport`` and ``credential``: azure-core's, else its own."""

    def __init__(self, settings: Settings, clock: Clock, *, transport: Any = None, credential: Any = None) -> None:
        self.settings, self.clock = settings, clock
        self._transport, self._credential = transport, credential
        self._lock = threading.RLock()
        self._made: dict[str, Any] = {}

    # Azure Resource Manager -------------------------------------------------------------------------------------------

    def send(
        self,
        method: str,
        path: str,
        version: str,
        *,
        deadline: datetime,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request to ARM and return its first answer. ``path`` may be a whole URL (the link of a next page)."""
        from azure.core.rest import HttpRequest
        from azure.mgmt.core.exceptions import ARMErrorFormat

        pipeline = self._one("arm", self._arm_client)
        url = path if path.startswith("https://") else f"{self.settings.endpoint.rstrip('/')}{path}"
        query = {} if "api-version=" in path else {"api-version": version}
        request = HttpRequest(
            method,
            url,
            params={**query, **(params or {})},
            json=body,
            headers=dict(headers or {}),
        )
        with self._translated(f"{_type_of(path)}/{_verb(method)}", is_write=method not in ("GET", "HEAD"), path=path):
            answer = _answer(pipeline.send_request(request, **self._options(deadline)), ARMErrorFormat)
        if method == "PUT" and not answer.body and body is not None:
            return attrs.evolve(answer, body=begun(path, body))
        return answer

    def pages(
        self, path: str, version: str, *, deadline: datetime, params: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], ...]:
        """Return all items of a list, page by page. Raises rather than return a part."""
        items: list[dict[str, Any]] = []
        seen: set[str] = set()
        link: str | None = path
        while link:
            answer = self.send("GET", link, version, deadline=deadline, params=params if link == path else None)
            items += answer.body.get("value", ())
            link = answer.body.get("nextLink")
            _check_new(link, seen, path)
        return tuple(items)

    # The generated SDKs -----------------------------------------------------------------------------------------------

    @property
    def compute(self) -> "ComputeManagementClient":
        """The client of Microsoft.Compute; what it makes is called through ``first``."""

        def make() -> Any:
            from azure.mgmt.compute import ComputeManagementClient

            return ComputeManagementClient(self._signed_in(), self.settings.subscription_id, **self._wiring())

        client: ComputeManagementClient = self._one("compute", make)
        return client

    @property
    def storage(self) -> "StorageManagementClient":
        """The client of Microsoft.Storage."""

        def make() -> Any:
            from azure.mgmt.storage import StorageManagementClient

            return StorageManagementClient(self._signed_in(), self.settings.subscription_id, **self._wiring())

        client: StorageManagementClient = self._one("storage", make)
        return client

    def first(
        self, action: str, act: Callable[..., Any], *args: Any, deadline: datetime, resource: str = "", **kwargs: Any
    ) -> Answer:
        """Call an operation of an SDK and return the first answer on the wire, of a long operation too."""
        is_write = not action.endswith("/read")
        waiting = {"polling": False} if getattr(act, "__name__", "").startswith("begin_") else {}
        answers: list[Answer] = []

        def keep(response: Any) -> None:
            """Keep what came on the wire: an SDK reads a resource where Azure says no more than that it has begun."""
            if response.http_response.status_code < 300:
                answers.append(_answer(response.http_response, None))

        with self._translated(action, is_write=is_write, path=resource):
            act(*args, raw_response_hook=keep, **waiting, **kwargs, **self._options(deadline))
        return answers[0]

    def match(self) -> dict[str, Any]:
        """Return what makes an operation of an SDK create and never change: If-None-Match: *."""
        from azure.core import MatchConditions

        return {"etag": "*", "match_condition": MatchConditions.IfMissing}

    # Blob storage -----------------------------------------------------------------------------------------------------

    def blob(
        self,
        method: str,
        account: str,
        path: str,
        *,
        deadline: datetime,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send one request to an account's blob service: ``path`` below the account, ``/container``."""
        from azure.core.rest import HttpRequest

        pipeline = self._one("blob", self._blob_client)
        url = f"{self.blob_url(account)}{path}"
        wanted = {"x-ms-version": BLOB_VERSION, **(headers or {})}
        request = HttpRequest(method, url, params=dict(params or {}), headers=wanted, content=body)
        action = f"Microsoft.Storage/storageAccounts/blobServices/containers/{_verb(method)}"
        with self._translated(action, is_write=method not in ("GET", "HEAD"), path=path.lstrip("/")):
            return _answer(pipeline.send_request(request, **self._options(deadline)), None)

    def blob_url(self, account: str) -> str:
        """Return the address of an account's blob service."""
        return self.settings.blob_endpoint.format(account=account).rstrip("/")

    def check_new(self, link: str | None, seen: set[str], what: str) -> None:
        """Raise Transient when a list names a page as the next that it has shown already; it would never end."""
        _check_new(link, seen, what)

    def token(self, scope: str = STORAGE_SCOPE) -> tuple[str, float]:
        """Return a token of the control plane's own and when it ends (seconds since 1970). Raises Unauthenticated."""
        with self._translated("Microsoft.Entra/tokens/read", is_write=False, path=""):
            found = self._signed_in().get_token(scope)
        return str(found.token), float(found.expires_on)

    # Elsewhere --------------------------------------------------------------------------------------------------------

    def fetch(self, url: str, *, deadline: datetime) -> dict[str, Any]:
        """Return the JSON at an address that wants no token: the authority's keys."""
        return self._fetched("plain", url, {}, deadline)

    def metadata(self, url: str, *, deadline: datetime) -> dict[str, Any]:
        """Return what this machine's metadata service says; never by way of a proxy, which is another machine."""
        return self._fetched("metadata", url, {"Metadata": "true"}, deadline)

    def at_once(self, acts: Sequence[Callable[[], R]]) -> tuple[R, ...]:
        """Do several calls, as many at once as the settings allow; return their results in order, or raise the first error.

        The first is done alone: what strikes the whole call strikes it, and not as many as there are.
        """
        if len(acts) < 3 or self.settings.max_calls_at_once < 2:
            return tuple(act() for act in acts)
        first = acts[0]()
        with ThreadPoolExecutor(min(self.settings.max_calls_at_once, len(acts) - 1)) as pool:
            return (first, *(future.result() for future in [pool.submit(act) for act in acts[1:]]))

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for client in self._made.values():
                client.close()
            self._made.clear()

    # ------------------------------------------------------------------------------------------------------------------

    def _one(self, name: str, make: Callable[[], T]) -> T:
        with self._lock:
            if name not in self._made:
                self._made[name] = make()
            made: T = self._made[name]
            return made

    def _fetched(self, name: str, url: str, headers: Mapping[str, str], deadline: datetime) -> dict[str, Any]:
        from azure.core.rest import HttpRequest

        def make() -> Any:
            import requests
            from azure.core import PipelineClient
            from azure.core.pipeline.transport import RequestsTransport

            session = requests.Session()
            session.trust_env = name != "metadata"
            return PipelineClient(url, policies=[], transport=RequestsTransport(session=session, session_owner=True))

        with self._translated(f"GET {urlsplit(url).path}", is_write=False, path=""):
            request = HttpRequest("GET", url, headers=dict(headers))
            return dict(_answer(self._one(name, make).send_request(request, **self._options(deadline)), None).body)

    def _arm_client(self) -> Any:
        from azure.mgmt.core import ARMPipelineClient

        wiring = self._wiring()
        wiring.pop("credential_scopes")
        return ARMPipelineClient(**wiring)

    def _blob_client(self) -> Any:
        from azure.core import PipelineClient

        wiring = self._wiring(STORAGE_SCOPE)
        wiring.pop("credential_scopes")
        return PipelineClient(**wiring)

    def _wiring(self, scope: str = "") -> dict[str, Any]:
        """Return what a client of an SDK is made with: no retries, no redirects, no registration of providers, no log."""
        from azure.core.pipeline import policies
        from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy

        scope = scope or self.settings.token_scope
        return {
            "base_url": self.settings.endpoint,
            "credential_scopes": [scope],
            "transport": self._sender(),
            "policies": [
                policies.RequestIdPolicy(),
                policies.HeadersPolicy(),
                policies.UserAgentPolicy(USER_AGENT),
                policies.ContentDecodePolicy(),
                policies.CustomHookPolicy(),
                ARMChallengeAuthenticationPolicy(self._signed_in(), scope),
            ],
        }

    def _sender(self) -> Any:
        """Return the transport that all clients share, with a pool as large as calls are made at once."""
        if self._transport is None:
            from azure.core.pipeline.transport import RequestsTransport

            session = new_session(self.settings.max_calls_at_once)
            self._transport = RequestsTransport(session=session, session_owner=False)
        return self._transport

    def _signed_in(self) -> Any:
        with self._lock:
            if self._credential is None:
                self._credential = _credential(self.settings)
            return self._credential

    def _options(self, deadline: datetime) -> dict[str, Any]:
        """Return a request's timeouts: what is left until the deadline. Raises DeadlineExceeded when nothing is."""
        left = (deadline - self.clock.now()).total_seconds()
        if left <= 0:
            raise DeadlineExceeded("the deadline had passed before the request", reason="REQUEST", applied=Applied.NO)
        left = min(left, LONGEST_S)
        verify = {"connection_verify": self.settings.ca_file} if self.settings.ca_file else {}
        return {"connection_timeout": left, "read_timeout": left, **verify}

    @contextmanager
    def _translated(self, action: str, *, is_write: bool, path: str) -> Iterator[None]:
        """Let only errors of the tree out of the block."""
        from azure.core import exceptions

        asked = Failure(action=action, message="", is_write=is_write, resource=path.rpartition("/")[2])
        try:
            yield
        except exceptions.ClientAuthenticationError as error:
            raise self._told(error, asked) from error
        except exceptions.HttpResponseError as error:
            raise self._told(error, asked) from error
        except exceptions.ServiceRequestError as error:
            raise unsent(attrs.evolve(asked, message=f"{action} could not be sent: {error}")) from error
        except exceptions.AzureError as error:
            raise unanswered(attrs.evolve(asked, message=f"no answer to {action}: {error}")) from error
        except ValueError as error:  # a body that is no JSON
            raise unanswered(attrs.evolve(asked, message=f"the answer to {action} cannot be read: {error}")) from error

    def _told(self, error: Any, asked: Failure) -> CloudError:
        response = error.response
        if response is None:  # a credential that could not sign in
            return Unauthenticated(str(error), reason="MISSING", hint="check credential, client_id and token_file")
        headers = {name.lower(): value for name, value in response.headers.items()}
        code, message = _innermost(error, headers)
        failure = attrs.evolve(asked, code=code, message=message, status=response.status_code, headers=headers)
        return translate(failure, self.clock.now())


def begun(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a PUT makes as ARM would show it: not every resource provider shows it in its first answer."""
    properties = {"provisioningState": "Creating", **body.get("properties", {})}
    return {**body, "id": path, "name": path.rpartition("/")[2], "properties": properties}


def new_session(size: int) -> Any:
    """Return a session of requests that holds ``size`` connections and asks the environment once for each host.

    requests itself asks it at every request, and would put what ~/.netrc says of a host in the place of our token.
    """
    import requests
    from requests.adapters import HTTPAdapter

    @cache
    def environment(host: str) -> Any:
        return requests.Session().merge_environment_settings(host, {}, None, None, None)

    class Session(requests.Session):
        def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
            parts = urlsplit(url)
            found = environment(f"{parts.scheme}://{parts.netloc}")
            verify = found["verify"] if verify is None or verify is True else verify
            return {
                "proxies": {**found["proxies"], **(proxies or {})},
                "stream": stream,
                "verify": verify,
                "cert": cert,
            }

    session = Session()
    session.trust_env = False
    session.mount("https://", HTTPAdapter(max_retries=False, pool_maxsize=size))
    return session


def _credential(settings: Settings) -> Any:
    from azure import identity

    authority = settings.authority
    others = {} if "login.microsoftonline" in authority else {"disable_instance_discovery": True}
    verify = {"connection_verify": settings.ca_file} if settings.ca_file else {}
    common: dict[str, Any] = {"authority": authority, "retry_total": 0, **others, **verify}
    who = {"client_id": settings.client_id} if settings.client_id else {}
    match settings.credential:
        case CredentialKind.WORKLOAD_IDENTITY:
            file = {"token_file_path": settings.token_file} if settings.token_file else {}
            return identity.WorkloadIdentityCredential(tenant_id=settings.tenant_id, **who, **file, **common)
        case CredentialKind.MANAGED_IDENTITY:
            return identity.ManagedIdentityCredential(retry_total=0, **who)
        case CredentialKind.CLIENT_ASSERTION:
            return identity.ClientAssertionCredential(
                settings.tenant_id, settings.client_id, Path(settings.token_file).read_text, **common
            )
    named = {"managed_identity_client_id": settings.client_id} if settings.client_id else {}
    return identity.DefaultAzureCredential(**named, **common)


def _answer(response: Any, error_format: Any) -> Answer:
    """Return a response as an answer. Raises azure-core's error for one that is none of success."""
    from azure.core.exceptions import HttpResponseError

    response.read()
    if response.status_code >= 300:
        raise HttpResponseError(response=response, error_format=error_format)
    headers = {name.lower(): value for name, value in response.headers.items()}
    text = response.text()
    is_json = "json" in headers.get("content-type", "") or text[:1] == "{"
    body = json.loads(text) if text and is_json else {}
    return Answer(status=response.status_code, body=body, headers=headers, text=text)


def _innermost(error: Any, headers: Mapping[str, str]) -> tuple[str, str]:
    """Return the code and the message of the error that says most: ARM wraps the provider's own error in others."""
    found = error.error
    while found is not None and found.code in NESTING and found.details:
        found = found.details[0]
    code = (found.code if found is not None else "") or headers.get("x-ms-error-code", "")
    message = (found.message if found is not None else "") or str(error.message)
    return str(code), str(message)


def _check_new(link: str | None, seen: set[str], what: str) -> None:
    if link is None:
        return
    if link in seen:
        raise Transient(
            f"the list {what} names a page as the next that it has shown", reason="SERVER", retry=Retry.SAME
        )
    seen.add(link)


def _type_of(path: str) -> str:
    """Return the type in a path of ARM, as permissions name it: ``Microsoft.Network/loadBalancers``."""
    path = urlsplit(path).path
    before, found, after = path.rpartition("/providers/")
    words = [word for word in (after if found else before or path).split("/") if word]
    return "/".join((words[0], *words[1::2])) if found else "Microsoft.Resources/subscriptions/resourceGroups"


def _verb(method: str) -> str:
    return {"GET": "read", "HEAD": "read", "DELETE": "delete", "POST": "action"}.get(method, "write")
