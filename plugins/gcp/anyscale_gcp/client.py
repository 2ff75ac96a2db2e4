"""The one place that loads Google's SDK, and not before the first call.

googleapiclient's own transport (httplib2) must never be shared between threads: it hands out other requests' answers without
a word. Requests are executed with an ``http`` of ours instead, on a pool of urllib3 that is made for threads. Services are
built from the documents in the wheel, once per process and endpoint; they hold no state but their methods.
"""

import functools
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import attrs

from anyscale_core.clock import Clock
from anyscale_core.errors import Applied, DeadlineExceeded, Transient, Unauthenticated
from anyscale_core.models.secret import Secret
from anyscale_gcp.config import Settings
from anyscale_gcp.errors import translated

VERSIONS = {"compute": "v1", "iam": "v1", "iamcredentials": "v1", "sts": "v1", "storage": "v1"}
SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
METADATA_VARIABLE = "GCE_METADATA_HOST"
"""Where a machine's metadata server is, as Google's own libraries read it."""
METADATA_URL = "http://metadata.google.internal"
TOKEN_TYPE = "urn:ietf:params:oauth:token-type:jwt"
MOST_S = 60.0
"""The longest that one request may take, whatever its deadline says."""
PAGES_MAX = 10_000
WRITING = frozenset({"insert", "delete", "create", "patch", "update", "setIamPolicy", "disable", "undelete"})
"""Methods that change something; what became of one whose answer is lost is not known."""

Wrap = Callable[[Any], Any]
Sign = Callable[[str], Secret[str]]
"""Returns an OIDC token of the control plane for an audience."""


