"""Follows one job to its end: every attempt's output, live and whole."""

from anyscale_core.api.protocol import ClusterView, JobView
from anyscale_core.cli.buckets import Store
from anyscale_core.cli.failures import Broken
from anyscale_core.cli.joblog import Stream, Tail, Whole
from anyscale_core.cli.output import Exit
from anyscale_core.cli.progress import first_line
from anyscale_core.cli.watch import LATER, SOON, Watch, ended
from anyscale_core.errors import CoreError
from anyscale_core.models.ids import JobId
from anyscale_core.models.phases import JOB_ENDED, JobPhase

HANDED = frozenset({JobPhase.PENDING, JobPhase.RUNNING})


class JobWatch:
    """One job of a watched cluster. ``logs`` opens the cluster's prefix of the bucket when it is first needed."""

    def __init__(self, watch: Watch, job_id: JobId) -> None:
        self._watch, self._job_id = watch, job_id
        self._stream: Stream | None = None
        self._tail: Tail | None = None
        self._attempt = 0
        self._submission_id = ""

    def to_end(self) -> tuple[ClusterView, JobView]:
        """Follow the job until it, or its cluster, has ended; return both as they are then.

        Raises BrokenPipeError when nobody reads the output any more; Broken when the job is not known any more.
        """
        progress = self._watch.progress
        try:
            while True:
                view = self._watch.look(LATER if self._stream is not None else SOON)
                job = self._job(view)
                if self._stream is not None and self._stream.error is not None:
                    raise self._stream.error
                if job.attempt != self._attempt:
                    self._next_attempt(job)
                if job.phase in HANDED and self._stream is None and view.endpoint:
                    progress.pause()
                    self._start()
                if job.phase in JOB_ENDED or ended(view):
                    self._finish()
                    return view, job
        finally:
            self._end_stream()
            progress.resume()

    def _job(self, view: ClusterView) -> JobView:
        for job in view.jobs:
            if job.id == self._job_id:
                return job
        raise Broken(f"{view.name} knows no job {self._job_id} any more")

    def _next_attempt(self, job: JobView) -> None:
        if self._attempt:
            self._finish()
            self._watch.progress.note(
                f"attempt {self._attempt} of the job was lost{f' ({first_line(job.message)})' if job.message else ''};"
                f" what follows is the output of attempt {job.attempt}, from its start"
            )
        self._attempt, self._submission_id = job.attempt, job.submission_id
        progress, attempt = self._watch.progress, job.attempt
        self._tail = Tail(lambda data: progress.log(data, attempt=attempt))

    def _start(self) -> None:
        assert self._tail is not None
        client, name = self._watch.client, self._watch.name
        self._stream = Stream(lambda: client.access(name), self._submission_id, self._tail)
        self._stream.start()

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.stop()
            self._stream = None

    def _finish(self) -> None:
        """Print what the stream has not: the node stored the log before it told that the job has ended."""
        self._end_stream()
        tail = self._tail
        if tail is None:
            return
        note = self._watch.progress.note
        try:
            store = Store(self._watch.patiently(lambda: self._watch.client.logs(self._watch.name)))
            key = log_key(self._submission_id)
            stored = store.size(key)
            if stored is None:
                if tail.printed:
                    note(f"the log of attempt {self._attempt} was not stored: its last lines may be missing above")
                return
            if tail.finish(stored, lambda start: store.read(key, start=start) or b"") is not Whole.YES:
                note("the log is longer than what is stored of it: something may be missing above")
        except CoreError as error:  # what became of the job matters more than its last lines
            note(f"the end of the log may be missing above: {error}")


def log_key(submission_id: str) -> str:
    """Return where the log of an attempt lies below its cluster's prefix."""
    return f"jobs/{submission_id}.log"


def exit_code(job: JobView) -> int:
    """Return a job's exit status: its own where it has one; a signal n counts 128 + n, as in a shell."""
    match job.phase:
        case JobPhase.SUCCEEDED:
            return Exit.OK
        case JobPhase.STOPPED:
            return Exit.INTERRUPTED
        case JobPhase.FAILED if job.exit_code:
            return job.exit_code if job.exit_code > 0 else 128 - job.exit_code
    return Exit.FAILED
