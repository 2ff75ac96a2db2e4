"""What must hold after every step and after quiet, read from the cloud's inventory and the store's own history of phases.

The judge asks no code that it judges: it reads tables with plain SQL, and triggers write every change of a phase down.
"""

import enum
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from anyscale_core.controlplane.grants import PACKAGES
from anyscale_core.models.phases import (
    CLUSTER_MOVES,
    JOB_ENDED,
    JOB_MOVES,
    NODE_MOVES,
    ClusterPhase,
    JobPhase,
    NodePhase,
)
from anyscale_core.planning.candidates import PRESENT
from anyscale_core.planning.shapes import HEAD_GROUP
from anyscale_core.testing import FakeAgents, FakeCloud


class Rule(enum.Enum):
    """What a history can break."""

    MAX_NODES = "at most max_nodes per group"
    OWNED = "no instance without a record that still counts on it"
    ONCE = "no node is made twice"
    PHASES = "only legal moves between phases"
    JOBS = "no job runs again that was reported done"
    TOKENS = "no token stands for two things"
    CRASH = "no turn fails in a way that nobody foresaw"
    CONVERGED = "after quiet every wish is met or its reason said"
    LEAKED = "after quiet nothing is left over, after the end nothing at all"


class Broken(AssertionError):
    """A rule was broken. ``step``: how many steps of the history had been played."""

    def __init__(self, rule: Rule, message: str, *, step: int = 0) -> None:
        super().__init__(f"{rule.name} ({rule.value}): {message}")
        self.rule, self.message, self.step = rule, message, step


MOVES = {
    "node": {phase.value: {to.value for to in after} for phase, after in NODE_MOVES.items()},
    "cluster": {phase.value: {to.value for to in after} for phase, after in CLUSTER_MOVES.items()},
    "job": {phase.value: {to.value for to in after} for phase, after in JOB_MOVES.items()},
}
FIRST = {"node": NodePhase.RECORDED.value, "cluster": ClusterPhase.STARTING.value, "job": JobPhase.WAITING.value}
DONE = {phase.value for phase in JOB_ENDED}
COUNTED = {phase.value for phase in PRESENT}
GIVEN_UP = ("", "")
"""Where instances of LOST and DELETING nodes count: in no group, for their replacements may be on their way."""
ENDED = {NodePhase.GONE.value, NodePhase.FAILED.value}

TRIGGERS = """
CREATE TABLE moves (id INTEGER PRIMARY KEY, kind TEXT, key TEXT, cluster TEXT, name TEXT, grp TEXT, old TEXT, new TEXT);
CREATE TRIGGER node_made AFTER INSERT ON nodes BEGIN
  INSERT INTO moves (kind, key, cluster, name, grp, new)
  VALUES ('node', NEW.id, NEW.cluster_id, NEW.name, json_extract(NEW.doc, '$.group'), NEW.phase); END;
CREATE TRIGGER node_moved AFTER UPDATE OF phase ON nodes WHEN NEW.phase <> OLD.phase BEGIN
  INSERT INTO moves (kind, key, cluster, name, grp, old, new)
  VALUES ('node', NEW.id, NEW.cluster_id, NEW.name, json_extract(NEW.doc, '$.group'), OLD.phase, NEW.phase); END;
CREATE TRIGGER cluster_made AFTER INSERT ON clusters BEGIN
  INSERT INTO moves (kind, key, cluster, name, new) VALUES ('cluster', NEW.id, NEW.id, NEW.name, NEW.phase); END;
CREATE TRIGGER cluster_moved AFTER UPDATE OF phase ON clusters WHEN NEW.phase <> OLD.phase BEGIN
  INSERT INTO moves (kind, key, cluster, name, old, new)
  VALUES ('cluster', NEW.id, NEW.id, NEW.name, OLD.phase, NEW.phase); END;
CREATE TRIGGER job_made AFTER INSERT ON jobs BEGIN
  INSERT INTO moves (kind, key, cluster, name, new)
  VALUES ('job', NEW.id, NEW.cluster_id, NEW.id, json_extract(NEW.doc, '$.phase')); END;
CREATE TRIGGER job_moved AFTER UPDATE OF doc ON jobs
WHEN json_extract(NEW.doc, '$.phase') <> json_extract(OLD.doc, '$.phase') BEGIN
  INSERT INTO moves (kind, key, cluster, name, old, new)
  VALUES ('job', NEW.id, NEW.cluster_id, NEW.id, json_extract(OLD.doc, '$.phase'), json_extract(NEW.doc, '$.phase')); END;
"""


