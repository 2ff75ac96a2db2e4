"""Job logs: live from a real TLS server, the rest from what is stored; nothing twice, nothing lost."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from anyscale_core.cli import joblog
from anyscale_core.cli.joblog import GatewayError, Stream, Tail, Whole, print_so_far
from anyscale_core.controlplane.keys import KeyRing
from tests.cli.world import Gateway, eventually

LOG = b"".join(b"line %d \xff\r\n" % number for number in range(400))


class Paper:
    """What was printed."""

    def __init__(self) -> None:
        self.data = b""
        self.tail = Tail(self._print)

    def _print(self, data: bytes) -> None:
        self.data += data

    def has(self, data: bytes) -> bool:
        return self.data == data


@pytest.fixture
def paper() -> Paper:
    return Paper()


@pytest.fixture
def stream(gateway: Gateway, paper: Paper) -> Iterator[Stream]:
    stream = Stream(gateway.access, "job-1", paper.tail)
    yield stream
    stream.stop()


def test_output_is_printed_as_it_comes(gateway: Gateway, paper: Paper, stream: Stream) -> None:
    gateway.write("job-1", b"one\n")
    stream.start()
    eventually(lambda: paper.has(b"one\n"), "the first line")
    gateway.write("job-1", b"two")
    eventually(lambda: paper.has(b"one\ntwo"), "half a line")


def test_a_job_that_has_not_begun_is_asked_for_again(gateway: Gateway, paper: Paper, stream: Stream) -> None:
    stream.start()
    eventually(lambda: len(gateway.requests) >= 2, "a second request")
    gateway.write("job-1", b"at last\n")
    eventually(lambda: paper.has(b"at last\n"), "the line")


def test_a_stream_that_breaks_off_is_continued_where_it_ended(gateway: Gateway, paper: Paper, stream: Stream) -> None:
    gateway.write("job-1", LOG)
    gateway.break_after = 1501
    stream.start()
    eventually(lambda: paper.has(LOG), "the whole log")
    assert len(gateway.requests) == 2


def test_a_way_in_that_is_not_accepted_any_more_is_asked_for_again(gateway: Gateway, paper: Paper) -> None:
    gateway.write("job-1", b"hello\n")
    gateway.token = "fresh"
    tokens = iter(["stale", "fresh"])
    stream = Stream(lambda: gateway.access(next(tokens)), "job-1", paper.tail)
    stream.start()
    eventually(lambda: paper.has(b"hello\n"), "the line")
    stream.stop()


def test_a_gateway_of_another_authority_is_not_believed(gateway: Gateway, paper: Paper, tmp_path: Path) -> None:
    foreign = KeyRing(tmp_path / "foreign", now=datetime.now(UTC))
    with pytest.raises(GatewayError, match="certificate verify failed"):
        print_so_far(attrs.evolve(gateway.access(), ca_pem=foreign.ca_pem), "job-1", paper.tail)
    assert gateway.requests == []


def test_stopping_does_not_wait_for_output(gateway: Gateway, paper: Paper, stream: Stream) -> None:
    gateway.write("job-1", b"x")
    stream.start()
    eventually(lambda: paper.has(b"x"), "the first byte")
    stream.stop()
    assert not stream.is_alive()
    gateway.write("job-1", b"too late")
    assert paper.data == b"x"


def test_what_the_stream_missed_comes_from_the_store(gateway: Gateway, paper: Paper, stream: Stream) -> None:
    gateway.write("job-1", LOG[:2000])
    stream.start()
    eventually(lambda: paper.has(LOG[:2000]), "the first part")
    stream.stop()
    assert paper.tail.finish(len(LOG), lambda start: LOG[start:]) is Whole.YES
    assert paper.data == LOG


def test_a_stored_log_is_not_read_when_all_of_it_was_printed(paper: Paper) -> None:
    paper.tail.feed(0, LOG)

    def read(start: int) -> bytes:
        raise AssertionError("was read")

    assert paper.tail.finish(len(LOG), read) is Whole.YES
    assert paper.data == LOG


def test_a_log_that_nobody_streamed_is_printed_whole(paper: Paper) -> None:
    assert paper.tail.finish(len(LOG), lambda start: LOG[start:]) is Whole.YES
    assert paper.data == LOG


def test_of_a_log_longer_than_what_is_stored_the_rest_is_found_by_its_text(
    paper: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joblog, "STORED_AT_MOST", 1000)
    monkeypatch.setattr(joblog, "KEPT", 100)
    paper.tail.feed(0, LOG[:-300])
    assert paper.tail.finish(1000, lambda start: LOG[-1000:][start:]) is Whole.YES
    assert paper.data == LOG


def test_a_gap_before_what_is_stored_is_not_hidden(paper: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblog, "STORED_AT_MOST", 1000)
    paper.tail.feed(0, LOG[:2000])
    assert paper.tail.finish(1000, lambda start: LOG[-1000:][start:]) is Whole.UNKNOWN
    assert paper.data == LOG[:2000] + LOG[-1000:]


def test_a_running_jobs_log_is_printed_once_and_left(gateway: Gateway, paper: Paper) -> None:
    gateway.write("job-1", LOG)
    print_so_far(gateway.access(), "job-1", paper.tail)
    assert paper.data == LOG


def test_a_log_that_is_not_there_is_said_so(gateway: Gateway, paper: Paper) -> None:
    with pytest.raises(GatewayError, match="has no log of job-9"):
        print_so_far(gateway.access(), "job-9", paper.tail)
