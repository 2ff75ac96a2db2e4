"""Processes of a POSIX session: what a node starts stays in one, so it can be ended to the last, and nothing else is."""

import contextlib
import os
import select
import signal
import time

import psutil

SWEEP = 2.0
"""Seconds until a sweep gives up: a process that the kernel holds cannot be ended by anyone."""


def members(session: int) -> list[int]:
    """Return the pids of a session that still run, without this process."""
    out = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            # An orphan whose new parent does not reap it stays as a zombie, and is gone all the same.
            if (
                os.getsid(pid) == session
                and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
                and pid != os.getpid()
            ):
                out.append(pid)
    return out


def sweep(session: int, *, instance: str = "") -> None:
    """Kill every process of a session but this one, until none is left.

    With ``instance`` only those with that name in their environment: for the session of an earlier agent, whose number
    may by now be another's.
    """
    deadline = time.monotonic() + SWEEP
    while time.monotonic() < deadline:
        left = [pid for pid in members(session) if not instance or _belongs(pid, instance)]
        if not left:
            return
        for pid in left:
            send(pid, signal.SIGKILL)
        time.sleep(0.01)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def born(pid: int) -> float:
    """Return when a process was started, 0.0 when there is none (or only what nobody has reaped): tells pids apart."""
    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return 0.0


def await_end(pids: tuple[int, ...], *, timeout: float | None = None) -> int:
    """Wait until one of these processes ends; return its pid, or 0 after ``timeout`` seconds."""
    poll = select.poll()
    watched: dict[int, int] = {}
    try:
        for pid in pids:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                return pid
            watched[fd] = pid
            poll.register(fd, select.POLLIN)
        ready = poll.poll(None if timeout is None else timeout * 1000)
        return watched[ready[0][0]] if ready else 0
    finally:
        for fd in watched:
            os.close(fd)


def _belongs(pid: int, instance: str) -> bool:
    try:
        return psutil.Process(pid).environ().get("ANYSCALE_CORE_INSTANCE") == instance
    except psutil.Error:
        return False
