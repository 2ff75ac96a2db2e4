"""The instance metadata service of a machine that really runs: on the machine's own address, version 2 alone.

Source: EC2 User Guide, "Instance metadata categories" and "Use IMDSv2".
"""

import json
import secrets
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

from anyscale_conformance.simulators.aws import sts
from anyscale_conformance.simulators.aws.accounts import Account, Life

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import AwsSimulator

SESSION = timedelta(hours=6)


class Metadata:
    """What one instance can learn of itself."""

    def __init__(self, simulator: "AwsSimulator", account: Account, life: Life) -> None:
        self._simulator, self._account, self._life = simulator, account, life
        self._tokens: set[str] = set()
        self._server = ThreadingHTTPServer((life.address, 0), self._handler())
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        self.url = f"http://{life.address}:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        metadata = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                token = secrets.token_urlsafe(16)
                metadata._tokens.add(token)
                self._answer(200 if self.path == "/latest/api/token" else 404, token)

            def do_GET(self) -> None:
                if self.headers.get("X-aws-ec2-metadata-token") not in metadata._tokens:
                    self._answer(401, "")
                    return
                found = metadata._read(self.path.removeprefix("/latest/"))
                self._answer(404 if found is None else 200, found or "")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def _answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

        return Handler

    def _read(self, path: str) -> str | None:
        account, life = self._account, self._life
        role = self._role()
        known: dict[str, Callable[[], str]] = {
            "meta-data/instance-id": lambda: life.id,
            "meta-data/ami-launch-index": lambda: str(life.index),
            "meta-data/local-ipv4": lambda: life.address,
            "meta-data/placement/region": lambda: account.region,
            "user-data": lambda: life.user_data,
        }
        if role:
            known["meta-data/iam/security-credentials/"] = lambda: role
            known[f"meta-data/iam/security-credentials/{role}"] = lambda: self._credentials(role)
        if life.marked is not None:
            at = (life.marked + account.timing.notice).strftime("%Y-%m-%dT%H:%M:%SZ")
            known["meta-data/spot/instance-action"] = lambda: json.dumps({"action": "terminate", "time": at})
        found = known.get(path)
        return None if found is None else found()

    def _role(self) -> str:
        profiles = self._account.iam.instance_profiles.values()
        return next((role.name for each in profiles if each.name == self._life.profile for role in each.roles), "")

    def _credentials(self, role: str) -> str:
        key = sts.session(self._simulator, self._account, role, self._life.id, SESSION)
        expires = key.expires.strftime("%Y-%m-%dT%H:%M:%SZ") if key.expires is not None else ""
        now = self._account.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        return json.dumps(
            {
                "Code": "Success", "LastUpdated": now, "Type": "AWS-HMAC", "AccessKeyId": key.id,
                "SecretAccessKey": key.secret, "Token": key.session_token, "Expiration": expires,
            }
        )  # fmt: skip