class Judge:
    """Looks at one world. Everything it knows it has read from the store's file and from the clouds."""

    def __init__(self, database: Path, clouds: Mapping[str, FakeCloud], agents: Mapping[str, FakeAgents]) -> None:
        self._db = sqlite3.connect(database, isolation_level=None)
        self._clouds, self._agents = clouds, agents
        self._version, self._last_move = -1, 0
        self.nodes: dict[str, tuple[str, str, str]] = {}
        """Name -> cluster, group, phase, of the nodes that have not ended."""
        self.ended: set[str] = set()
        self.done: dict[str, str] = {}
        """Jobs that were reported done, with the phase."""
        self.moves: Counter[str] = Counter()
        self._submitted: set[tuple[str, str]] = set()
        self._tokens: dict[str, tuple[object, ...]] = {}
        self._heard: Counter[str] = Counter()
        self._made: set[str] = set()
        self._names: set[str] = set()
        self._counted: Counter[tuple[str, str]] = Counter()
        self._maxima: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)

    def close(self) -> None:
        self._db.close()

    def look(self, *, step: int, since: int) -> None:
        """Check everything that holds at any time. ``since``: the step at which the oldest turn under way began.

        Raises Broken.
        """
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self._read_moves()
            self._read_maxima(step)
        self._check_nodes(since)
        self._check_tokens()
        self._check_jobs()
        # Quotas and budgets: one more check here, from the inventory, when there are any.

    # -- what the store says -------------------------------------------------------------------------------------------

    def _read_moves(self) -> None:
        query = "SELECT id, kind, key, cluster, name, grp, old, new FROM moves WHERE id > ? ORDER BY id"
        for id, kind, key, cluster, name, group, old, new in self._db.execute(query, (self._last_move,)).fetchall():
            self._last_move = id
            self.moves[f"{kind} {new}"] += 1
            if (old is None and new != FIRST[kind]) or (old is not None and new not in MOVES[kind][old]):
                raise Broken(Rule.PHASES, f"{kind} {name}: {old} -> {new}")
            if kind == "node":
                self._node(name, cluster, group, new)
            elif kind == "job" and new in DONE:
                self.done[key] = new

    def _node(self, name: str, cluster: str, group: str, phase: str) -> None:
        if phase in ENDED:
            self.nodes.pop(name, None)
            self.ended.add(name)
        else:
            self.nodes[name] = (cluster, group, phase)

    def _read_maxima(self, step: int) -> None:
        for id, spec in self._db.execute("SELECT id, spec FROM clusters WHERE ended_at IS NULL").fetchall():
            now = {group["name"]: group["max_nodes"] for group in json.loads(spec)["worker_nodes"]} | {HEAD_GROUP: 1}
            for group in now.keys() | {group for cluster, group in self._maxima if cluster == id}:
                known = self._maxima[id, group]
                if not known or known[-1][1] != now.get(group, 0):
                    known.append((step, now.get(group, 0)))

    def _limit(self, key: tuple[str, str], since: int) -> int:
        """Return the largest ``max_nodes`` that a turn under way may have read: those replaced before it began count no more."""
        known = self._maxima[key]
        replaced = [step for step, _ in known[1:]] + [since]
        return max((most for (_, most), until in zip(known, replaced, strict=False) if until >= since), default=0)

    # -- rules ---------------------------------------------------------------------------------------------------------

    def _check_nodes(self, since: int) -> None:
        """At most ``max_nodes``: nodes count from RECORDED until they are given up (LOST, DELETING), as planning counts them.

        A maximum that is lowered is no reason to kill at once: what was there may stay until it is drained, and may not grow.
        A turn that began before it was lowered may still carry out the wish that it has read.
        """
        counted = Counter((cluster, group) for cluster, group, phase in self.nodes.values() if phase in COUNTED)
        there: Counter[tuple[str, str]] = Counter()
        for name, cloud in self._clouds.items():
            for machine in cloud.machines.values():
                there[self._check_machine(f"{name}/{machine.id}", machine.spec.name)] += 1
        for cluster, group in (counted.keys() | there.keys()) - {GIVEN_UP}:
            key = (cluster, group)
            limit = max(self._limit(key, since), self._counted[key])
            if max(counted[key], there[key]) > limit:
                what = f"{there[key]} in the cloud, {counted[key]} recorded, at most {limit}"
                raise Broken(Rule.MAX_NODES, f"{cluster} {group}: {what}")
        self._counted = counted

    def _check_machine(self, id: str, name: str) -> tuple[str, str]:
        """Return the cluster and group that an instance counts in, or GIVEN_UP."""
        if id not in self._made:
            self._made.add(id)
            if name in self._names:
                raise Broken(Rule.ONCE, f"{name} was made a second time as {id}")
            self._names.add(name)
        node = self.nodes.get(name)
        if node is None:
            why = "its record says that nothing of it exists" if name in self.ended else "it has no record"
            raise Broken(Rule.OWNED, f"{name} ({id}): {why}")
        cluster, group, phase = node
        return (cluster, group) if phase in COUNTED else GIVEN_UP

    def _check_tokens(self) -> None:
        for name, cloud in self._clouds.items():
            for call in cloud.calls[self._heard[name] :]:
                if call.token is None:
                    continue
                what = (name, call.action, call.names, call.owner)
                if self._tokens.setdefault(call.token, what) != what:
                    raise Broken(Rule.TOKENS, f"{call.token}: {self._tokens[call.token]} and {what}")
            self._heard[name] = len(cloud.calls)

    def _check_jobs(self) -> None:
        for agents in self._agents.values():
            for ray in agents.rays.values():
                for submission in () if ray.ended else ray.jobs:
                    if (ray.epoch, submission) in self._submitted:
                        continue
                    self._submitted.add((ray.epoch, submission))
                    job = submission.rpartition("-")[0]
                    if job in self.done:
                        raise Broken(Rule.JOBS, f"{submission} was started on {ray.epoch}; {job} was {self.done[job]}")

    # -- after quiet ---------------------------------------------------------------------------------------------------

    def unmet(self) -> list[str]:
        """Return what is not yet as it is wanted, and of what ended against its wish what gives no reason."""
        query = "SELECT id, name, phase, generation, goal, spec, status FROM clusters WHERE ended_at IS NULL"
        out: list[str] = []
        for id, name, phase, generation, goal, spec, status in self._db.execute(query).fetchall():
            facts = json.loads(status)
            if goal != "run":
                out.append(f"{name} is {phase} and is to end")
                continue
            if phase != "RUNNING" or facts["observed_generation"] != generation:
                why = f": {facts['reason']}" if facts["reason"] else " and no reason is given"
                out.append(f"{name} is {phase}, generation {facts['observed_generation']} of {generation}{why}")
            wanted = Counter(
                {HEAD_GROUP: 1} | {group["name"]: group["min_nodes"] for group in json.loads(spec)["worker_nodes"]}
            )
            have = Counter((group, phase) for cluster, group, phase in self.nodes.values() if cluster == id)
            if +Counter({(group, "READY"): count for group, count in wanted.items()}) != have:
                out.append(f"{name} wants {dict(wanted)} and has {dict(have)}")
        unsaid = "SELECT name FROM clusters WHERE phase = 'FAILED' AND end_reason = ''"
        out += [f"{name} failed and no reason is given" for (name,) in self._db.execute(unsaid).fetchall()]
        open_jobs = "SELECT id, json_extract(doc, '$.phase') FROM jobs"
        out += [f"job {id} is {phase}" for id, phase in self._db.execute(open_jobs).fetchall() if phase not in DONE]
        return out

    def left(self, kinds: Iterable[str]) -> list[str]:
        """Return what the clouds have of these kinds and no live node or cluster of the store accounts for.

        The grant to what users upload is the cloud's, not a cluster's.
        """
        known = set(self.nodes) | {
            id.replace("_", "-")
            for (id,) in self._db.execute("SELECT id FROM clusters WHERE ended_at IS NULL").fetchall()
        }
        return [
            f"{item.kind} {item.name} in {name}"
            for name, cloud in self._clouds.items()
            for item in cloud.inventory()
            if item.kind in kinds and item.name not in known and not item.name.endswith(f"/{PACKAGES}")
        ]
