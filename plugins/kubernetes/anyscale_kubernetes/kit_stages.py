"""Where a row of the conformance suite plays: a simulated cluster of its own, or namespaces of a real one.

Each stage looks past the drivers, as an administrator, and has the same hands.
"""

import atexit
import base64
import functools
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Protocol

from anyscale_conformance.kit import RunScope
from anyscale_conformance.simulators.kubernetes import Servers

from anyscale_core.clock import Clock, SystemClock
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import NotFound, UnknownName
from anyscale_core.testing.clock import ManualClock
from anyscale_kubernetes import kinds
from anyscale_kubernetes.client import MERGE, Api, Connection
from anyscale_kubernetes.config import read_settings
from anyscale_kubernetes.kinds import Kind
from anyscale_kubernetes.kit_store import STORE_KEYS
from anyscale_kubernetes.pods import ZONE_LABEL
from anyscale_kubernetes.records import find
from anyscale_kubernetes.tags import Body, tags_of
from anyscale_kubernetes.testing import eventually

KUBECONFIG = "ANYSCALE_TEST_KUBECONFIG"
IMAGE = "ANYSCALE_TEST_IMAGE"
GATEWAY = "public"
ZONES = ("zone-a", "zone-b", "zone-c")
LIMIT = timedelta(minutes=2)
"""The longest that one step on a real cluster may take."""
SHOWN = (
    kinds.POD, kinds.CONFIG_MAP, kinds.SECRET, kinds.SERVICE_ACCOUNT, kinds.SERVICE, kinds.ENDPOINT_SLICE,
    kinds.NETWORK_POLICY, kinds.VOLUME_CLAIM, kinds.EVENT,
)  # fmt: skip
"""The kinds that the drivers make things of on a real cluster."""
TINY = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}


class Stage(Protocol):
    """A place for one row. ``namespace`` is the row's own, ``route`` the way in that there is."""

    namespace: str
    route: str
    clock: Clock
    overbook: Callable[[str], None] | None
    """Lets no node have room for an instance type's next Pod; None where that cannot be brought about."""

    def settings(self) -> dict[str, Any]:
        """Return the provider's settings here."""
        ...

    def connect(self) -> Connection:
        """Return a connection of the drivers' own."""
        ...

    def inventory(self) -> list[tuple[str, Body]]:
        """Return everything in the row's namespace, as pairs of plural and object."""
        ...

    def plant(self, kind: Kind, name: str, **parts: Any) -> None:
        """Make an object in the row's namespace as somebody else would."""
        ...

    def remove(self, kind: Kind, name: str) -> None:
        """Take an object of the row's namespace away."""
        ...

    def limit(self, pods: int) -> None:
        """Let there be so many Pods and no more."""
        ...

    def kill(self, pod: str) -> None:
        """Let a Pod be gone without a word."""
        ...

    def stop(self, pod: str) -> None:
        """Let a Pod fail and stay."""
        ...

    def announce(self, pod: str) -> None:
        """Let the cluster say that it takes a Pod, which runs on meanwhile."""
        ...

    def double(self, pod: str) -> None:
        """Let a second Pod with the same labels and annotations exist."""
        ...

    def foreign_token(self, audience: str) -> str:
        """Return a genuine token of another namespace's account."""
        ...

    def close(self) -> None:
        """Take the stage down."""
        ...


def pod_of(stage: Stage, name: str) -> str:
    """Return the name of the Pod of an instance. Raises KeyError."""
    for plural, obj in stage.inventory():
        if plural == kinds.POD.plural and tags_of(obj).get("Name") == name:
            return str(obj["metadata"]["name"])
    raise KeyError(f"there is no Pod of an instance {name}")


