"""An S3-compatible server of this machine that takes signed requests alone, for the conformance kit and the plugin's tests."""

import atexit
import functools
import logging
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from anyscale_conformance.simulators.aws.signing import Key, Refusal, Signature

STORE_KEYS = {"access_key_id": "conformance", "secret_access_key": "conformance-secret"}
"""What opens the store, as the provider's Secret holds it."""


class SignedStore:
    """Lets signed requests through, one after another: moto looks at a condition and acts on it in two steps."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._key = Key(
            id=STORE_KEYS["access_key_id"], secret=STORE_KEYS["secret_access_key"], account="", principal="", user_id=""
        )
        self._lock = threading.Lock()

    def __call__(self, environment: Any, start: Any) -> list[bytes]:
        """Serve one request (WSGI)."""
        try:
            self._check(environment)
        except Refusal as refusal:
            body = f"<Error><Code>{refusal.code}</Code><Message>{refusal.message}</Message></Error>".encode()
            start(f"{refusal.status} Refused", [("content-type", "application/xml"), ("connection", "close")])
            return [body]
        with self._lock:
            return list(self._app(environment, start))

    def _check(self, environment: Any) -> None:
        """Raise Refusal unless the request was signed with the store's key; S3 clients tell the digest of the body."""
        signature = Signature.of(environment)
        if signature is None:
            raise Refusal("AccessDenied", "Anonymous access is forbidden.", status=403)
        if signature.key_id != self._key.id:
            raise Refusal("InvalidAccessKeyId", "The access key does not exist.", status=403)
        signature.check(environment, b"", self._key, now=datetime.now(UTC))


@functools.cache
def store_url() -> str:
    """Return the URL of the S3-compatible server of this process."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request, in the middle of the report
    server = make_server("127.0.0.1", 0, SignedStore(DomainDispatcherApplication(create_backend_app)), threaded=True)
    threading.Thread(target=server.serve_forever, name="store", daemon=True).start()
    atexit.register(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}"


def stored() -> Mapping[str, Any]:
    """Return the buckets of the server by name, as it has them in memory: past its requests, which are slow."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    return dict(s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets)


def session() -> Any:
    """Return a botocore session of one's own, with models that have been read before."""
    from botocore.session import Session

    made = Session()
    made.register_component("data_loader", _loader())
    return made


@functools.cache
def plain_s3() -> Any:
    """Return a client of the store beside the driver's, with the same keys."""
    return session().create_client(
        "s3", endpoint_url=store_url(), region_name="us-east-1", aws_access_key_id=STORE_KEYS["access_key_id"],
        aws_secret_access_key=STORE_KEYS["secret_access_key"],
    )  # fmt: skip


@functools.cache
def _loader() -> Any:
    """Return what reads the SDK's service models; reading them is most of what a client costs."""
    from botocore.session import Session

    return Session().get_component("data_loader")
