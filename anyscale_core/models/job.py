"""A job: an entrypoint to run on a cluster, and what became of it."""

import enum
from collections.abc import Mapping
from datetime import datetime

import attrs

from anyscale_core.models.ids import ClusterId, JobId
from anyscale_core.models.phases import JobPhase


class AfterJob(enum.Enum):
    """What becomes of the cluster when the job has ended."""

    KEEP = "keep"
    TERMINATE = "terminate"


@attrs.frozen(kw_only=True)
class JobSpec:
    """A job that is wanted. ``entrypoint`` is a shell command on the head; ``max_retries``: attempts after a lost head.

    ``package``: the key of an uploaded zip of the user's folder below the cloud's ``packages/``; it is the working directory.
    """

    entrypoint: str
    env_vars: Mapping[str, str] = attrs.field(factory=dict)
    package: str | None = None
    max_retries: int = 1
    after: AfterJob = AfterJob.KEEP
    metadata: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Job:
    """A job as it stands. ``attempt`` counts from 1; ``submission_id`` is Ray's name for the present attempt."""

    id: JobId
    cluster_id: ClusterId
    spec: JobSpec
    phase: JobPhase
    attempt: int
    submission_id: str
    epoch: str = ""
    """The head that the present attempt was handed to; empty while WAITING for one."""
    message: str = ""
    exit_code: int | None = None
    created_at: datetime
    ended_at: datetime | None = None