class Client:
    """All that the drivers ask of Google Cloud. Threads may share it.

    ``wrap``: what is put around the ``http`` of each request (faults, in tests). ``credentials``: of google-auth; by default
    those that the settings name, looked for at the first call.
    """

    def __init__(
        self, settings: Settings, clock: Clock, *, wrap: Wrap | None = None, credentials: Any = None,
        identity_token: Sign | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.clock = clock
        self._wrap = wrap or (lambda http: http)
        self._credentials = credentials
        self._identity_token = identity_token
        self._lock = threading.Lock()

    def call(self, method: str, *, deadline: datetime, about: str = "", **parameters: Any) -> dict[str, Any]:
        """Make one request (``compute.instances.get``) and return its answer. Raises CloudError, after one attempt."""
        api, *collections, verb = method.split(".")
        applied = Applied.UNKNOWN if verb in WRITING else Applied.NO
        http = self._http(deadline, api)
        with translated(service=api, method=method, resource=about, applied=applied, clock=self.clock):
            collection = _collection(api, self.settings.endpoint(api), ".".join(collections))
            request = getattr(collection, verb)(**parameters)
            answer = request.execute(http=http, num_retries=0)
        return answer if isinstance(answer, dict) else {}

    def pages(self, method: str, *, deadline: datetime, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield every page of a list. Raises Transient when a page names itself, or one before it, as the next."""
        seen: set[str] = set()
        token = ""
        for _ in range(PAGES_MAX):
            more = {"pageToken": token} if token else {}
            page = self.call(method, deadline=deadline, **parameters, **more)
            yield page
            token = page.get("nextPageToken", "")
            if not token:
                return
            if token in seen:
                break
            seen.add(token)
        raise Transient(f"the pages of {method} do not end", reason="SERVER", hint="list again")

    def identity_token(self, audience: str, *, machine: str, deadline: datetime) -> str:  # noqa: ARG002 - a machine knows itself
        """Return this machine's identity token in its full form, from its metadata server."""
        host = os.environ.get(METADATA_VARIABLE)
        base = (self.settings.metadata_url or (f"http://{host}" if host else METADATA_URL)).rstrip("/")
        path = f"instance/service-accounts/default/identity?audience={quote(audience, safe='')}&format=full"
        url = f"{base}/computeMetadata/v1/{path}"
        headers = {"Metadata-Flavor": "Google"}
        return self._get(url, "metadata", deadline=deadline, headers=headers).decode()

    def certificates(self, *, deadline: datetime) -> dict[str, Any]:
        """Return the key set (JWKS) that machines' identity tokens are signed with."""
        found: dict[str, Any] = json.loads(self._get(self.settings.certs_url, "certs", deadline=deadline, headers={}))
        return found

    def access_token(self) -> tuple[str, datetime | None]:
        """Return an access token of the control plane's own, and when it expires."""
        credentials = self._found()
        with self._lock, translated(service="sts", method="sts.token", clock=self.clock):
            if not credentials.valid:
                credentials.refresh(_refresher())
        return credentials.token, None if credentials.expiry is None else _aware(credentials.expiry)

    def signer(self) -> str:
        """Return the email of the service account that signs URLs; empty when nothing names one."""
        if self.settings.service_account or self.settings.anonymous:
            return self.settings.service_account
        return str(getattr(self._found(), "service_account_email", "") or "")

    def close(self) -> None:
        """Connections are the process's; nothing is the client's own."""

    def _get(self, url: str, service: str, *, deadline: datetime, headers: Mapping[str, str]) -> bytes:
        timeout_s = self._left_s(deadline)
        with translated(service=service, method=f"{service}.get", clock=self.clock):
            response, content = self._wrap(Wire(timeout=timeout_s)).request(url, "GET", headers=dict(headers))
            if response.status != 200:
                from googleapiclient.errors import HttpError

                raise HttpError(response, content, uri=url)
        return bytes(content)

    def _http(self, deadline: datetime, api: str) -> Any:
        timeout_s = self._left_s(deadline)
        # Who exchanges a token is not to show one besides: iam/docs/reference/sts/rest/v1/TopLevel/token.
        token = "" if self._is_anonymous or api == "sts" else self.access_token()[0]
        return self._wrap(Wire(timeout=timeout_s, token=token))

    @property
    def _is_anonymous(self) -> bool:
        return self.settings.anonymous and self._credentials is None

    def _left_s(self, deadline: datetime) -> float:
        left = (deadline - self.clock.now()) / timedelta(seconds=1)
        if left <= 0:
            raise DeadlineExceeded(
                "the deadline had passed before the request was made", reason="REQUEST", applied=Applied.NO
            )
        return min(left, MOST_S)

    def _found(self) -> Any:
        with self._lock:
            if self._credentials is None:
                with translated(service="sts", method="credentials", clock=self.clock):
                    self._credentials = _credentials(self.settings, self._identity_token)
            return self._credentials


@attrs.frozen(kw_only=True)
class Wire:
    """What googleapiclient takes for an httplib2.Http: one request's timeout and token, on the pool of the process."""

    timeout: float
    token: str = attrs.field(default="", repr=False)

    def request(
        self,
        uri: str,
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        redirections: int = 0,  # noqa: ARG002 - httplib2's signature
        connection_type: Any = None,  # noqa: ARG002 - httplib2's signature
    ) -> tuple[Any, bytes]:
        """Send one request; return httplib2's response and the body. Raises errors of urllib3. Follows no redirect."""
        import httplib2

        sent = dict(headers or {})
        if self.token:
            sent["authorization"] = f"Bearer {self.token}"
        cut = uri.index("/", uri.index("//") + 2)
        answer = _connections(uri[:cut]).urlopen(
            method, uri[cut:], body=body, headers=sent, timeout=self.timeout, retries=False, redirect=False,
            assert_same_host=False,
        )  # fmt: skip
        response = httplib2.Response({key.lower(): value for key, value in answer.headers.items()})
        response.status, response.reason = answer.status, answer.reason or ""
        response["status"] = str(answer.status)
        return response, answer.data

    def close(self) -> None:
        """Nothing is held."""


@functools.lru_cache(maxsize=32)
def _connections(origin: str) -> Any:
    """Return the connections to a host. All drivers of the process share them: a request carries its own token."""
    import urllib3

    # Not through a PoolManager, which takes every URL apart again.
    return urllib3.connection_from_url(origin, maxsize=64, block=False)


_BUILDING = threading.Lock()


def _collection(api: str, endpoint: str, name: str) -> Any:
    with _BUILDING:
        return _built(api, endpoint, name)


@functools.cache
def _built(api: str, endpoint: str, name: str) -> Any:
    """Return a collection (``instances``, ``projects.serviceAccounts``); making one costs milliseconds, so it is kept."""
    parent, _, last = name.rpartition(".")
    return getattr(_built(api, endpoint, parent) if parent else _service(api, endpoint), last)()


@functools.cache
def _service(api: str, endpoint: str) -> Any:
    from googleapiclient.discovery import build

    return build(
        api, VERSIONS[api], http=Wire(timeout=MOST_S), static_discovery=True, cache_discovery=False,
        client_options={"api_endpoint": endpoint},
    )  # fmt: skip


@functools.cache
def _refresher() -> Any:
    import urllib3
    from google.auth.transport.urllib3 import Request

    return Request(urllib3.PoolManager(num_pools=32, maxsize=64, block=False))


def _credentials(settings: Settings, sign: Sign | None) -> Any:
    """Return the credentials that the settings name. Raises google.auth's errors."""
    import google.auth
    from google.auth import identity_pool, impersonated_credentials

    if settings.federation is None:
        found, _ = google.auth.default(scopes=SCOPES)
        if not settings.service_account:
            return found
        return impersonated_credentials.Credentials(
            source_credentials=found, target_principal=settings.service_account, target_scopes=SCOPES
        )
    base = settings.endpoint("iamcredentials").rstrip("/")
    account = f"{base}/v1/projects/-/serviceAccounts/{settings.service_account}"
    named: dict[str, Any] = {
        "audience": settings.federation.audience,
        "subject_token_type": TOKEN_TYPE,
        "token_url": f"{settings.endpoint('sts').rstrip('/')}/v1/token",
        "service_account_impersonation_url": f"{account}:generateAccessToken",
    }
    if settings.federation.token_file:
        file = {"type": "external_account", "credential_source": {"file": settings.federation.token_file}}
        return identity_pool.Credentials.from_info({**file, **named}, scopes=SCOPES)
    return identity_pool.Credentials(**named, subject_token_supplier=_Plane(sign), scopes=SCOPES)


class _Plane:
    """The control plane as a supplier of google-auth's: its tokens say that they are for the pool's provider."""

    def __init__(self, sign: Sign | None) -> None:
        self._sign = sign

    def get_subject_token(self, context: Any, request: Any) -> str:
        """Return a fresh token of the control plane."""
        del request
        if self._sign is None:
            raise Unauthenticated(
                "nothing here signs for the control plane", reason="MISSING", hint="set federation.token_file"
            )
        return self._sign(f"https:{context.audience}").reveal()


def _aware(expiry: datetime) -> datetime:
    return expiry.replace(tzinfo=UTC) if expiry.tzinfo is None else expiry


def skus(service: str, *, endpoint: str = "", credentials: Any = None) -> Iterator[dict[str, Any]]:
    """Yield what a service sells, of a catalogue: by default Google's, by the application default credentials."""
    import google.auth
    from googleapiclient.discovery import build

    if credentials is None:
        credentials, _ = google.auth.default(scopes=("https://www.googleapis.com/auth/cloud-billing.readonly",))
    options = {"api_endpoint": endpoint} if endpoint else {}
    catalogue = build(
        "cloudbilling",
        "v1",
        credentials=credentials,
        static_discovery=True,
        cache_discovery=False,
        client_options=options,
    )
    catalogue = catalogue.services().skus()
    request = catalogue.list(parent=service, pageSize=5000)
    while request is not None:
        page = request.execute()
        yield from page.get("skus", ())
        request = catalogue.list_next(request, page)
