"""The Secret with the bootstraps of a create: one key for each Pod, which mounts its own and no other."""

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from anyscale_core.models.ids import Token
from anyscale_core.models.owner import Owner
from anyscale_kubernetes.client import Api
from anyscale_kubernetes.kinds import POD, SECRET
from anyscale_kubernetes.names import manager, token_digest
from anyscale_kubernetes.pods import Order
from anyscale_kubernetes.tags import Body, marks

SLOT = "bootstrap"


def secret_name(owner: Owner, token: Token, place: int) -> str:
    """Return the name of the Secret of the part of a create that begins at ``place``."""
    return f"bootstrap-{token_digest(owner, token)}-{place}"


def apply_bootstraps(
    api: Api, order: Order, pods: Mapping[str, Body], bootstraps: Mapping[str, Any], *, owner: Owner, deadline: datetime
) -> None:
    """Write the bootstraps, by instance name, into a Secret that Kubernetes deletes with the last of these Pods."""
    mark = marks(owner, order.secret, slot=SLOT, token=order.token, fingerprint=order.fingerprint, tags={})
    owners = [{**POD.head(), "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]} for pod in pods.values()]
    body = {
        "metadata": {
            "name": order.secret, "labels": dict(mark.labels), "annotations": dict(mark.annotations),
            "ownerReferences": owners,
        },
        "type": "Opaque",
        "data": {name: _encoded(bootstrap) for name, bootstrap in bootstraps.items()},
    }  # fmt: skip
    api.apply(SECRET, body, manager=manager(order.secret), deadline=deadline, force=True)


def _encoded(bootstrap: Any) -> str:
    return base64.b64encode(json.dumps(bootstrap, sort_keys=True, separators=(",", ":")).encode()).decode()
