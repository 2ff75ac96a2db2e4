"""What was deleted of what a token made: Events on the Pods, found by the token's label.

An Event is the one object that Kubernetes forgets by itself (an hour after it was written, ``--event-ttl``), so nothing of this
is ever left to be cleared away, and `kubectl get events` tells who deleted a node.
"""

import json
from collections.abc import Sequence
from datetime import datetime

from anyscale_core.models.ids import Token
from anyscale_core.models.owner import TAG_NAME, Owner
from anyscale_kubernetes.client import Api
from anyscale_kubernetes.kinds import EVENT, POD
from anyscale_kubernetes.names import PREFIX, digest, manager, token_digest
from anyscale_kubernetes.tags import SLOT_LABEL, TOKEN, TOKEN_LABEL, Body, annotation, tags_of

SLOT = "spent"
NAMES = f"{PREFIX}/names"


def spend(api: Api, pods: Sequence[Body], *, deadline: datetime) -> None:
    """Remember, before Pods are deleted, that their tokens are spent on them: one Event for each token."""
    for token in dict.fromkeys(annotation(pod, TOKEN) for pod in pods):
        of_it = [pod for pod in pods if annotation(pod, TOKEN) == token]
        names = sorted(tags_of(pod)[TAG_NAME] for pod in of_it)
        first = of_it[0]["metadata"]
        now = api.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "metadata": {
                "name": f"spent-{digest(token, *(pod['metadata']['uid'] for pod in of_it))}",
                "labels": {SLOT_LABEL: SLOT, TOKEN_LABEL: token},
                "annotations": {NAMES: json.dumps(names)},
            },
            "involvedObject": {
                **POD.head(), "namespace": api.namespace, "name": first["name"], "uid": first["uid"],
            },
            "reason": "Deleted",
            "message": f"anyscale-core deletes {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else ""),
            "type": "Normal",
            "source": {"component": PREFIX},
            "firstTimestamp": now,
            "lastTimestamp": now,
        }  # fmt: skip
        api.apply(EVENT, body, manager=manager(SLOT), deadline=deadline, force=True)


def spent_names(api: Api, owner: Owner | None, *tokens: str, deadline: datetime) -> frozenset[str]:
    """Return the names of what these tokens made and we deleted. With an owner they are tokens, else digests of tokens."""
    digests = [token if owner is None else token_digest(owner, Token(token)) for token in tokens]
    wanted = f"{SLOT_LABEL}={SLOT},{TOKEN_LABEL} in ({','.join(digests)})"
    events = api.list(EVENT, selector=wanted, deadline=deadline)
    return frozenset(name for event in events for name in json.loads(annotation(event, NAMES) or "[]"))
