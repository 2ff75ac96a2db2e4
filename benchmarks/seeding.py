"""Many clusters at once: one is brought up by the engine, the others are its rows and its machines under other names."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import attrs
from sqlalchemy import JSON, Table, insert, select

from anyscale_core.controlplane import schema as t
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.models.ids import ClusterId, InstanceId, NodeId
from anyscale_core.models.phases import ClusterPhase
from anyscale_core.models.records import ClusterRecord
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeAgents, FakeCloud, FakeProvider, ManualClock
from anyscale_core.testing.builders import a_spec, workers
from anyscale_core.testing.world import Machine

FIRST = "c0"
NOTHING = timedelta(0)
STEP = timedelta(seconds=1)
STEPS = 200
TABLES = (t.clusters, t.nodes, t.node_status, t.jobs)
BATCH = 500


def a_cloud(clock: ManualClock) -> FakeCloud:
    """Return a cloud in which nothing takes time and nothing runs out."""
    cloud = FakeCloud(clock, boot=NOTHING, delete_takes=NOTHING, exposes_in=NOTHING, list_window=NOTHING)
    cloud.limits.update(dict.fromkeys(cloud.limits, float("inf")))
    return cloud


def seed(settings: Settings, cloud: FakeCloud, clock: ManualClock, *, clusters: int, nodes: int) -> None:
    """Fill the store of ``settings`` and the cloud with RUNNING clusters ``c0``, ``c1``, ...: a head, ``nodes - 1`` workers."""
    plane = ControlPlane(settings, registry=Registry.of(FakeProvider(cloud).provider()), clock=clock)
    try:
        first = bring_up(plane, cloud, clock, nodes)
        names = re.compile("|".join(map(re.escape, _renaming(first, 0))))
        rows = {table: [_Template.of(table, row, names) for row in _rows(plane, table, first)] for table in TABLES}
        machines = tuple(cloud.machines.values())
        for start in range(1, clusters, BATCH):
            renamings = [_renaming(first, number) for number in range(start, min(start + BATCH, clusters))]
            with plane.store.write() as connection:
                for table, templates in rows.items():
                    copies = [template.copy(names) for names in renamings for template in templates]
                    if copies:
                        connection.execute(insert(table), copies)
            for renaming in renamings:
                for machine in machines:
                    cloud.add(_machine(machine, renaming, cloud.serial()))
    finally:
        plane.close()


def bring_up(plane: ControlPlane, cloud: FakeCloud, clock: ManualClock, nodes: int) -> ClusterRecord:
    """Have the engine make the first cluster, and return it once nothing about it is due any more."""
    agents = FakeAgents(cloud, plane, ray_start=NOTHING)
    group = workers(min_nodes=nodes - 1, max_nodes=nodes - 1)
    plane.apply(a_spec(FIRST, group, idle_termination_minutes=0), actor="benchmark")
    for _ in range(STEPS):
        clock.advance(STEP)
        agents.step()
        worked = plane.tick()
        record = plane.status(FIRST).record
        if worked == 0 and record.phase is ClusterPhase.RUNNING:
            return record
    raise RuntimeError(f"{FIRST} is {record.phase.value} and still changes after {STEPS} steps")


def _rows(plane: ControlPlane, table: Table, cluster: ClusterRecord) -> list[dict[str, Any]]:
    key = table.c.id if table is t.clusters else table.c.cluster_id
    with plane.store.write() as connection:
        return [dict(row) for row in connection.execute(select(table).where(key == cluster.id)).mappings()]


def _renaming(first: ClusterRecord, number: int) -> dict[str, str]:
    """Return what to write instead of each id and name of the first cluster; ids keep their length."""
    names: dict[str, str] = {first.id: f"{first.id[:-6]}{number:06x}"}
    for index, node in enumerate(first.nodes):
        names[node.id] = f"{node.id[:-8]}{number:06x}{index:02x}"
        names[node.name] = node.name.replace(FIRST, f"c{number}", 1)
    return names | {f'"{FIRST}"': f'"c{number}"'}


@attrs.frozen(kw_only=True)
class _Template:
    """A row of the first cluster, its texts cut where a name of that cluster stands."""

    plain: Mapping[str, Any]
    texts: Mapping[str, list[str]]
    documents: Mapping[str, list[str]]

    @classmethod
    def of(cls, table: Table, row: Mapping[str, Any], names: re.Pattern[str]) -> "_Template":
        kinds = {column.name: isinstance(column.type, JSON) for column in table.columns}
        texts = {key: value for key, value in row.items() if isinstance(value, str) and not kinds[key]}
        cut = re.compile(f"({names.pattern}|^{FIRST}$)")
        return cls(
            plain={key: value for key, value in row.items() if not kinds[key] and key not in texts},
            texts={key: cut.split(text) for key, text in texts.items()},
            documents={key: cut.split(json.dumps(row[key])) for key, is_json in kinds.items() if is_json},
        )

    def copy(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Return the row of another cluster."""
        bare = {**names, FIRST: names[f'"{FIRST}"'].strip('"')}
        texts = {key: "".join(bare.get(part, part) for part in parts) for key, parts in self.texts.items()}
        documents = {
            key: json.loads("".join(names.get(part, part) for part in parts)) for key, parts in self.documents.items()
        }
        return {**self.plain, **texts, **documents}


def _machine(machine: Machine, names: dict[str, str], number: int) -> Machine:
    cluster = ClusterId(names[str(machine.spec.owner.cluster)])
    spec = attrs.evolve(
        machine.spec, name=names[machine.spec.name], node_id=NodeId(names[machine.spec.node_id]),
        owner=attrs.evolve(machine.spec.owner, cluster=cluster),
    )  # fmt: skip
    tags = {key: names.get(value, value) for key, value in machine.tags.items()}
    return attrs.evolve(machine, id=InstanceId(f"{machine.id}-{number}"), spec=spec, tags=tags)
