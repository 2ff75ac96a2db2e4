"""A whole story of a composed cloud whose Pods really run: set up, a job, taken down; told by the command line."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import yaml
from anyscale_conformance.simulators.kubernetes import Cluster

from tests.compositions import pods
from tests.conformance.stories import command_line


@attrs.define(kw_only=True)
class Story:
    """A Kubernetes cluster that boots its Pods, and a command line. ``name``: of the cloud; ``env``: what else it finds."""

    name: str
    cluster: Cluster
    home: Path
    env: Mapping[str, str] = attrs.field(factory=dict)

    @cached_property
    def cli(self) -> Callable[..., str]:
        """The command line."""
        return command_line(self.home, self.name, pods.TYPE, consoles=self.consoles, env=self.env)

    def consoles(self) -> str:
        names = [obj["metadata"]["name"] for kind, obj in self.cluster.inventory(pods.NAMESPACE) if kind == "pods"]
        return "\n".join(self.cluster.world.log_of(self.cluster.pod(pods.NAMESPACE, name)) for name in names)

    def kubernetes(self) -> dict[str, Any]:
        return pods.kubernetes(self.cluster, self.home) | {"python": sys.executable, "grace_seconds": 5}

    def in_cluster(self) -> set[str]:
        found = self.cluster.inventory(pods.NAMESPACE)
        return {f"{kind} {obj['metadata']['name']}" for kind, obj in found if kind != "events"}

    def set_up(self, cloud: Mapping[str, Any]) -> str:
        """Set a cloud up and make the account that its binding asks for; return the identity's principal."""
        (self.home / "cloud.yaml").write_text(yaml.safe_dump({"name": self.name, **cloud}))
        self.cli("cloud", "setup", "-f", str(self.home / "cloud.yaml"))
        (view,) = (each for each in json.loads(self.cli("cloud", "list", "--json"))["clouds"] if each["identities"])
        (identity,) = view["identities"]
        account = {"name": "workloads", "namespace": pods.NAMESPACE, "annotations": identity["binding"]["account"]}
        self.cluster.plant({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        self.cli("cloud", "verify", self.name)
        return str(identity["principal"])

    def run(self) -> None:
        """Run a job on a cluster of two Pods, which run as the account, and take the cluster down."""
        said = self.cli("run", "--keep", "-f", "../spec.yaml", "--", "python", "job.py")
        assert "computed at 127." in said
        ran_as = [each.obj["spec"]["serviceAccountName"] for each in self.cluster.world.entries("pods", pods.NAMESPACE)]
        assert ran_as == ["workloads"] * 2
        self.cli("down", "remote")
