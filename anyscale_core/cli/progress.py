"""What people see while they wait, and what scripts read: events as they come, nodes ready, seconds passed."""

import time
from typing import Any, Protocol

from anyscale_core.api.protocol import ClusterView, EventView
from anyscale_core.cli.output import Format, Output
from anyscale_core.models import wire
from anyscale_core.models.phases import CLUSTER_ENDED, NODE_ENDED, ClusterPhase, NodePhase


class Progress(Protocol):
    """Where a waiting verb tells how it goes."""

    def event(self, event: EventView) -> None:
        """Show something that happened."""
        ...

    def cluster(self, view: ClusterView) -> None:
        """Show how far the cluster is."""
        ...

    def note(self, text: str) -> None:
        """Say something to people."""
        ...

    def log(self, data: bytes, *, attempt: int) -> None:
        """Show a piece of the job's output."""
        ...

    def pause(self) -> None:
        """Leave the screen to the job's output until ``cluster`` is called after ``resume``."""
        ...

    def resume(self) -> None:
        """Show progress again."""
        ...

    def close(self) -> None:
        """Stop showing."""
        ...


def progress_for(output: Output) -> Progress:
    """Return what suits the reader: JSON lines, a live line on a terminal, plain lines elsewhere."""
    if output.format is Format.JSON:
        return JsonProgress(output)
    if output.stderr.isatty():
        return LiveProgress(output)
    return LineProgress(output)


def summary(view: ClusterView) -> str:
    """Return one line about a cluster: its phase, nodes ready of those there are or have to be."""
    if view.phase in CLUSTER_ENDED:
        return view.phase.value
    present = [node for node in view.nodes if node.phase not in NODE_ENDED]
    if view.phase is ClusterPhase.TERMINATING:
        return f"{view.phase.value}  {len(present)} {'node' if len(present) == 1 else 'nodes'} left"
    ready = sum(node.phase is NodePhase.READY for node in present)
    wanted = 1 + sum(group.min_nodes for group in view.spec.worker_nodes)
    return f"{view.phase.value}  nodes ready {ready}/{max(wanted, len(present))}"


def first_line(text: str) -> str:
    """Return the first line of a text."""
    return text.partition("\n")[0].strip()


class LineProgress:
    """Plain lines on stderr; a line for each change."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self._began = time.monotonic()
        self._last = ""

    def event(self, event: EventView) -> None:
        level = "" if event.level == "INFO" else f"{event.level}: "
        # Ray ends the message of a failed job with the end of its log, which was printed already.
        self.note(f"{level}{first_line(event.message)}")

    def cluster(self, view: ClusterView) -> None:
        line = summary(view)
        if line != self._last:
            self._last = line
            self.note(line)

    def note(self, text: str) -> None:
        self.output.note(f"[{self.elapsed:6.1f} s] {text}")

    def log(self, data: bytes, *, attempt: int) -> None:
        self.output.log(data, attempt=attempt)

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def elapsed(self) -> float:
        """Seconds since the verb began."""
        return time.monotonic() - self._began


class QuietProgress(LineProgress):
    """The job's output alone."""

    def event(self, event: EventView) -> None:
        pass

    def cluster(self, view: ClusterView) -> None:
        pass


class LiveProgress(LineProgress):
    """Events scroll by above one live line."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        from rich.console import Console
        from rich.text import Text

        self._text = Text
        self._console = Console(file=output.stderr, highlight=False)
        self._status: Any = None
        self._paused = False

    def cluster(self, view: ClusterView) -> None:
        if self._paused:
            return
        text = f"{view.name}  {summary(view)}  {self.elapsed:.0f} s"
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(text)

    def note(self, text: str) -> None:
        self._console.print(self._text.assemble((f"{self.elapsed:7.1f} s ", "dim"), text), soft_wrap=True)

    def log(self, data: bytes, *, attempt: int) -> None:
        self.pause()
        super().log(data, attempt=attempt)

    def pause(self) -> None:
        self._paused = True
        self.close()

    def resume(self) -> None:
        self._paused = False

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


class JsonProgress(LineProgress):
    """JSON lines on stdout: ``{"type": "event", "event": ...}``; people's words stay on stderr."""

    def event(self, event: EventView) -> None:
        self.output.line({"type": "event", "event": wire.unstructure(event)})
