"""The blob service as Azure lets people at it: who asks, by a token or a signature, and what roles and folders allow.

Azurite takes every token that is for storage, and knows no accesses to folders. What stands here passes on to it what Azure would
let through. It keeps to https://learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas.
"""

import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import attrs
import requests

from anyscale_conformance.simulators.azure import rights
from anyscale_conformance.simulators.azure.blobs import Blobs, may
from anyscale_conformance.simulators.azure.server import Server
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.tls import Tls
from anyscale_conformance.simulators.azure.tokens import STORAGE, Issuer

Told = tuple[int, Mapping[str, str], Any]
ACCOUNTS = "Microsoft.Storage/storageAccounts"
SERVICE = f"{ACCOUNTS}/blobServices"
SIGNED = (
    "sp", "st", "se", "", "skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid", "sip", "spr", "sv", "sr",
    "snapshot", "ses", "rscc", "rscd", "rsce", "rscl", "rsct",
)  # fmt: skip
"""The fields that are signed, in their order; the empty one is the resource."""
LETTERS = {"read": "r", "list": "l", "write": "wc", "delete": "d"}
HOPS = frozenset({"host", "content-length", "connection", "transfer-encoding", "keep-alive", "date", "server"})


@attrs.frozen(kw_only=True)
class Ask:
    """A request for data. ``path`` is the blob's, or the prefix that a list is of; empty for the container itself."""

    method: str
    account: str
    container: str
    path: str
    query: Mapping[str, str]

    @property
    def action(self) -> str:
        """``read``, ``list``, ``write`` or ``delete``; empty for what is no blob's."""
        if not self.query.get("blob") and self.query.get("comp") == "list" and self.container:
            return "list"
        if "restype" in self.query or not self.container:
            return ""
        return {"GET": "read", "HEAD": "read", "DELETE": "delete"}.get(self.method, "write")

    @property
    def service_action(self) -> str:
        """What a role has to have (among its ``actions``) for a request about containers, or about the service itself."""
        if self.query.get("comp") == "userdelegationkey":
            return f"{SERVICE}/generateUserDelegationKey/action"
        return f"{SERVICE}/containers/" + {"GET": "read", "HEAD": "read", "DELETE": "delete"}.get(self.method, "write")


@attrs.frozen(kw_only=True)
class Used:
    """A request that was let through or refused. ``who``: a principal; of a signature, whose key it was made with."""

    who: str
    action: str
    account: str
    container: str
    path: str
    status: int


