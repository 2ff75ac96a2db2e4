"""The simulator: every request is signed, allowed, journalled, and then answered by a handler of ours or by moto."""

import io
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import attrs

os.environ.setdefault(
    "MOTO_EC2_LOAD_DEFAULT_AMIS", "false"
)  # read when moto is imported; thousands of images nobody uses

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from anyscale_conformance.simulators.aws import (
    authority,
    balancers,
    buckets,
    catalogue,
    compute,
    identities,
    lists,
    networks,
    quicker,
    sts,
    tagging,
    web_identity,
)
from anyscale_conformance.simulators.aws.accounts import Account, Call, Life, Timing
from anyscale_conformance.simulators.aws.metadata import Metadata
from anyscale_conformance.simulators.aws.server import Server
from anyscale_conformance.simulators.aws.signing import Key, Refusal, Signature
from anyscale_conformance.simulators.aws.wire import Answer, Parameters, refused
from anyscale_conformance.simulators.boot import Machines
from anyscale_core.clock import Clock, SystemClock

log = logging.getLogger(__name__)
Handler = Callable[["Exchange"], Answer]
THROTTLED = {"ec2": ("RequestLimitExceeded", 503), "s3": ("SlowDown", 503)}
QUERY_SERVICES = ("ec2", "iam", "sts", "elasticloadbalancing")


@attrs.define(kw_only=True, eq=False)
class Exchange:
    """One request on its way through: what was asked, by whom, and how to ask moto."""

    simulator: "AwsSimulator"
    account: Account
    key: Key | None
    service: str
    action: str
    params: Parameters
    environ: dict[str, Any]
    body: bytes

    def inner(self, form: Mapping[str, str] | None = None, body: bytes | None = None) -> Answer:
        """Let moto answer, with another form when one is given."""
        payload = body if body is not None else self.body if form is None else urlencode(form).encode()
        environ = {**self.environ, "wsgi.input": io.BytesIO(payload), "CONTENT_LENGTH": str(len(payload))}
        environ["HTTP_X_MOTO_ACCOUNT_ID"] = self.account.id
        environ.pop("wsgi.input_terminated", None)
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        head: list[Any] = []
        chunks = self.simulator.moto(environ, lambda status, headers, _=None: head.extend((status, headers)))
        content = b"".join(chunks)
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
        return Answer(status=int(head[0].split()[0]), headers=dict(head[1]), body=content)


