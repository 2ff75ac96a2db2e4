"""``anyscale-core logs``: a job's output, or what nodes have put away."""

import argparse

from anyscale_core.api.client import Client
from anyscale_core.api.protocol import ClusterView, JobView
from anyscale_core.cli import background
from anyscale_core.cli.buckets import Store
from anyscale_core.cli.joblog import Tail, print_so_far
from anyscale_core.cli.jobwatch import JobWatch, exit_code, log_key
from anyscale_core.cli.output import Exit, Format, Output
from anyscale_core.cli.progress import QuietProgress
from anyscale_core.cli.watch import Watch, last_event
from anyscale_core.errors import UnknownName
from anyscale_core.models.phases import JOB_ENDED


def logs(args: argparse.Namespace, output: Output) -> int:
    """Print a job's log (with --follow until it ends), or what a node stored, or list what is stored.

    With --follow the exit status is the job's. Raises UnknownName.
    """
    client = background.connect(args.home, say=output.note).client
    view = client.get(args.name)
    if args.list or args.node or args.key:
        return _stored(Store(client.logs(view.name)), args, output)
    job = _job(view, args.job)
    if job.phase in JOB_ENDED:
        return _print(Store(client.logs(view.name)), log_key(job.submission_id), output)
    if args.follow:
        return _follow(client, view, job, output)
    progress = QuietProgress(output)
    print_so_far(
        client.access(view.name), job.submission_id, Tail(lambda data: progress.log(data, attempt=job.attempt))
    )
    return Exit.OK


def _stored(store: Store, args: argparse.Namespace, output: Output) -> int:
    if args.key:
        return _print(store, args.key, output)
    found = list(store.keys(f"logs/{args.node}/" if args.node else ""))
    if args.list:
        objects = [{"key": key, "size": size} for key, size in found]
        text = "\n".join([store.url, *(f"{size:>12}  {key}" for key, size in found)])
        output.answer({"url": store.url, "objects": objects}, text)
        return Exit.OK
    if not found:
        raise UnknownName(
            f"nothing of a node {args.node!r} is stored; nodes put their logs away when they end (--list)"
        )
    for key, _ in found:
        if output.format is Format.TEXT:
            output.note(f"==> {key} <==")
        _print(store, key, output)
    return Exit.OK


def _follow(client: Client, view: ClusterView, job: JobView, output: Output) -> int:
    watch = Watch(client, view, QuietProgress(output), after=last_event(client, view.name))
    _, job = JobWatch(watch, job.id).to_end()
    return exit_code(job)


def _job(view: ClusterView, wanted: str | None) -> JobView:
    if not view.jobs:
        raise UnknownName(f"{view.name} has had no job; `anyscale-core logs {view.name} --list` shows what is stored")
    found = [job for job in view.jobs if wanted in (None, job.id)]
    if not found:
        raise UnknownName(f"{view.name} has no job {wanted!r}; it has {', '.join(job.id for job in view.jobs)}")
    return max(found, key=lambda job: job.created_at)


def _print(store: Store, key: str, output: Output) -> int:
    data = store.read(key)
    if data is None:
        raise UnknownName(f"{store.url} holds no {key!r}; --list shows what it holds")
    if output.format is Format.JSON:
        output.line({"key": key, "text": data.decode(errors="replace")})
    else:
        output.raw(data)
    return Exit.OK
