"""A job's output: live through its cluster's gateway, and what was missed from the bucket; nothing twice, nothing lost.

Ray's Jobs API gives a log as one JSON string from its start, with its line ends changed, and its websocket looks once a
second. The dashboard's log stream (``ray logs`` uses it) gives the file's bytes as they come, which can be counted.
"""

import contextlib
import enum
import http.client
import socket
import ssl
import threading
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

from anyscale_core.api.protocol import AccessView
from anyscale_core.errors import CoreError

LOOK = 0.1
"""Seconds between two looks of Ray at the log file."""
AGAIN = 0.2
"""Seconds until the stream is opened again when it ended: the job has not begun, or the head is away."""
STORED_AT_MOST = 64 << 20
"""Bytes of a log that a node stores (``node.store.TAIL``): of a longer one its end."""
KEPT = 64 << 10
"""Bytes of what was printed last that are kept, to find the place in the end of a longer log."""
CHUNK = 1 << 16


class GatewayError(CoreError):
    """A cluster's gateway did not give what was asked for."""


class Whole(enum.Enum):
    """Whether a log was printed from its first byte to its last."""

    YES = "yes"
    UNKNOWN = "unknown"
    """It is longer than what is stored of it, and what was printed before does not reach the part that is."""


class Tail:
    """What has been printed of one attempt's log, and where the rest begins. Threads may share it."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._last = b""
        self.printed = 0
        """Bytes of the log, from its start, that have been printed."""

    def feed(self, offset: int, data: bytes) -> None:
        """Print what is new of ``data``, which begins at byte ``offset`` of the log."""
        with self._lock:
            new = data[max(0, self.printed - offset) :]
            if new:
                self._write(new)
                self.printed += len(new)
                self._last = (self._last + new)[-KEPT:]

    def finish(self, stored: int, read: Callable[[int], bytes]) -> Whole:
        """Print what is missing, from the stored log of ``stored`` bytes; ``read(start)`` gives it from a byte on."""
        if stored < STORED_AT_MOST:
            if stored > self.printed:
                self.feed(self.printed, read(self.printed))
            return Whole.YES
        data = read(0)
        # The last place where it fits: the stream is a moment behind the log's end, not megabytes.
        place = data.rfind(self._last) if self._last else -1
        self.feed(self.printed, data if place < 0 else data[place + len(self._last) :])
        return Whole.YES if place >= 0 else Whole.UNKNOWN


class Stream(threading.Thread):
    """Prints one attempt's log while it grows, until it is told to stop. ``access`` gives a fresh way in, or raises CoreError."""

    def __init__(self, access: Callable[[], AccessView], submission_id: str, tail: Tail) -> None:
        super().__init__(name=f"log-{submission_id}", daemon=True)
        self._access, self._submission_id, self._tail = access, submission_id, tail
        self._stop_asked = threading.Event()
        self._socket: socket.socket | None = None
        self.error: BaseException | None = None
        """Why what came could not be printed: the reader of our stdout has gone."""

    def run(self) -> None:
        """Stream, and begin again wherever it breaks off; what was printed is skipped."""
        way: AccessView | None = None
        while not self._stop_asked.is_set():
            try:
                way = way or self._access()
                status = self._once(way)
                if status in (401, 403):
                    way = None
            except BrokenPipeError as error:
                self.error = error
                return
            except (CoreError, OSError, http.client.HTTPException, ValueError):
                way = None  # the head may have moved; ask for the way again
            self._stop_asked.wait(AGAIN)

    def stop(self) -> None:
        """Stop at once; return when nothing more will be printed."""
        self._stop_asked.set()
        while self.is_alive():
            taken = self._socket
            if taken is not None:
                with contextlib.suppress(OSError):
                    # Of the plain socket: an SSLSocket would forget its TLS state under the reader's feet.
                    socket.socket.shutdown(taken, socket.SHUT_RDWR)
            self.join(0.05)

    def _once(self, way: AccessView) -> int:
        """Print what one request gives, until it ends; return its status."""
        connection = open_gateway(way)
        try:
            connection.connect()
            self._socket = connection.sock
            # Jobs are quiet for hours: no timeout, but a head that went without a word is noticed.
            _keep_alive(connection.sock)
            return _read(connection, way, self._submission_id, Media.STREAM, self._feed)
        finally:
            self._socket = None
            connection.close()

    def _feed(self, offset: int, data: bytes) -> None:
        if not self._stop_asked.is_set():
            self._tail.feed(offset, data)


class Media(enum.Enum):
    """The two forms of a log that Ray's dashboard gives."""

    FILE = "file"
    """What there is of it."""
    STREAM = "stream"
    """And then what is added to it, without end. Its answer begins with the log's first byte."""


def print_so_far(way: AccessView, submission_id: str, tail: Tail) -> None:
    """Print what there is of a running attempt's log. Raises GatewayError."""
    connection = open_gateway(way)
    try:
        status = _read(connection, way, submission_id, Media.FILE, tail.feed)
    except (OSError, http.client.HTTPException) as error:
        raise GatewayError(f"{way.url} cannot be reached: {error}; the head may be starting") from error
    finally:
        connection.close()
    if status != 200:
        raise GatewayError(f"{way.url} has no log of {submission_id} (status {status}); the job may not have begun")


def _read(
    connection: http.client.HTTPSConnection, way: AccessView, submission_id: str, media: Media,
    feed: Callable[[int, bytes], None],
) -> int:  # fmt: skip
    # Ray 2.60 demands a node's id (state_head.py, GetLogOptions) and then finds the node by the submission all the same.
    options = {"submission_id": submission_id, "lines": "-1", "node_id": "of-the-submission"}
    if media is Media.STREAM:
        options["interval"] = str(LOOK)
    headers = {"Authorization": f"Bearer {way.token.reveal()}", "Accept-Encoding": "identity"}
    connection.request("GET", f"/api/v0/logs/{media.value}?{urlencode(options)}", headers=headers)
    answer = connection.getresponse()
    if answer.status != 200:
        return answer.status
    offset = 0
    while data := answer.read1(CHUNK):
        feed(offset, data)
        offset += len(data)
    return 200


class _Gateway(http.client.HTTPSConnection):
    """A connection whose certificate is checked against a name that is not the address."""

    def __init__(self, host: str, port: int, *, context: ssl.SSLContext, server_name: str, timeout: float) -> None:
        super().__init__(host, port, context=context, timeout=timeout)
        self._tls, self._server_name = context, server_name

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self._server_name)
        except BaseException:
            plain.close()
            raise


def open_gateway(way: AccessView, *, timeout: float = 10.0) -> http.client.HTTPSConnection:
    """Return a connection to a cluster's gateway: TLS, trusting ``ca_pem`` alone, against the name ``server_name``."""
    parts = urlsplit(way.url)
    if parts.scheme != "https" or parts.hostname is None:
        raise ValueError(f"a gateway's url must be https://host:port, not {way.url!r}")
    context = ssl.create_default_context(cadata=way.ca_pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return _Gateway(
        parts.hostname, parts.port or 443, context=context, server_name=way.server_name, timeout=timeout
    )  # fmt: skip


def _keep_alive(sock: socket.socket) -> None:
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