class Refused(Exception):
    """What Azure says no with."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Front:
    """One HTTPS server before Azurite, for the accounts of all subscriptions; it starts when its address is asked for."""

    def __init__(self, tls: Tls, issuer: Issuer, blobs: Blobs, find: Callable[[str], Subscription | None]) -> None:
        self._tls, self._issuer, self._blobs, self._find = tls, issuer, blobs, find
        self._keys: dict[tuple[str, ...], bytes] = {}
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._session = requests.Session()
        self._session.verify, self._session.trust_env = str(tls.ca), False
        self.journal: list[Used] = []
        """What came to accounts, in order."""

    @property
    def url(self) -> str:
        """Where accounts are: ``{url}/{account}``."""
        with self._lock:
            if self._server is None:
                self._server = Server(self._answer, self._tls.context())
                self._server.start()
            return f"https://127.0.0.1:{self._server.port}"

    def close(self) -> None:
        """End the server, where it runs."""
        if self._server is not None:
            self._server.close()
        self._session.close()

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Told:
        parts = urlsplit(path)
        account, container, blob = (*unquote(parts.path).strip("/").split("/", 2), "", "")[:3]
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        ask = Ask(
            method=method, account=account, container=container, path=blob or query.get("prefix", ""), query=query
        )
        who = ""
        try:
            at = self._find(account)
            if at is None:
                raise Refused(404, "ResourceNotFound", f"There is no account {account}.")
            if query.get("sr") == "d":
                who = self._by_signature(at, ask)
                headers = {**headers, "authorization": f"Bearer {_token(at)}"}
                kept = {name: value for name, value in query.items() if name not in (*SIGNED, "sdd", "sig")}
                path = f"{parts.path}?{urlencode(kept)}"
            elif "sig" not in query:
                who = self._by_token(at, headers)
            if who:
                self._allow(at, ask, who)
            told = self._passed_on(method, path, headers, body)
        except Refused as refused:
            text = f"<Error><Code>{refused.code}</Code><Message>{escape(str(refused))}</Message></Error>"
            told = refused.status, {"Content-Type": "application/xml", "x-ms-error-code": refused.code}, text.encode()
        self.journal.append(
            Used(who=who, action=ask.action, account=account, container=container, path=ask.path, status=told[0])
        )
        return told

    def _by_token(self, at: Subscription, headers: Mapping[str, str]) -> str:
        """Return who has signed in. Raises Refused for a token that is not for here."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        claims = self._issuer.verify(token) if scheme.lower() == "bearer" else None
        if claims is None or claims.audience != STORAGE or claims.tenant != at.tenant_id:
            raise Refused(401, "InvalidAuthenticationInfo", "The token is not for storage, or of another tenant.")
        return claims.principal

    def _by_signature(self, at: Subscription, ask: Ask) -> str:
        """Return whose key has signed an access to a folder. Raises Refused for a wrong one, and for what it does not allow."""
        query = ask.query
        key = self._keys.get(_key_of(query))
        depth = int(query.get("sdd") or 0)
        folder = "/".join(ask.path.rstrip("/").split("/")[:depth])
        resource = f"/blob/{ask.account}/{ask.container}/{folder}"
        text = "\n".join(query.get(name, "") if name else resource for name in SIGNED)
        good = base64.b64encode(hmac.new(key or b"", text.encode(), hashlib.sha256).digest()).decode()
        if key is None or depth < 1 or not hmac.compare_digest(good, query.get("sig", "")):
            raise Refused(403, "AuthenticationFailed", f"Signature did not match. String to sign used was {text}")
        if not _instant(query.get("st")) <= time.time() < _instant(query["se"]):
            raise Refused(403, "AuthenticationFailed", "Signature not valid in the specified time frame.")
        if not set(LETTERS.get(ask.action, "")) & set(query["sp"]):
            raise Refused(403, "AuthorizationPermissionMismatch", "The signature does not permit this operation.")
        return query["skoid"]

    def _allow(self, at: Subscription, ask: Ask, principal: str) -> None:
        """Raise Refused for what no role lets a principal do."""
        if principal == at.owner.principal:
            return
        with at.lock:
            at.settle()
            if ask.action and may(at, principal, ask.account, ask.container, ask.path, ask.action):
                return
            scope = f"{at.named(ask.account, ACCOUNTS).id}/blobServices/default/containers/{ask.container}".rstrip("/")
            if not ask.action and rights.may(at, principal, ask.service_action, scope):
                return
        message = f"{principal} is not authorized to {ask.action or ask.method} {ask.container}/{ask.path}."
        raise Refused(403, "AuthorizationPermissionMismatch", message)

    def _passed_on(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Told:
        answer = self._session.request(
            method, f"{self._blobs.service.url}{path}", data=body, timeout=60, allow_redirects=False,
            headers={name: value for name, value in headers.items() if name not in HOPS},
        )  # fmt: skip
        if "comp=userdelegationkey" in path and answer.status_code == 200:
            self._learn(answer.text)
        told = {name: value for name, value in answer.headers.items() if name.lower() not in HOPS}
        if method == "HEAD":
            told["Content-Length"] = answer.headers.get("Content-Length", "0")
        return answer.status_code, told, answer.content

    def _learn(self, page: str) -> None:
        """Keep a key that was handed out: what it signs has to be known again."""
        said = {each.tag: each.text or "" for each in ElementTree.fromstring(page.lstrip("\ufeff"))}
        names = ("SignedOid", "SignedTid", "SignedStart", "SignedExpiry", "SignedService", "SignedVersion")
        self._keys[tuple(said[name] for name in names)] = base64.b64decode(said["Value"])


def _key_of(query: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(query.get(name, "") for name in ("skoid", "sktid", "skt", "ske", "sks", "skv"))


def _token(at: Subscription) -> str:
    return at.directory.token(client=at.owner.client_id, principal=at.owner.principal, audience=STORAGE)


def _instant(text: str | None) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0
