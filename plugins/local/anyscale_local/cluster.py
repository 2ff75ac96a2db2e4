"""ClusterDriver: an instance is a session of processes on this machine that runs the node agent, as a VM would.

Locking: create and delete change the state under its lock, and a create holds it until the whole batch is spawned, so of
two with the same token the second finds what the first made. list and get take it only to finish a delete.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import attrs

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.errors import (
    Applied,
    CloudError,
    Conflict,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Scope,
    Unsupported,
)
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import (
    Created,
    Deletion,
    Instance,
    InstanceSpec,
    NotCreated,
    Offering,
    Outcome,
    Quota,
)
from anyscale_core.models.owner import Owner
from anyscale_local import processes
from anyscale_local.config import read_settings, state_folder
from anyscale_local.errors import check_deadline, translate, translated
from anyscale_local.instances import InstanceRecord, InstanceStore, mint_id
from anyscale_local.offerings import ZONE, catalogue
from anyscale_local.state import Claim, State, already_exists, check_name, fingerprint, same_cloud, token_spent

KILL_BUDGET_S = 0.1
"""How long a delete looks whether what it killed is gone; what needs longer is GOING."""

METRIC = "instances"


class LocalCluster(ClusterDriver):
    """Instances on this machine. ``config.settings`` as explained in ``plugin``."""

    provider = "local"

    def __init__(self, config: DriverConfig) -> None:
        self._settings = read_settings(config)
        self._clock = config.clock
        self._state = State(state_folder(config, self._settings), config.clock)
        self._store = InstanceStore(self._state, self._settings)

    def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
        check_deadline(deadline, self._clock)
        if not specs:
            return ()
        refused = self._refused(specs)
        if len(refused) == len(specs):
            raise refused[specs[0].name]
        owner = specs[0].owner
        print_of_specs = fingerprint(*specs)
        with translated(), self._state.lock(deadline):
            claim = self._state.claim(self.slot, token, owner=owner, fingerprint=print_of_specs)
            if all(spec.name in claim.spent for spec in specs):
                raise token_spent(", ".join(spec.name for spec in specs))
            self._state.remember(self.slot, token, claim, owner=owner)
            return tuple(
                NotCreated(name=spec.name, error=refused[spec.name])
                if spec.name in refused
                else self._create(spec, claim, token)
                for spec in specs
            )

    def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
        check_deadline(deadline, self._clock)
        with translated(resource=id):
            record = self._store.read(id)
            if record is not None and owner.owns(record.tags):
                for instance in self._show([record], deadline):
                    return instance
        raise NotFound(f"there is no instance {id}", reason="RESOURCE", resource=id)

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
        check_deadline(deadline, self._clock)
        with translated():
            return self._show((record for record in self._store.all() if owner.owns(record.tags)), deadline)

    def delete(self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime) -> Mapping[InstanceId, Deletion]:
        check_deadline(deadline, self._clock)
        with translated():
            with self._state.lock(deadline):
                doomed = [self._doom(record) for record in self._owned(ids, owner)]
                self._store.sweep()
            left = self._finish(doomed, deadline, budget_s=KILL_BUDGET_S)
        known = {record.id for record in doomed}
        return {
            each: Deletion.ALREADY_ABSENT if each not in known else Deletion.GOING if each in left else Deletion.GONE
            for each in ids
        }

    def delete_volume(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        with translated(resource=name), self._state.lock(deadline):
            holder = self._store.holder(name, owner)
            if holder is not None:
                raise _in_use(name, holder)
            return Deletion.GONE if self._store.remove_volume(name, owner) else Deletion.ALREADY_ABSENT

    def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
        check_deadline(deadline, self._clock)
        return catalogue()

    def quotas(self, *, deadline: datetime) -> tuple[Quota, ...]:
        check_deadline(deadline, self._clock)
        with translated():
            used = len(self._store.all())
        return (Quota(metric=METRIC, scope="account", limit=self._settings.max_instances, used=used),)

    def _refused(self, specs: Sequence[InstanceSpec]) -> dict[str, CloudError]:
        """Return, by name, what can never work and why. Raises InvalidRequest for a batch that cannot work as a whole."""
        names = [spec.name for spec in specs]
        for name in names:
            if names.count(name) > 1:
                raise InvalidRequest(f"the batch has {name} twice", reason="NAME", hint="give each its own name")
        clouds = {(spec.owner.plane, spec.owner.cloud) for spec in specs}
        if len(clouds) > 1:
            raise InvalidRequest("the batch is for two clouds", reason="COMBINATION", hint="make a batch for each")
        words = self._settings.boot_command()
        if shutil.which(words[0]) is None:
            raise InvalidRequest(
                f"{words[0]} is not a program", reason="FIELD", hint="mend the settings 'python' or 'command'"
            )
        types = {offering.instance_type for offering in catalogue()}
        refused: dict[str, CloudError] = {}
        for spec in specs:
            try:
                self._validate(spec, types, words)
            except CloudError as error:
                refused[spec.name] = error
        return refused

    def _validate(self, spec: InstanceSpec, types: set[str], words: Sequence[str]) -> None:
        """Refuse what can never work, before anything is written."""
        check_name(spec.name, "an instance")
        _refuse_unsupported(spec)
        if spec.instance_type not in types:
            raise InvalidRequest(
                f"there is no instance type {spec.instance_type!r} on this machine",
                reason="UNSUPPORTED_VALUE",
                hint=f"choose one of {', '.join(sorted(types))}",
            )
        if any("{bootstrap}" in word for word in words) and spec.bootstrap is None:
            raise InvalidRequest(
                "an instance here boots the node agent, which needs a bootstrap", reason="FIELD", hint="give one"
            )

    def _create(self, spec: InstanceSpec, claim: Claim, token: Token) -> Outcome:
        """Make one instance, or find it made, or finish it where an earlier call with this token died."""
        if spec.name in claim.spent:
            return NotCreated(name=spec.name, error=token_spent(spec.name))
        minted = mint_id(spec.owner, token, spec.name)
        try:
            record = self._store.read(minted)
            if record is None:
                record = self._store.boot(self._add(spec, id=minted, token=token), spec)
            elif not self._store.booted(record):
                # The create that died over it may have left a child at the gate; it must not become a second instance.
                processes.kill([self._store.session(record)], budget_s=KILL_BUDGET_S)
                record = self._store.boot(record, spec)
            return Created(instance=self._store.show(record, processes.survey()))
        except CloudError as error:
            return NotCreated(name=spec.name, error=error)
        except OSError as error:
            self._abandon(self._store.read(minted))
            return NotCreated(name=spec.name, error=translate(error, resource=spec.name, applied=Applied.NO))

    def _add(self, spec: InstanceSpec, *, id: InstanceId, token: Token) -> InstanceRecord:
        records = self._store.all()
        for other in records:
            if other.name == spec.name and same_cloud(spec.owner, other.tags):
                raise already_exists(spec.name, owner=spec.owner, tags=other.tags)
        if len(records) >= self._settings.max_instances:
            raise QuotaExceeded(
                f"this machine holds {len(records)} instances of {self._settings.max_instances}",
                metric=METRIC,
                limit=self._settings.max_instances,
                used=len(records),
                reason="COUNT",
                scope=Scope.ACCOUNT,
                resource=spec.name,
                hint="delete instances or raise the setting max_instances",
            )
        holder = None if spec.volume is None else self._store.holder(spec.volume, spec.owner)
        if holder is not None:
            raise _in_use(spec.volume or "", holder)
        return self._store.add(spec, id=id, token=token, now=self._clock.now())

    def _abandon(self, record: InstanceRecord | None) -> None:
        """Leave nothing of an instance that could not be started."""
        if record is not None:
            processes.kill([self._store.session(record)], budget_s=KILL_BUDGET_S)
            self._store.remove(record)

    def _show(self, records: Iterable[InstanceRecord], deadline: datetime) -> tuple[Instance, ...]:
        """Return instances as they stand; one whose delete was begun is carried through, and left out when it is gone."""
        records = tuple(records)
        doomed = [record for record in records if record.deleting]
        left = self._finish(doomed, deadline, budget_s=0.0) if doomed else set[str]()
        sessions = processes.survey()
        return tuple(
            self._store.show(record, sessions) for record in records if not record.deleting or record.id in left
        )

    def _owned(self, ids: Iterable[InstanceId], owner: Owner) -> tuple[InstanceRecord, ...]:
        found = (self._store.read(each) for each in dict.fromkeys(ids))
        return tuple(record for record in found if record is not None and owner.owns(record.tags))

    def _doom(self, record: InstanceRecord) -> InstanceRecord:
        """Record that an instance is deleted and its token spent, so that whoever looks next can carry it through."""
        self._state.spend(self.slot, record)
        record = attrs.evolve(record, deleting=True)
        self._store.write(record)
        return record

    def _finish(self, doomed: Sequence[InstanceRecord], deadline: datetime, *, budget_s: float) -> set[str]:
        """Kill and remove what is to be deleted; return the ids of those that have a process left."""
        if not doomed:
            return set()
        markers = processes.kill((self._store.session(record) for record in doomed), budget_s=budget_s)
        left = {record.id for record in doomed if self._store.session(record).marker in markers}
        with self._state.lock(deadline):
            for record in doomed:
                if record.id not in left and self._store.read(record.id) is not None:
                    self._store.remove(record)
        return left


def _in_use(volume: str, holder: InstanceRecord) -> Conflict:
    return Conflict(
        f"the instance {holder.name} has the volume {volume}", reason="IN_USE", resource=volume, hint="delete it first"
    )


def _refuse_unsupported(spec: InstanceSpec) -> None:
    if spec.market_type is MarketType.SPOT:
        raise Unsupported("this machine has no SPOT market", reason="cluster.spot", hint="use ON_DEMAND")
    if spec.image_uri is not None:
        raise Unsupported("processes here use no image", reason="cluster.images", hint="leave image_uri out")
    if spec.zones and ZONE not in spec.zones:
        raise InvalidRequest(
            f"this machine has no zone {', '.join(spec.zones)}",
            reason="UNSUPPORTED_VALUE",
            hint=f"its one zone is {ZONE!r}; name it, or leave zones out",
        )
    if spec.advanced_instance_config:
        raise InvalidRequest(
            f"this machine has no launch fields ({', '.join(sorted(spec.advanced_instance_config))})",
            reason="FIELD",
            hint="leave advanced_instance_config out",
        )
