"""A network namespace with nothing in it but its own loopback: whoever runs there reaches only what is let through by name.

What is let through is a port of this machine, by a Unix socket: those are files, and know no namespaces. The kernel refuses the
rest, in both directions. ``python -m tests.operator.apart FOLDER PORT... -- COMMAND...`` is the inner half.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

UNSHARE = ("unshare", "--map-root-user", "--net")
LOOPBACK_UP = struct.pack("16sH14s", b"lo", 0x1 | 0x40, b"")
SIOCSIFFLAGS = 0x8914
"""netdevice(7)."""


@cache
def is_possible() -> bool:
    """Tell whether this user of this machine may make a network namespace."""
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def only(folder: Path, ports: Sequence[int]) -> Iterator[list[str]]:
    """Give the words before a command that let it reach these ports of 127.0.0.1 and nothing else."""
    loop = asyncio.new_event_loop()
    servers = [loop.run_until_complete(_relayed(folder / str(port), port)) for port in ports]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield [*UNSHARE, sys.executable, "-m", "tests.operator.apart", str(folder), *map(str, ports), "--"]
    finally:
        for server in servers:
            loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


async def _relayed(path: Path, port: int) -> asyncio.Server:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await _joined(reader, writer, *await asyncio.open_connection("127.0.0.1", port))

    return await asyncio.start_unix_server(accept, path)


async def _entered(path: Path, port: int) -> asyncio.Server:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await _joined(reader, writer, *await asyncio.open_unix_connection(path))

    return await asyncio.start_server(accept, "127.0.0.1", port)


async def _joined(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, there: asyncio.StreamReader, back: asyncio.StreamWriter
) -> None:
    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(2**16):
                sink.write(data)
                await sink.drain()
        sink.close()

    await asyncio.gather(pump(reader, back), pump(there, writer))


def main(words: Sequence[str]) -> None:
    """Bring the loopback up, let the ports through from a process beside, and become the command."""
    folder, at = Path(words[0]), words.index("--")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, LOOPBACK_UP)
    ready, told = os.pipe()
    parent = os.getpid()
    if os.fork() == 0:
        asyncio.run(_let_through(folder, [int(word) for word in words[1:at]], told, parent))
        os._exit(0)
    os.close(told)
    os.read(ready, 1)
    os.execvp(words[at + 1], list(words[at + 1 :]))


async def _let_through(folder: Path, ports: Sequence[int], told: int, parent: int) -> None:
    servers = [await _entered(folder / str(port), port) for port in ports]
    os.close(told)
    while os.getppid() == parent:
        await asyncio.sleep(0.5)
    for server in servers:
        server.close()


if __name__ == "__main__":
    main(sys.argv[1:])
