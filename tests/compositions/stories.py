"""A whole story of a composed cloud whose Pods really run: set up, a job, taken down; told by the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml
from anyscale_conformance.simulators.kubernetes import Cluster

from tests.compositions import pods
from tests.compositions.test_aks import JOB, SPEC


@attrs.define(kw_only=True)
class Story:
    """A Kubernetes cluster that boots its Pods, and a command line with a home of its own. ``env``: what else it finds."""

    cluster: Cluster
    home: Path
    env: Mapping[str, str] = attrs.field(factory=dict)

    def cli(self, *words: str) -> str:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | dict(self.env)
        command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(self.home / "plane"), *words]
        done = subprocess.run(
            command, cwd=self.home / "work", env=env, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.consoles()}"
        return done.stdout

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
        (self.home / "work").mkdir()
        (self.home / "work" / "job.py").write_text(JOB)
        (self.home / "spec.yaml").write_text(yaml.safe_dump({**SPEC, "cloud": cloud["name"]}))
        (self.home / "cloud.yaml").write_text(yaml.safe_dump(cloud))
        self.cli("cloud", "setup", "-f", str(self.home / "cloud.yaml"))
        (view,) = (each for each in json.loads(self.cli("cloud", "list", "--json"))["clouds"] if each["identities"])
        (identity,) = view["identities"]
        account = {"name": "workloads", "namespace": pods.NAMESPACE, "annotations": identity["binding"]["account"]}
        self.cluster.plant({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        self.cli("cloud", "verify", str(cloud["name"]))
        return str(identity["principal"])

    def run(self) -> None:
        """Run a job on a cluster of two Pods, which run as the account, and take the cluster down."""
        said = self.cli("run", "--keep", "-f", "../spec.yaml", "--", "python", "job.py")
        assert "computed at 127." in said
        ran_as = [each.obj["spec"]["serviceAccountName"] for each in self.cluster.world.entries("pods", pods.NAMESPACE)]
        assert ran_as == ["workloads"] * 2
        self.cli("down", "remote")
