"""The simulator: one HTTPS server, and any number of subscriptions behind it."""

import json
import logging
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from anyscale_conformance.simulators.azure import arm, tls
from anyscale_conformance.simulators.azure.blobs import Blobs
from anyscale_conformance.simulators.azure.directory import refusal
from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.front import Front
from anyscale_conformance.simulators.azure.hands import Hands
from anyscale_conformance.simulators.azure.metadata import Metadata
from anyscale_conformance.simulators.azure.server import Server
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.tokens import MANAGEMENT, Issuer
from anyscale_conformance.simulators.azure.wire import Body, Reply, Request, Seen, parse
from anyscale_conformance.simulators.boot import Machines
from anyscale_core.clock import Clock, SystemClock

_log = logging.getLogger(__name__)

Told = tuple[int, Mapping[str, str], Any]


class AzureSimulator:
    """Azure on this machine. Use it as a context, or ``close`` it. Threads may share it.

    ``url`` is where ARM and Entra ID answer, ``ca_path`` the authority that their certificate is of.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="anyscale-azure-")
        made = tls.issue(Path(self._folder.name))
        self.ca_path = made.ca
        self._server = Server(self._answer, made.context())
        self.url = f"https://127.0.0.1:{self._server.port}"
        self.blobs = Blobs(made)
        """Where the blob services of storage accounts are: one Azurite, which starts with the first account."""
        self.issuer = Issuer(self.url)
        self.front = Front(made, self.issuer, self.blobs, self._owner)
        """Where those services let in who has a role or a signature alone, as Azure does. Azurite itself lets in everybody."""
        self._subscriptions: dict[str, Subscription] = {}
        self._lock = threading.Lock()
        self._server.start()

    def subscription(
        self, clock: Clock | None = None, *, home: str = "eastus", machines: Machines | None = None
    ) -> Subscription:
        """Return a new, empty subscription in a tenant of its own. ``machines``: where its machines really run."""
        made = Subscription(clock or SystemClock(), base=self.url, home=home, machines=machines, issuer=self.issuer)
        made.hands, made.blobs, made.metadata = Hands(made), self.blobs, Metadata(made, ca=self.ca_path)
        with self._lock:
            self._subscriptions[made.id] = made
        return made

    def forget(self, subscription: Subscription) -> None:
        """Let a subscription and everything in it be no more."""
        with self._lock:
            self._subscriptions.pop(subscription.id, None)
        subscription.metadata.close()
        for account in subscription.all("Microsoft.Storage/storageAccounts"):
            self.blobs.release(account.name)

    def close(self) -> None:
        """End the server."""
        for subscription in tuple(self._subscriptions.values()):
            subscription.metadata.close()
        self._server.close()
        self.front.close()
        self.blobs.close()
        self._folder.cleanup()

    def __enter__(self) -> "AzureSimulator":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _owner(self, account: str) -> Subscription | None:
        return self._subscriptions.get(self.blobs.owner(account) or "")

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Told:
        parts = urlsplit(path)
        where = unquote(parts.path).rstrip("/")
        words = where.strip("/").split("/")
        try:
            if words[0].lower() == "subscriptions" and len(words) > 1:
                return self._arm(method, where, dict(parse_qsl(parts.query)), headers, body)
            if where.endswith("/oauth2/v2.0/token"):
                return self._token(words[0], body)
            if where.endswith("/.well-known/openid-configuration"):
                version = "v2.0" if words[1] == "v2.0" else "v1.0"
                return 200, {}, self.issuer.configuration(words[0], version=version)
            if where.endswith(("/discovery/v2.0/keys", "/discovery/keys")):
                return 200, {}, self.issuer.keys()
            if where.lower() == "/metadata/endpoints":
                return 200, {}, self._clouds()
        except ArmError as error:
            return error.status, {"x-ms-failure-cause": "gateway", **error.headers}, error.body
        except Exception as fault:
            _log.exception("the simulator failed at %s %s", method, where)
            return 500, {}, ArmError(500, "InternalServerError", f"The simulator has a fault: {fault!r}").body
        return 404, {}, ArmError(404, "NotFound", f"Nothing is at {where}.").body

    def _arm(self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> Told:
        at = self._subscriptions.get(path.split("/")[2].lower())
        if at is None:
            raise ArmError(404, "SubscriptionNotFound", f"The subscription '{path.split('/')[2]}' could not be found.")
        principal = self._who(at, headers)
        request = Request(
            method=method, path=path, target=parse(path), headers=headers, body=_parsed(body), base=self.url,
            query={name if name.startswith("$") else name.lower(): value for name, value in query.items()},
            principal=principal,
        )  # fmt: skip
        with at.lock:
            at.settle()
            error: ArmError | None = None
            try:
                reply = arm.answer(at, request)
            except ArmError as refused:
                error = refused
                reply = Reply(status=refused.status, body=refused.body, headers=refused.headers)
            code = error.code if error else ""
            at.journal.append(
                Seen(method=method, path=path, action=arm.action_of(request), query=request.query, body=request.body,
                     status=reply.status, code=code, at=at.now())
            )  # fmt: skip
            # While the lock is held: what is shown must not change under the encoder.
            content = None if reply.body is None else json.dumps(reply.body).encode()
        told = {"Content-Type": "application/json; charset=utf-8", **at.rates(method), **reply.headers}
        return reply.status, told, content

    def _who(self, at: Subscription, headers: Mapping[str, str]) -> str:
        """Return who asks. Raises ArmError for nobody, and for a token that is not for here."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        challenge = {"WWW-Authenticate": f'Bearer authorization_uri="{self.url}/{at.tenant_id}", error="invalid_token"'}
        if scheme.lower() != "bearer":
            raise ArmError(
                401,
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is missing.",
                headers=challenge,
            )
        claims = self.issuer.verify(token)
        if claims is None:
            raise ArmError(401, "InvalidAuthenticationToken", "The access token is invalid.", headers=challenge)
        if claims.audience.rstrip("/") not in (MANAGEMENT, "https://management.core.windows.net", self.url):
            raise ArmError(
                401, "InvalidAuthenticationTokenAudience",
                f"The access token has been obtained for wrong audience or resource '{claims.audience}'.", headers=challenge,
            )  # fmt: skip
        if claims.tenant != at.tenant_id:
            raise ArmError(
                401, "InvalidAuthenticationTokenTenant",
                f"The access token is from the wrong issuer. It must match the tenant '{at.tenant_id}' associated with this "
                "subscription.", headers=challenge,
            )  # fmt: skip
        if float(claims.all.get("exp", 0)) < time.time():
            raise ArmError(
                401,
                "ExpiredAuthenticationToken",
                "The access token expiry UTC time is earlier than current UTC time.",
                headers=challenge,
            )
        return claims.principal

    def _token(self, tenant: str, body: bytes) -> Told:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        found = [one for one in self._subscriptions.values() if one.tenant_id == tenant]
        if not found:
            return refusal("invalid_request", 90002, f"Tenant '{tenant}' not found.")
        with found[0].lock:
            found[0].settle()
            return found[0].directory.grant(form)

    def _clouds(self) -> Body:
        return {"authentication": {"loginEndpoint": self.url, "audiences": [MANAGEMENT]}, "resourceManager": self.url}


def _parsed(body: bytes) -> Body | None:
    if not body:
        return None
    try:
        found = json.loads(body)
    except ValueError:
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid and could not be deserialized.")
    if not isinstance(found, dict):
        raise ArmError(400, "InvalidRequestContent", "The request content must be an object.")
    return found
