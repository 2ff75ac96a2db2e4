"""Phases: one word for people, and the only moves there are between them."""

import enum
from collections.abc import Mapping


class NodePhase(enum.Enum):
    """Where a node is in its life. Records of GONE and FAILED nodes are kept for ``status`` and then forgotten."""

    RECORDED = "RECORDED"
    """Named and stored; the cloud may or may not have heard of it (replay tells)."""
    LAUNCHING = "LAUNCHING"
    """The cloud accepted it; its agent has not registered."""
    STARTING = "STARTING"
    """Its agent registered and is starting Ray."""
    READY = "READY"
    """Ray on it is ALIVE and its lease is fresh."""
    SUSPECT = "SUSPECT"
    """Its lease lapsed, or Ray on it is down; it may come back."""
    DRAINING = "DRAINING"
    """It is asked to finish, put its logs away and stop Ray."""
    LOST = "LOST"
    """It is given up; what is left of it in the cloud will be deleted."""
    DELETING = "DELETING"
    """The cloud was told to delete it and has not finished."""
    GONE = "GONE"
    """Nothing of it is left."""
    FAILED = "FAILED"
    """It never came up: nothing of it exists in the cloud."""


NODE_MOVES: Mapping[NodePhase, frozenset[NodePhase]] = {
    # accepted, refused for good, or no longer wanted (the cloud may have it, so it is deleted, not forgotten)
    NodePhase.RECORDED: frozenset({NodePhase.LAUNCHING, NodePhase.STARTING, NodePhase.FAILED, NodePhase.DELETING}),
    # registered; never did in time; no longer wanted
    NodePhase.LAUNCHING: frozenset({NodePhase.STARTING, NodePhase.LOST, NodePhase.DRAINING, NodePhase.DELETING}),
    NodePhase.STARTING: frozenset(
        {NodePhase.READY, NodePhase.SUSPECT, NodePhase.LOST, NodePhase.DRAINING, NodePhase.DELETING}
    ),
    # back to STARTING when it joins a new head
    NodePhase.READY: frozenset(
        {NodePhase.STARTING, NodePhase.SUSPECT, NodePhase.LOST, NodePhase.DRAINING, NodePhase.DELETING}
    ),
    NodePhase.SUSPECT: frozenset(
        {NodePhase.READY, NodePhase.STARTING, NodePhase.LOST, NodePhase.DRAINING, NodePhase.DELETING}
    ),
    # back to READY when Ray refuses an idle drain because work has come
    NodePhase.DRAINING: frozenset({NodePhase.READY, NodePhase.LOST, NodePhase.DELETING}),
    NodePhase.LOST: frozenset({NodePhase.DELETING, NodePhase.GONE}),
    NodePhase.DELETING: frozenset({NodePhase.GONE}),
    NodePhase.GONE: frozenset(),
    NodePhase.FAILED: frozenset(),
}

NODE_ENDED = frozenset({NodePhase.GONE, NodePhase.FAILED})
NODE_LEAVING = frozenset({NodePhase.DRAINING, NodePhase.LOST, NodePhase.DELETING})


class ClusterPhase(enum.Enum):
    """Where a cluster is in its life, as ``status`` shows it."""

    STARTING = "STARTING"
    """It is on its way to its first RUNNING."""
    RUNNING = "RUNNING"
    """The head and the minimum of every group are READY."""
    RECOVERING = "RECOVERING"
    """It was RUNNING and lost its head or fell below a minimum."""
    TERMINATING = "TERMINATING"
    TERMINATED = "TERMINATED"
    FAILED = "FAILED"
    """It ended for a reason that nobody asked for; the reason is on it, and nothing of it is left in the cloud."""


CLUSTER_MOVES: Mapping[ClusterPhase, frozenset[ClusterPhase]] = {
    ClusterPhase.STARTING: frozenset({ClusterPhase.RUNNING, ClusterPhase.TERMINATING}),
    ClusterPhase.RUNNING: frozenset({ClusterPhase.RECOVERING, ClusterPhase.TERMINATING}),
    ClusterPhase.RECOVERING: frozenset({ClusterPhase.RUNNING, ClusterPhase.TERMINATING}),
    # FAILED when the reason for the end was a failure
    ClusterPhase.TERMINATING: frozenset({ClusterPhase.TERMINATED, ClusterPhase.FAILED}),
    ClusterPhase.TERMINATED: frozenset(),
    ClusterPhase.FAILED: frozenset(),
}

CLUSTER_ENDED = frozenset({ClusterPhase.TERMINATED, ClusterPhase.FAILED})


class JobPhase(enum.Enum):
    """Where a job is: the words of Ray's Jobs API, with WAITING before and LOST beside them."""

    WAITING = "WAITING"
    """Accepted here; not yet submitted to Ray."""
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    LOST = "LOST"
    """Its head was lost and it has no retries left."""


JOB_MOVES: Mapping[JobPhase, frozenset[JobPhase]] = {
    JobPhase.WAITING: frozenset(set(JobPhase) - {JobPhase.WAITING}),
    # back to WAITING for the next attempt
    JobPhase.PENDING: frozenset(set(JobPhase) - {JobPhase.PENDING}),
    JobPhase.RUNNING: frozenset(
        {JobPhase.SUCCEEDED, JobPhase.FAILED, JobPhase.STOPPED, JobPhase.LOST, JobPhase.WAITING}
    ),
    JobPhase.SUCCEEDED: frozenset(),
    JobPhase.FAILED: frozenset(),
    JobPhase.STOPPED: frozenset(),
    JobPhase.LOST: frozenset(),
}

JOB_ENDED = frozenset({JobPhase.SUCCEEDED, JobPhase.FAILED, JobPhase.STOPPED, JobPhase.LOST})
