"""What one watch has to tell: changes as its selector sees them, bookmarks, and the end."""

from datetime import timedelta

from anyscale_conformance.simulators.kubernetes.calls import Watch, encode
from anyscale_conformance.simulators.kubernetes.problems import Problem
from anyscale_conformance.simulators.kubernetes.store import Change, Entry
from anyscale_conformance.simulators.kubernetes.world import World

BOOKMARK_EVERY = timedelta(minutes=1)


class Stream:
    """One watch. ``read`` gives what there is to say since the last time; ``is_over`` says that nothing will follow."""

    def __init__(self, world: World, watch: Watch) -> None:
        self._world, self._watch = world, watch
        self._revision = watch.revision
        self._has_begun = False
        self._bookmark_at = world.clock.now() + BOOKMARK_EVERY
        self.is_over = False

    def read(self) -> bytes:
        """Return the lines to send now."""
        lines = [] if self._has_begun else self._begin()
        self._has_begun = True
        try:
            changes = self._world.store.changes(self._watch.kind, self._revision)
        except Problem as problem:
            self.is_over = True
            return b"".join([*lines, _line("ERROR", encode(problem.body()))])
        self._revision = max(self._revision, self._world.store.revision)
        lines += [line for change in changes if (line := self._told(change))]
        now = self._world.clock.now()
        self.is_over = self._watch.until is not None and now >= self._watch.until
        if self._watch.bookmarks and (now >= self._bookmark_at or self.is_over):
            self._bookmark_at = now + BOOKMARK_EVERY
            lines.append(self._bookmark({}))
        return b"".join(lines)

    def _begin(self) -> list[bytes]:
        lines = [_line("ADDED", self._watch.render(entry)) for entry in self._watch.initial]
        if self._watch.ends_initial and self._watch.bookmarks:
            lines.append(self._bookmark({"annotations": {"k8s.io/initial-events-end": "true"}}))
        return lines

    def _told(self, change: Change) -> bytes:
        namespace = self._watch.namespace
        if namespace and change.last.namespace != namespace:
            return b""
        was = change.before is not None and self._watch.selects(change.before)
        now = change.after is not None and self._watch.selects(change.after)
        if now and change.after is not None:
            return _line("MODIFIED" if was else "ADDED", self._watch.render(change.after))
        if not was:
            return b""
        return _line("DELETED", self._watch.render(_at_end(change)))

    def _bookmark(self, meta: dict[str, object]) -> bytes:
        kind = self._watch.kind
        shown = {
            "kind": kind.kind,
            "apiVersion": kind.api_version,
            "metadata": {"resourceVersion": str(self._revision)} | meta,
        }
        return _line("BOOKMARK", encode(shown))


def _at_end(change: Change) -> Entry:
    """Return an object as a watch sees it last: as it went, or as it was before it left the selection, at the new revision."""
    if change.after is None or change.before is None:
        return change.last
    meta = change.before.meta | {"resourceVersion": str(change.revision)}
    before = change.before
    return Entry(
        kind=before.kind,
        namespace=before.namespace,
        name=before.name,
        revision=change.revision,
        obj=before.obj | {"metadata": meta},
    )


def _line(type: str, encoded: bytes) -> bytes:
    return b'{"type":"' + type.encode() + b'","object":' + encoded + b"}\n"
