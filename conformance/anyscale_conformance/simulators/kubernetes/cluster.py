"""One simulated cluster: what it is made with, how it is reached, what can be done to it by hand, and what is really in it."""

import base64
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from joserfc.jwk import RSAKey

from anyscale_conformance.simulators.kubernetes import bootstrap
from anyscale_conformance.simulators.kubernetes.api import Api
from anyscale_conformance.simulators.kubernetes.booting import Booted, Played
from anyscale_conformance.simulators.kubernetes.calls import Answer, Call, Watch, refused
from anyscale_conformance.simulators.kubernetes.controllers import Controllers
from anyscale_conformance.simulators.kubernetes.hands import Hands
from anyscale_conformance.simulators.kubernetes.kinds import WITH_GATEWAYS, WITHOUT_GATEWAYS
from anyscale_conformance.simulators.kubernetes.kubelet import Kubelet
from anyscale_conformance.simulators.kubernetes.objects import Objects
from anyscale_conformance.simulators.kubernetes.problems import Problem
from anyscale_conformance.simulators.kubernetes.rbac import Authorizer
from anyscale_conformance.simulators.kubernetes.scheduler import Scheduler
from anyscale_conformance.simulators.kubernetes.settings import Request, Settings
from anyscale_conformance.simulators.kubernetes.tokens import Tokens
from anyscale_conformance.simulators.kubernetes.users import AUTHENTICATED, MASTERS, User
from anyscale_conformance.simulators.kubernetes.world import World
from anyscale_core.clock import Clock


class Cluster(Hands):
    """A cluster that is served at ``url``. ``requests`` is the journal of what was asked; hands are the methods of Hands."""

    def __init__(self, clock: Clock, settings: Settings, key: RSAKey, *, ca: Path) -> None:
        catalogue = WITH_GATEWAYS if settings.gateway_api else WITHOUT_GATEWAYS
        self.url = ""
        self.ca_file = ca
        self.settings = settings
        self.requests: list[Request] = []
        self.on_close: Callable[[], None] = lambda: None
        self.world = World(clock, catalogue, settings.seed)
        self.tokens = Tokens(self.world, key, settings.issuer)
        self.authorizer = Authorizer(self.world)
        self.objects = Objects(self.world)
        self._api = Api(self.world, self.authorizer, self.tokens)
        self.admin_token = self.add_user("kubernetes-admin", groups=(MASTERS,))
        super().__init__()
        self.runtime = Booted(self.world, self.tokens) if settings.boots else Played()
        self.kubelet = Kubelet(self.world, settings, self.runtime)
        Scheduler(self.world)
        Controllers(self.world, settings)
        with self.world.lock:
            bootstrap.furnish(self.world, settings, ca.read_text())
            self.world.advance()

    def add_user(self, name: str, *, groups: tuple[str, ...] = ()) -> str:
        """Let somebody in and return the bearer token; what they may do is for roles to say."""
        token = secrets.token_hex(16)
        self.tokens.add_plain(token, User(name=name, groups=(*groups, AUTHENTICATED)))
        return token

    def kubeconfig(self, token: str = "", *, namespace: str = "default") -> dict[str, Any]:
        """Return a kubeconfig for a token, by default the administrator's."""
        authority = base64.b64encode(self.ca_file.read_bytes()).decode()
        return {
            "apiVersion": "v1", "kind": "Config", "current-context": "simulated",
            "clusters": [{"name": "simulated", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "simulated", "user": {"token": token or self.admin_token}}],
            "contexts": [
                {"name": "simulated", "context": {"cluster": "simulated", "user": "simulated", "namespace": namespace}}
            ],
        }  # fmt: skip

    def answer(self, call: Call) -> Answer | Watch:
        """Answer one request, as the server's thread does."""
        with self.world.lock:
            self.world.advance()
            who = ""
            try:
                user = self._api.user(call)
                who = user.name
                self.meet(call)
                outcome = self._api.answer(call, user)
            except Problem as problem:
                outcome = refused(problem)
            status = outcome.status if isinstance(outcome, Answer) else 200
            self.requests.append(
                Request(
                    method=call.method, path=call.path, query=call.query, user=who, status=status, at=self.world.now
                )
            )
            self.world.advance()
            return outcome

    def close(self) -> None:
        """Stop serving, and end what was booted. May be called twice."""
        self.on_close()
        self.end_machines()