class AwsSimulator:
    """AWS on a port of this machine. ``machines``: where launched instances really run; None lets them only be listed."""

    def __init__(self, *, clock: Clock | None = None, machines: Machines | None = None, port: int = 0) -> None:
        quicker.quicken()
        self.clock = clock or SystemClock()
        self.machines = machines
        self.accounts: dict[str, Account] = {}
        self.keys: dict[str, Key] = {}
        self.anonymous: list[Call] = []
        self.moto = DomainDispatcherApplication(create_backend_app)
        self._moto_lock = threading.Lock()
        self._services: dict[str, Metadata] = {}
        self._server = Server(self._answer, port=port)
        self.url = self._server.url

    def account(
        self, id: str, *, region: str = "us-west-2", clock: Clock | None = None, timing: Timing | None = None
    ) -> Account:
        """Return an account, made on first use. ``clock`` and ``timing`` are its own."""
        if id not in self.accounts:
            account = Account(id, region=region, clock=clock or self.clock, timing=timing, machines=self.machines)
            if self.machines is not None:
                account.on_run = lambda life: self._boot(account, life)
            self.accounts[id] = account
        return self.accounts[id]

    def _boot(self, account: Account, life: Life) -> None:
        """Let an instance run for real, with a metadata service of its own."""
        assert self.machines is not None
        service = self._services[life.id] = Metadata(self, account, life)
        endpoint = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": service.url, "AWS_METADATA_ENDPOINT": service.url, "AWS_ALLOW_HTTP": "true",
        }  # fmt: skip
        self.machines.boot(life.id, life.user_data, address=life.address, environment=endpoint)

    def issue(self, key: Key) -> Key:
        """Let a key be known; return it."""
        self.keys[key.id] = key
        return key

    def drop(self, account: Account) -> None:
        """Forget an account with its keys."""
        self.accounts.pop(account.id, None)
        self.keys = {id: key for id, key in self.keys.items() if key.account != account.id}
        account.close()

    def close(self) -> None:
        """Stop listening and forget everything."""
        self._server.close()
        for service in self._services.values():
            service.close()
        for account in list(self.accounts.values()):
            self.drop(account)

    # One request ----------------------------------------------------------------------------------------------------

    def _answer(self, environ: dict[str, Any], body: bytes) -> Answer:
        service = "s3"
        try:
            signature = Signature.of(environ)
            service = signature.service if signature is not None else self._unsigned_service(body)
            # The query protocol takes its parameters from the body of a POST or from the query of a GET.
            asked = body.decode(errors="replace") or environ.get("QUERY_STRING", "")
            form = dict(parse_qsl(asked, keep_blank_values=True)) if service in QUERY_SERVICES else {}
            action = self._action(service, environ, form)
            key = None if signature is None else self._known(signature)
            account = self._account(key, service, environ, form)
            exchange = Exchange(
                simulator=self, account=account, key=key, service=service, action=action, params=Parameters(form),
                environ=environ, body=body,
            )  # fmt: skip
            account.requests.append(
                Call(service=service, action=action, method=environ["REQUEST_METHOD"], path=environ["PATH_INFO"])
            )
            if account.delay_s:
                time.sleep(account.delay_s)
            with account.lock:
                if signature is not None and key is not None:
                    signature.check(environ, body, key, now=account.clock.now())
                return self._carried_out(exchange)
        except Refusal as refusal:
            return refused(service, refusal)
        except Exception as error:
            # The cloud's own fault, told as the cloud would; whoever runs the simulator finds the cause in the log.
            log.exception("the simulator failed", extra={"service": service, "path": environ["PATH_INFO"]})
            return refused(service, Refusal("InternalError", f"the simulator failed: {error!r}", status=500))

    def _carried_out(self, exchange: Exchange) -> Answer:
        account, action = exchange.account, exchange.action
        if account.throttles.get(action, 0) > 0:
            account.throttles[action] -= 1
            code, status = THROTTLED.get(exchange.service, ("Throttling", 400))
            raise Refusal(code, "Rate exceeded", status=status)
        account.settle()
        balancers.settle(account)
        authority.check(exchange)
        handler = HANDLERS.get((exchange.service, action))
        if handler is not None:
            return handler(exchange)
        with self._moto_lock:
            return exchange.inner()

    def _known(self, signature: Signature) -> Key:
        key = self.keys.get(signature.key_id)
        if key is None:
            code = {"ec2": "AuthFailure", "s3": "InvalidAccessKeyId"}.get(signature.service, "InvalidClientTokenId")
            raise Refusal(code, "The security token included in the request is invalid.", status=403)
        return key

    def _account(self, key: Key | None, service: str, environ: Mapping[str, Any], form: Mapping[str, str]) -> Account:
        if key is not None:
            return self.accounts[key.account]
        if service == "sts":
            found = self.accounts.get(form.get("RoleArn", "::::").split(":")[4])
        else:
            found = buckets.account_of(self, environ["PATH_INFO"])
        if found is None:
            raise Refusal("AccessDenied", "Access Denied", status=403)
        return found

    def _unsigned_service(self, body: bytes) -> str:
        return "sts" if b"Action=AssumeRoleWithWebIdentity" in body else "s3"

    def _action(self, service: str, environ: Mapping[str, Any], form: Mapping[str, str]) -> str:
        if service in QUERY_SERVICES:
            return form.get("Action", "")
        if service == "s3":
            return buckets.action(environ)
        return str(environ.get("HTTP_X_AMZ_TARGET", "")).rpartition(".")[2]


HANDLERS: Mapping[tuple[str, str], Handler] = {
    **compute.HANDLERS,
    **networks.HANDLERS,
    **balancers.HANDLERS,
    **buckets.HANDLERS,
    **catalogue.HANDLERS,
    **identities.HANDLERS,
    **lists.HANDLERS,
    **sts.HANDLERS,
    **tagging.HANDLERS,
    **web_identity.HANDLERS,
}
"""What moto would answer wrongly, or not at all."""
