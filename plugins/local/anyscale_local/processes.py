"""Which processes belong to an instance, and their end. Reads /proc: one pass answers for every instance.

A process belongs to an instance when its POSIX session is the one the instance was started in. Everything that Ray
starts keeps it, unless user code calls setsid; for those the instance's marker in the environment is looked at too, but
only when they are to be killed, as it costs a file per process of the machine.
"""

import os
import select
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import attrs

PROC = Path("/proc")
GONE = (ProcessLookupError, FileNotFoundError)

EXEC_S = 0.05
"""How long to look again at a process in the middle of an exec, when for an instant it has no environment."""

LOOKS = 3
"""How often a process that is not in an exec must show no environment to be believed."""

KERNEL_THREAD, EXITING = 0x00200000, 0x00000004
"""PF_KTHREAD and PF_EXITING of the kernel's sched.h: these have no arguments either, and will not get any."""


@attrs.frozen(kw_only=True)
class Session:
    """The session of an instance: its leader, when that began, in which life of the machine, and its marker.

    ``started`` in clock ticks since the boot, 0 together with ``pid`` while nothing was spawned.
    """

    pid: int = 0
    started: int = 0
    boot: str = ""
    marker: str


@attrs.frozen(kw_only=True)
class Process:
    """One process that lives, told from a later one with the same pid by when it began."""

    pid: int
    started: int


def boot_id() -> str:
    """Return the id of this life of the machine; empty where the kernel does not tell."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def survey() -> dict[int, list[int]]:
    """Return the pids of the machine by session id, zombies too, in one pass."""
    sessions: dict[int, list[int]] = {}
    for entry in os.listdir(PROC):
        if entry.isdigit():
            with suppress(*GONE):
                sessions.setdefault(os.getsid(int(entry)), []).append(int(entry))
    return sessions


def living(session: Session, sessions: Mapping[int, list[int]]) -> tuple[Process, ...]:
    """Return the processes of a session that live; reaps the leader when it is our own zombie."""
    pids = sessions.get(session.pid, []) if session.pid else []
    if not pids or session.boot != boot_id():
        return ()
    stats = {pid: stat for pid in pids if (stat := _stat(pid)) is not None}
    leader = stats.get(session.pid)
    if leader is not None and leader[1] != session.started:
        # The kernel gives a pid away only when no session bears it any more: these are somebody else's.
        return ()
    if leader is None and not any(_bears(pid, session.marker) for pid in stats):
        return ()
    found = tuple(Process(pid=pid, started=started) for pid, (state, started) in stats.items() if state not in "ZX")
    if not found and leader is not None:  # kept while others live, whom it vouches for
        with suppress(ChildProcessError):
            os.waitpid(session.pid, os.WNOHANG)
    return found


def bearers(markers: Iterable[str]) -> dict[str, tuple[Process, ...]]:
    """Return the living processes that bear each marker, wherever they went."""
    wanted = {marker.encode(): marker for marker in markers}
    found: dict[str, list[Process]] = {marker: [] for marker in wanted.values()}
    for entry in os.listdir(PROC):
        if not entry.isdigit():
            continue
        for mark in wanted.keys() & set(_environment(int(entry))):
            stat = _stat(int(entry))
            if stat is not None and stat[0] not in "ZX":
                found[wanted[mark]].append(Process(pid=int(entry), started=stat[1]))
    return {marker: tuple(processes) for marker, processes in found.items()}


def everything_of(sessions: Iterable[Session]) -> dict[str, set[Process]]:
    """Return all living processes of these sessions, escaped ones too, by marker."""
    sessions = list(sessions)
    table = survey()
    found = {marker: set(processes) for marker, processes in bearers(s.marker for s in sessions).items()}
    for session in sessions:
        found[session.marker] |= set(living(session, table))
    return found


def kill(sessions: Iterable[Session], *, budget_s: float) -> set[str]:
    """Kill every process of these sessions; return the markers of those that still have one when the budget is over.

    A killed process may have forked an instant before, so it looks again until there is nothing left.
    """
    sessions = list(sessions)
    end = time.monotonic() + budget_s
    while True:
        left = {marker: processes for marker, processes in everything_of(sessions).items() if processes}
        if not left:
            return set()
        _kill_and_wait(set[Process]().union(*left.values()), end)
        if time.monotonic() >= end:
            return {marker for marker, processes in everything_of(sessions).items() if processes}


def started(pid: int) -> int:
    """Return when a process began, in ticks since the boot; 0 when it is gone."""
    stat = _stat(pid)
    return 0 if stat is None else stat[1]


def _kill_and_wait(processes: Iterable[Process], end: float) -> None:
    poll = select.poll()
    handles: set[int] = set()
    try:
        for process in processes:
            with suppress(ProcessLookupError, PermissionError):
                handle = os.pidfd_open(process.pid)
                handles.add(handle)
                poll.register(handle, select.POLLIN)
                if started(process.pid) == process.started:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
        waiting = set(handles)
        while waiting and (remaining := end - time.monotonic()) > 0:
            for handle, _ in poll.poll(remaining * 1000):
                poll.unregister(handle)
                waiting.discard(handle)
    finally:
        for handle in handles:
            os.close(handle)


def _stat(pid: int) -> tuple[str, int] | None:
    """Return the state letter of a process and when it began; None when it is gone."""
    try:
        fields = _fields(pid)
    except GONE:
        return None
    return fields[0].decode(), int(fields[19])


def _bears(pid: int, marker: str) -> bool:
    return marker.encode() in _environment(pid)


def _environment(pid: int) -> list[bytes]:
    """Return the environment that a process was started with; nothing for those that are gone or another user's."""
    end = time.monotonic() + EXEC_S
    looks = 0
    while True:
        try:
            body = (PROC / str(pid) / "environ").read_bytes()
            # Between two reads it may have come out of one exec, or gone into the next: one look is not enough.
            looks += not body and not _in_exec(pid)
        except (*GONE, PermissionError):
            return []
        if body or looks == LOOKS or time.monotonic() >= end:
            return body.split(b"\0")


def _in_exec(pid: int) -> bool:
    """Tell whether a process is just becoming another program: it has no arguments, and is no thread of the kernel's."""
    if (PROC / str(pid) / "cmdline").read_bytes():
        return False
    fields = _fields(pid)
    return fields[0] not in (b"Z", b"X") and not int(fields[6]) & (KERNEL_THREAD | EXITING)


def _fields(pid: int) -> list[bytes]:
    # The name may hold anything, so the fields are counted from behind its last bracket (proc(5): 3 state, 9 flags,
    # 22 starttime).
    line = (PROC / str(pid) / "stat").read_bytes()
    return line[line.rindex(b")") + 2 :].split()
