"""``anyscale-core run``: a cluster for one command, and nothing left behind."""

import argparse
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import attrs

from anyscale_core.api.client import Client
from anyscale_core.api.protocol import ClusterView, JobView
from anyscale_core.cli import background, packaging, specfile
from anyscale_core.cli.buckets import Store
from anyscale_core.cli.failures import Usage
from anyscale_core.cli.jobwatch import JobWatch, exit_code
from anyscale_core.cli.output import Exit, Format, Output
from anyscale_core.cli.progress import Progress, first_line, progress_for
from anyscale_core.cli.watch import Watch, ended, last_event
from anyscale_core.errors import CoreError, UnknownName
from anyscale_core.models import wire
from anyscale_core.models.job import AfterJob, JobSpec
from anyscale_core.models.phases import ClusterPhase


@attrs.frozen(kw_only=True)
class Errand:
    """What one ``run`` is for. ``after``: what becomes of a cluster that it makes."""

    file: specfile.SpecFile
    command: tuple[str, ...]
    folder: Path
    after: AfterJob


def run(args: argparse.Namespace, output: Output) -> int:
    """Bring the cluster up, run the command as a Ray job, show its output, take the cluster down.

    Returns the job's own exit status. A cluster of that name that is alive already is brought to the spec, gets the job,
    and stays. Raises SpecError, Usage, NotThere before anything is made.
    """
    errand = _errand(args)
    packed = packaging.pack(errand.folder)
    progress = progress_for(output)
    plane = background.connect(args.home, say=progress.note)
    try:
        return _Run(errand, plane.client, progress, output).go(packed)
    finally:
        progress.close()
        _leave(plane, progress)


def _errand(args: argparse.Namespace) -> Errand:
    if args.stray or not args.command:
        raise Usage("write the command after `--`: anyscale-core run -f SPEC -- python main.py")
    return Errand(
        file=specfile.load(args.file),
        command=tuple(args.command),
        folder=args.working_dir or Path.cwd(),
        after=AfterJob.KEEP if args.keep else AfterJob.TERMINATE,
    )


def _leave(plane: background.Plane, progress: Progress) -> None:
    """Stop a control plane that was started for this run, unless something still needs it."""
    if not plane.started:
        return
    try:
        alive = [view.name for view in plane.client.clusters()]
        if not alive:
            background.stop(plane)
            return
        progress.note(f"the control plane goes on: {', '.join(alive)} {'is' if len(alive) == 1 else 'are'} alive")
    except CoreError as error:
        progress.note(f"the control plane was not stopped: {error}")


class _Run:
    """The steps of one run, and what they know of each other."""

    def __init__(self, errand: Errand, client: Client, progress: Progress, output: Output) -> None:
        self._errand, self._client, self._progress, self._output = errand, client, progress, output
        self._name = errand.file.spec.name
        self._mine = False
        """Whether the cluster is ours to take down."""
        self._watch: Watch | None = None
        self._began = time.monotonic()

    def go(self, packed: packaging.Packed) -> int:
        """Run; on Ctrl-C, SIGTERM or an error take down what was made."""
        with _terminated_like_interrupted():
            try:
                watch, job = self._submit(packed)
                view, job = JobWatch(watch, job.id).to_end()
                self._tell_logs()
                return self._end(view, job)
            except KeyboardInterrupt:
                return self._interrupted()
            except BaseException as error:
                self._failed(error)
                raise

    def _submit(self, packed: packaging.Packed) -> tuple[Watch, JobView]:
        live = self._live()
        with specfile.located(self._errand.file.name, self._errand.file.lines):
            self._client.plan(self._errand.file.raw)  # a spec that cannot be had is refused before anything is sent
        self._upload(packed)
        after = last_event(self._client, self._name) if live is not None else 0
        known = {job.id for job in live.jobs} if live is not None else set()
        self._mine = live is None and self._errand.after is AfterJob.TERMINATE
        job = JobSpec(
            entrypoint=shlex.join(self._errand.command),
            package=packed.key,
            after=AfterJob.TERMINATE if self._mine else AfterJob.KEEP,
        )
        with specfile.located(self._errand.file.name, self._errand.file.lines):
            view = self._client.apply(self._errand.file.raw, job)
        if live is not None:
            self._progress.note(f"{self._name} is alive already: it gets the job, and stays afterwards")
        self._watch = Watch(self._client, view, self._progress, after=after)
        return self._watch, next(one for one in view.jobs if one.id not in known)

    def _live(self) -> ClusterView | None:
        try:
            view = self._client.get(self._name)
        except UnknownName:
            return None
        return None if ended(view) else view

    def _upload(self, packed: packaging.Packed) -> None:
        store = Store(self._client.uploads(self._errand.file.spec.cloud))
        if store.size(packed.key) == len(packed.data):
            return
        store.put(packed.key, packed.data)
        size = f"{len(packed.data) / 1024:.0f} KiB"
        self._progress.note(f"sent {packed.files} files of {self._errand.folder} ({size})")

    def _tell_logs(self) -> None:
        with suppress(CoreError):
            self._progress.note(f"logs: {self._client.logs(self._name).url}")

    def _end(self, view: ClusterView, job: JobView) -> int:
        """Wait for the end of what is ours, tell how it went, return the exit status."""
        if self._mine and self._watch is not None:
            self._progress.note(f"the job {job.phase.value}; taking {self._name} down")
            view = self._watch.until(ended)
        self._progress.close()
        code = exit_code(job)
        reason = first_line(job.message) or (view.reason if view.phase is ClusterPhase.FAILED else "")
        took = time.monotonic() - self._began
        left = "nothing is left of it" if ended(view) else f"take it down with `anyscale-core down {self._name}`"
        self._progress.note(f"job {job.phase.value}{f' ({reason})' if reason else ''} in {took:.1f} s")
        self._progress.note(f"cluster {self._name} {view.phase.value}: {left}")
        self._result({"cluster": wire.unstructure(view), "job": wire.unstructure(job), "exit": code, "seconds": took})
        return code

    def _interrupted(self) -> int:
        if not self._mine:
            self._progress.note(f"interrupted; {self._name} and its jobs go on: `anyscale-core status {self._name}`")
            self._result({"exit": int(Exit.INTERRUPTED)})
            return Exit.INTERRUPTED
        try:
            self._progress.note(f"interrupted; taking {self._name} down (Ctrl-C again leaves at once)")
            self._take_down("interrupted by its user")
        except KeyboardInterrupt:
            self._progress.note(f"left; the control plane goes on taking {self._name} down")
        self._result({"exit": int(Exit.INTERRUPTED)})
        return Exit.INTERRUPTED

    def _failed(self, error: BaseException) -> None:
        """Take down what an error leaves behind; the error itself is told where it is handled."""
        if not self._mine:
            return
        self._progress.note(f"taking {self._name} down, because {type(error).__name__} ended the run")
        with suppress(KeyboardInterrupt, CoreError):
            self._take_down(f"its run ended with {type(error).__name__}")

    def _take_down(self, why: str) -> None:
        # What was being asked when Ctrl-C came may have reached the control plane or not: this settles it.
        try:
            view = self._client.delete(self._name, why)
        except UnknownName:
            return
        watch = self._watch or Watch(self._client, view, self._progress)
        self._progress.resume()
        watch.until(ended)
        self._progress.note(f"nothing is left of {self._name}")

    def _result(self, result: dict[str, Any]) -> None:
        if self._output.format is Format.JSON:
            self._output.line({"type": "result"} | result)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: a cluster must not outlive the run that it was made for."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