def store_keys() -> dict[str, str]:
    """Return the data of the Secret with the store's keys."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in STORE_KEYS.items()}


@functools.cache
def servers() -> Servers:
    """Return the simulated API servers of this process; each row has a cluster of its own there."""
    made = Servers()
    atexit.register(made.close)
    return made


class Simulated:
    """A cluster of three zones, on a clock moved by hand."""

    elsewhere = "others"

    def __init__(self) -> None:
        self.namespace, self.route = "ray", "httproute"
        self.clock: Clock = ManualClock()
        self.cluster = servers().start(clock=self.clock)
        for namespace in (self.namespace, self.elsewhere):
            self.cluster.make_namespace(namespace)
        self.overbook: Callable[[str], None] | None = lambda _: self.cluster.sell_out()
        self.limit(1000)
        self.plant(kinds.SECRET, "store", data=store_keys())
        simulated = {"metadata": {"name": "simulated"}, "spec": {"controllerName": "example.com/simulated"}}
        self.cluster.plant({"apiVersion": kinds.GATEWAY_API, "kind": "GatewayClass", **simulated})
        listeners = [{"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "tls"}]}}]
        self.plant(kinds.GATEWAY, GATEWAY, spec={"gatewayClassName": "simulated", "listeners": listeners})

    def settings(self) -> dict[str, Any]:
        return {
            "namespace": self.namespace, "image": "registry.invalid/ray:1", "zones": list(ZONES), "route": self.route,
            "gateway": {"name": GATEWAY, "namespace": self.namespace}, "hostname": "{name}.ray.invalid",
        }  # fmt: skip

    def connect(self) -> Connection:
        from kubernetes.client import Configuration

        configuration = Configuration(host=self.cluster.url)
        configuration.ssl_ca_cert = str(self.cluster.ca_file)
        configuration.api_key = {"authorization": f"Bearer {self.cluster.admin_token}"}
        return Connection(configuration)

    def inventory(self) -> list[tuple[str, Body]]:
        return list(self.cluster.inventory(self.namespace))

    def plant(self, kind: Kind, name: str, **parts: Any) -> None:
        self.cluster.plant(_body(kind, name, self.namespace, parts))

    def remove(self, kind: Kind, name: str) -> None:
        world = self.cluster.world
        with world.lock:
            entry = world.get(kind.plural, self.namespace, name, kind.group)
            if entry is not None:
                world.store.remove(entry)

    def limit(self, pods: int) -> None:
        self.cluster.set_quota(self.namespace, {"pods": str(pods)})

    def kill(self, pod: str) -> None:
        self.cluster.kill(self.namespace, pod)

    def stop(self, pod: str) -> None:
        self.cluster.stop(self.namespace, pod)

    def announce(self, pod: str) -> None:
        self.cluster.announce(self.namespace, pod)

    def double(self, pod: str) -> None:
        self.cluster.double(self.namespace, pod)

    def foreign_token(self, audience: str) -> str:
        return str(self.cluster.token(self.elsewhere, "default", audiences=(audience,)))

    def close(self) -> None:
        self.cluster.close()


class Real:
    """Namespaces of the cluster that ANYSCALE_TEST_KUBECONFIG names; its user may do everything in them.

    Pods ask for next to nothing, and sleep in the image that ANYSCALE_TEST_IMAGE names.
    """

    def __init__(self, scope: RunScope) -> None:
        kubeconfig = os.environ.get(KUBECONFIG, "")
        if not kubeconfig:
            raise UnknownName(f"no cluster to run on: set {KUBECONFIG} to the path of a kubeconfig")
        self.clock: Clock = SystemClock()
        self.overbook: Callable[[str], None] | None = None
        self.namespace, self.route = f"anyscale-{scope.prefix}", "service"
        self._elsewhere = f"{self.namespace}-others"
        self._made: list[str] = []
        self._own = {"namespace": self.namespace, "kubeconfig": kubeconfig}
        self._settings = read_settings(DriverConfig(owner=scope.owner, home=scope.home, settings=self._own))
        self._api = Api(self._settings, self.clock)
        self._make_namespace(self.namespace)
        self.limit(1000)
        self.plant(kinds.SECRET, "store", data=store_keys())

    def settings(self) -> dict[str, Any]:
        tiny = {"patch": [{"op": "replace", "path": "/spec/containers/0/resources", "value": TINY}]}
        return {
            **self._own, "image": os.environ.get(IMAGE, "busybox:1"), "command": ["sleep", "3600"], "route": self.route,
            "zones": self._zones(), "patches": [tiny], "grace_seconds": 1,
        }  # fmt: skip

    def connect(self) -> Connection:
        return Connection.of(self._settings)

    def inventory(self) -> list[tuple[str, Body]]:
        return [
            (kind.plural, {**kind.head(), **obj})
            for kind in SHOWN
            for obj in self._api.list(kind, deadline=self._soon())
        ]

    def plant(self, kind: Kind, name: str, **parts: Any) -> None:
        body = _body(kind, name, self.namespace, parts)
        self._api.apply(kind, body, manager="somebody", deadline=self._soon(), force=True)

    def remove(self, kind: Kind, name: str) -> None:
        self._delete(kind, name, self.namespace)

    def limit(self, pods: int) -> None:
        """Let there be so many Pods; the limit holds when a controller has counted those that there are."""
        self.plant(kinds.RESOURCE_QUOTA, "quota", spec={"hard": {"pods": str(pods)}})

        def counts() -> bool:
            quota = self._api.get(kinds.RESOURCE_QUOTA, "quota", deadline=self._soon())
            return bool((quota.get("status") or {}).get("hard") == quota["spec"]["hard"])

        eventually(counts, LIMIT.total_seconds())

    def kill(self, pod: str) -> None:
        self._delete(kinds.POD, pod, self.namespace, gracePeriodSeconds=0)

    def stop(self, pod: str) -> None:
        """Let a Pod fail: that it has run for too long is one of the few things that can be said of it later."""
        self._api.merge(kinds.POD, pod, {"spec": {"activeDeadlineSeconds": 1}}, deadline=self._soon())

        def failed() -> bool:
            return bool(self._api.get(kinds.POD, pod, deadline=self._soon())["status"].get("phase") == "Failed")

        eventually(failed, LIMIT.total_seconds())

    def announce(self, pod: str) -> None:
        """Do what the scheduler does when it preempts a Pod: a condition, then a deletion after some grace."""
        known = self._api.get(kinds.POD, pod, deadline=self._soon())["status"].get("conditions") or []
        told = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": "by the suite",
        }
        path = kinds.POD.path(self.namespace, pod, "status")
        body = {"status": {"conditions": [*known, told]}}
        self._api.request("PATCH", path, body=body, content=MERGE, deadline=self._soon())
        self._delete(kinds.POD, pod, self.namespace, gracePeriodSeconds=60)

    def double(self, pod: str) -> None:
        known = self._api.get(kinds.POD, pod, deadline=self._soon())
        metadata = {key: known["metadata"][key] for key in ("labels", "annotations")}
        spec = {key: value for key, value in known["spec"].items() if key != "nodeName"}
        self.plant(kinds.POD, f"{pod[:50]}-twin", **metadata, spec=spec)

    def foreign_token(self, audience: str) -> str:
        self._make_namespace(self._elsewhere)
        path = kinds.SERVICE_ACCOUNT.path(self._elsewhere, "default", "token")
        body = {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 3600},
        }  # fmt: skip
        return str(self._api.request("POST", path, body=body, deadline=self._soon())["status"]["token"])

    def close(self) -> None:
        for namespace in self._made:
            self._delete(kinds.NAMESPACE, namespace, "")
        self._api.close()

    def _make_namespace(self, name: str) -> None:
        self._made.append(name)
        self._api.apply(kinds.NAMESPACE, {"metadata": {"name": name}}, manager="somebody", deadline=self._soon())

        def has_an_account() -> bool:
            deadline = self._soon()
            return find(self._api, kinds.SERVICE_ACCOUNT, "default", namespace=name, deadline=deadline) is not None

        eventually(has_an_account, LIMIT.total_seconds())

    def _zones(self) -> list[str]:
        nodes = self._api.list(kinds.NODE, deadline=self._soon())
        return sorted({node["metadata"]["labels"].get(ZONE_LABEL, "") for node in nodes} - {""})

    def _delete(self, kind: Kind, name: str, namespace: str, **options: Any) -> None:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        with suppress(NotFound):
            self._api.request("DELETE", kind.path(namespace, name), body=body, deadline=self._soon())

    def _soon(self) -> datetime:
        return self.clock.now() + LIMIT


def _body(kind: Kind, name: str, namespace: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    words = ("labels", "annotations", "ownerReferences")
    metadata = {"name": name, "namespace": namespace} | {word: parts[word] for word in words if word in parts}
    return {**kind.head(), "metadata": metadata, **{key: part for key, part in parts.items() if key not in words}}
