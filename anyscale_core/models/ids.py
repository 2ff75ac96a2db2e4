"""Names and ids as types. All are strings on the wire; prefixes tell one kind from another in a log line."""

from typing import NewType

PlaneId = NewType("PlaneId", str)
"""``pln_...``: one control plane installation (all its processes): the first half of every owner tag."""
CloudName = NewType("CloudName", str)
ClusterId = NewType("ClusterId", str)
"""``clu_...``: one life of a cluster; a name that is used again gets a new id."""
NodeId = NewType("NodeId", str)
"""``nod_...``: one node, minted by the core before any cloud hears of it; never used again."""
InstanceId = NewType("InstanceId", str)
"""The cloud's own id of an instance, opaque to the core."""
JobId = NewType("JobId", str)
Token = NewType("Token", str)
"""An idempotency token: stored before the call that carries it."""
