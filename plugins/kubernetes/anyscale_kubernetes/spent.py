"""What was deleted of what a token made: Events on the things, found by the tokens' labels.

An Event is the one object that Kubernetes forgets by itself (an hour after it was written, ``--event-ttl``), so nothing of this
is ever left to be cleared away, and `kubectl get events` tells who deleted a thing. After that hour a token makes a new thing.
"""

import json
from collections.abc import Sequence
from datetime import datetime

from anyscale_core.models.owner import TAG_NAME
from anyscale_kubernetes.client import Api
from anyscale_kubernetes.kinds import EVENT, Kind
from anyscale_kubernetes.names import PREFIX, digest, manager
from anyscale_kubernetes.tags import PAST, SLOT_LABEL, TOKEN, Body, annotation, tags_of

SLOT = "spent"
NAMES = f"{PREFIX}/names"


def spend(api: Api, kind: Kind, bodies: Sequence[Body], *, deadline: datetime) -> None:
    """Remember, before things are deleted, that their tokens are spent on them: one Event for each set of tokens."""
    for tokens in dict.fromkeys(map(_tokens, bodies)):
        of_it = [body for body in bodies if _tokens(body) == tokens]
        names = sorted(tags_of(body)[TAG_NAME] for body in of_it)
        first = of_it[0]["metadata"]
        now = api.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        name = f"spent-{digest(*sorted(body['metadata']['uid'] for body in of_it))}"
        event = {
            "metadata": {
                "name": name,
                "labels": {SLOT_LABEL: SLOT, **{f"{PAST}/{token}": "" for token in tokens}},
                "annotations": {NAMES: json.dumps(names)},
            },
            "involvedObject": {**kind.head(), "namespace": api.namespace, "name": first["name"], "uid": first["uid"]},
            "reason": "Deleted",
            "message": f"anyscale-core deletes {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else ""),
            "type": "Normal",
            "source": {"component": PREFIX},
            "firstTimestamp": now,
            "lastTimestamp": now,
        }
        api.apply(EVENT, event, manager=manager(SLOT, name), deadline=deadline, force=True)


def spent_names(api: Api, token: str, *, deadline: datetime) -> frozenset[str]:
    """Return the names of what a token (by its digest) made and we deleted."""
    events = api.list(EVENT, selector=f"{SLOT_LABEL}={SLOT},{PAST}/{token}", deadline=deadline)
    return frozenset(name for event in events for name in json.loads(annotation(event, NAMES) or "[]"))


def _tokens(body: Body) -> tuple[str, ...]:
    """Return the digests of all tokens that made or changed a thing."""
    labels = body["metadata"].get("labels") or {}
    past = tuple(sorted(key.rpartition("/")[2] for key in labels if key.startswith(f"{PAST}/")))
    return past or (annotation(body, TOKEN),)
