"""ClusterDriver: an instance is a Pod, made by server-side apply under a name that follows from ours.

Each request has a field manager of its own, so the API server itself refuses a second request for the name: the fields of the
first belong to another manager. What a token made is found by a label; what was deleted of it is remembered by an Event, which
Kubernetes forgets by itself after an hour. The bootstraps of a create are in one Secret that goes with the last of its Pods.

Locking: none. The API server orders what happens to one name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.errors import (
    AlreadyExists,
    CloudError,
    Conflict,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
)
from anyscale_core.models import wire
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
from anyscale_kubernetes.bootstraps import apply_bootstraps, secret_name
from anyscale_kubernetes.cache import PodCache
from anyscale_kubernetes.client import Api, Connection
from anyscale_kubernetes.config import read_settings
from anyscale_kubernetes.errors import TAKEN, check_deadline
from anyscale_kubernetes.kinds import POD
from anyscale_kubernetes.names import check_name, manager, object_name, token_digest
from anyscale_kubernetes.offerings import Catalogue, InstanceType
from anyscale_kubernetes.pods import SLOT, Order, disruption, is_going, parse, render
from anyscale_kubernetes.quotas import read_quotas
from anyscale_kubernetes.records import token_spent
from anyscale_kubernetes.spent import spend, spent_names
from anyscale_kubernetes.tags import (
    FINGERPRINT,
    SLOT_LABEL,
    TOKEN,
    TOKEN_LABEL,
    Body,
    annotation,
    fingerprint,
    selector,
    tags_of,
    whole_cloud,
)
from anyscale_kubernetes.volumes import Volumes

CHUNK = 50
"""So many Pods share a Secret: it is written soon after the first of them, and stays far below the limit of 1 MiB."""
ID = re.compile(r"(?P<namespace>[a-z0-9-]{1,63})/(?P<name>[a-z0-9.-]{1,253})/(?P<uid>[A-Za-z0-9-]+)")
OF_THE_ITEM = (InvalidRequest, AlreadyExists, Conflict, QuotaExceeded, NotFound)
"""Errors that are about one item of a batch; any other strikes all of it, and nothing more is sent."""


class KubernetesCluster(ClusterDriver):
    """Instances as Pods of one namespace. ``config.settings`` as explained in ``plugin``."""

    provider = "kubernetes"

    def __init__(self, config: DriverConfig, connection: Connection | None = None) -> None:
        self._settings = read_settings(config)
        self._clock = config.clock
        self._api = Api(self._settings, config.clock, connection)
        self._catalogue = Catalogue(self._settings, self._api)
        self._volumes = Volumes(self._settings, self._api)
        self._patience = timedelta(minutes=self._settings.unschedulable_minutes)
        self._cache = PodCache(self._api, whole_cloud(config.owner)) if self._settings.sight == "watch" else None

    def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
        check_deadline(deadline, self._clock)
        if not specs:
            return ()
        types, refused = self._validated(specs, deadline)
        if len(refused) == len(specs):
            raise refused[specs[0].name]
        asked = fingerprint(*specs)
        made = self._made(specs[0].owner, token, asked, deadline)
        spent: frozenset[str] = frozenset()
        if any(spec.name not in made for spec in specs):
            spent = spent_names(self._api, token_digest(specs[0].owner, token), deadline=deadline)
        if all(spec.name in spent for spec in specs):
            raise token_spent(", ".join(spec.name for spec in specs))
        outcomes: dict[str, Outcome] = {name: NotCreated(name=name, error=error) for name, error in refused.items()}
        outcomes |= {name: NotCreated(name=name, error=token_spent(name)) for name in spent}
        for place in range(0, len(specs), CHUNK):
            chunk = [spec for spec in specs[place : place + CHUNK] if spec.name not in outcomes]
            order = Order(token=token, fingerprint=asked, secret=secret_name(specs[0].owner, token, place))
            outcomes |= self._create(chunk, types, order, made, deadline)
        return tuple(outcomes[spec.name] for spec in specs)

    def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
        check_deadline(deadline, self._clock)
        pod = self._pod(id, owner, deadline)
        if pod is None:
            raise NotFound(f"there is no instance {id}", reason="RESOURCE", resource=id)
        return self._shown([pod], deadline)[0]

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
        check_deadline(deadline, self._clock)
        pods = None if self._cache is None else self._cache.pods()
        return self._shown(self._owned(owner, deadline) if pods is None else _of(owner, pods), deadline)

    def delete(self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime) -> Mapping[InstanceId, Deletion]:
        check_deadline(deadline, self._clock)
        wanted = tuple(dict.fromkeys(ids))
        found = dict(zip(wanted, self._api.map(lambda each: self._pod(each, owner, deadline), wanted), strict=True))
        doomed = [pod for pod in found.values() if pod is not None and (not is_going(pod) or disruption(pod))]
        spend(self._api, POD, doomed, deadline=deadline)
        for _ in self._api.map(lambda pod: self._api.delete_if_there(POD, pod, deadline=deadline), doomed):
            pass  # whether a Pod is gone, and its containers with it, is for the next look to say
        return {id: Deletion.ALREADY_ABSENT if pod is None else Deletion.GOING for id, pod in found.items()}

    def delete_volume(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        return self._volumes.delete(name, owner=owner, deadline=deadline)

    def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
        check_deadline(deadline, self._clock)
        return self._catalogue.offerings(deadline=deadline)

    def quotas(self, *, deadline: datetime) -> tuple[Quota, ...]:
        check_deadline(deadline, self._clock)
        return read_quotas(self._api, deadline=deadline)

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()
        self._api.close()

    def _validated(
        self, specs: Sequence[InstanceSpec], deadline: datetime
    ) -> tuple[Mapping[str, InstanceType], dict[str, CloudError]]:
        """Return the types, and the error of each item that can never work; nothing has been written yet.

        Raises InvalidRequest for a batch that is wrong as a whole.
        """
        names = [spec.name for spec in specs]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise InvalidRequest(
                f"the batch has {', '.join(twice)} twice", reason="NAME", hint="give each its own name"
            )
        if len({whole_cloud(spec.owner) for spec in specs}) > 1:
            raise InvalidRequest("the batch is for two clouds", reason="COMBINATION", hint="make a batch for each")
        types = self._catalogue.types(deadline=deadline)
        refused: dict[str, CloudError] = {}
        trial = Order(token=Token(""), fingerprint="", secret="")
        for spec in specs:
            try:
                check_name(spec.name, "an instance")
                type = self._catalogue.type(spec.instance_type, deadline=deadline)
                self._check(spec, type)
                render(spec, type, trial, self._settings)
            except CloudError as error:
                refused[spec.name] = error
        return types, refused

    def _check(self, spec: InstanceSpec, type: InstanceType) -> None:
        strange = [zone for zone in spec.zones if zone not in self._settings.zones]
        if strange:
            raise InvalidRequest(
                f"there is no zone {', '.join(strange)}", reason="UNSUPPORTED_VALUE", resource=spec.name,
                hint=f"choose among {', '.join(self._settings.zones) or 'none'}: the setting 'zones' lists the cluster's",
            )  # fmt: skip
        if spec.market_type.value not in type.markets and spec.market_type.value != "PREFER_SPOT":
            raise InvalidRequest(
                f"{spec.instance_type} has no market {spec.market_type.value}", reason="UNSUPPORTED_VALUE",
                resource=spec.name, hint=f"choose among {', '.join(type.markets)}",
            )  # fmt: skip
        if not (spec.image_uri or self._settings.image):
            raise InvalidRequest(
                f"{spec.name} has no image", reason="FIELD", resource=spec.name,
                hint="give image_uri, or set 'image' for the cloud",
            )  # fmt: skip
        if spec.bootstrap is None:
            raise InvalidRequest(
                f"{spec.name} boots the node agent, which needs a bootstrap", reason="FIELD", resource=spec.name,
                hint="give one",
            )  # fmt: skip

    def _made(self, owner: Owner, token: Token, asked: str, deadline: datetime) -> dict[str, Body]:
        """Return what this token has made and is there, by name. Raises Conflict(TOKEN_MISMATCH) for another request's."""
        digest = token_digest(owner, token)
        wanted = f"{SLOT_LABEL}={SLOT},{TOKEN_LABEL}={digest}"
        pods = [
            pod
            for pod in _of(whole_cloud(owner), self._api.list(POD, selector=wanted, deadline=deadline))
            if annotation(pod, TOKEN) == digest
        ]
        if any(annotation(pod, FINGERPRINT) != asked for pod in pods):
            raise Conflict(
                "the token stands for another request", reason="TOKEN_MISMATCH", hint="mint a token for each request"
            )
        return {name: pod for pod in pods if pod["metadata"]["name"] == object_name(owner, name := _name(pod))}

    def _create(
        self, specs: Sequence[InstanceSpec], types: Mapping[str, InstanceType], order: Order,
        made: Mapping[str, Body], deadline: datetime,
    ) -> dict[str, Outcome]:  # fmt: skip
        """Make a chunk of a batch, or find it made, or finish it where an earlier call with this token died."""
        apply = partial(self._apply, types=types, order=order, made=made, deadline=deadline)
        pods: dict[str, Body] = {}
        outcomes: dict[str, Outcome] = {}
        for spec, result in zip(specs, self._api.map(apply, specs), strict=True):
            if isinstance(result, CloudError):
                outcomes[spec.name] = NotCreated(name=spec.name, error=result)
            else:
                pods[spec.name] = result
        # A Pod that runs has read its bootstrap; for the others the Secret may not have been written yet.
        if any((pod.get("status") or {}).get("phase", "Pending") == "Pending" for pod in pods.values()):
            bootstraps = {spec.name: wire.unstructure_revealed(spec.bootstrap) for spec in specs if spec.name in pods}
            apply_bootstraps(self._api, order, pods, bootstraps, owner=specs[0].owner, deadline=deadline)
        shown = self._shown(list(pods.values()), deadline)
        return outcomes | {name: Created(instance=instance) for name, instance in zip(pods, shown, strict=True)}

    def _apply(
        self, spec: InstanceSpec, *, types: Mapping[str, InstanceType], order: Order, made: Mapping[str, Body],
        deadline: datetime,
    ) -> Body | CloudError:  # fmt: skip
        """Return the Pod of a spec, or the error of this item. Raises what strikes the whole batch."""
        try:
            pod = made.get(spec.name)
            if pod is None:
                if spec.volume:
                    self._volumes.ensure(spec, deadline=deadline)
                body = render(spec, types[spec.instance_type], order, self._settings)
                pod = self._apply_pod(spec, body, order, deadline)
            return token_spent(spec.name) if is_going(pod) and not disruption(pod) else pod
        except OF_THE_ITEM as error:
            return error

    def _apply_pod(self, spec: InstanceSpec, body: Body, order: Order, deadline: datetime) -> Body:
        who = manager(order.token, order.fingerprint, spec.name)
        try:
            return self._api.apply(POD, body, manager=who, deadline=deadline)
        except Conflict as error:
            if error.reason != TAKEN:
                raise
            return self._holder(spec, body, error, deadline)

    def _holder(self, spec: InstanceSpec, body: Body, error: Conflict, deadline: datetime) -> Body:
        """Return the Pod that has the name when this request made it all the same. Raises AlreadyExists or Conflict."""
        try:
            pod = self._api.get(POD, body["metadata"]["name"], deadline=deadline)
        except NotFound:
            raise Conflict(
                f"{spec.name} went away while it was asked for", reason="BUSY", resource=spec.name, vendor=error.vendor
            ) from error
        if all(annotation(pod, key) == annotation(body, key) for key in (TOKEN, FINGERPRINT)):
            return pod
        if is_going(pod):
            raise Conflict(
                f"another {spec.name} is being deleted", reason="BEING_DELETED", resource=spec.name,
                vendor=error.vendor,
            ) from error  # fmt: skip
        owned = whole_cloud(spec.owner).owns(tags_of(pod))
        raise AlreadyExists(
            f"{spec.name} exists, made by another request", reason="OWNED" if owned else "FOREIGN",
            resource=spec.name, vendor=error.vendor, hint="list it, or choose another name",
        ) from error  # fmt: skip

    def _pod(self, id: InstanceId, owner: Owner, deadline: datetime) -> Body | None:
        """Return the Pod of an id when it is there and the owner's."""
        parts = ID.fullmatch(id)
        if parts is None or parts["namespace"] != self._api.namespace:
            return None
        try:
            pod = self._api.get(POD, parts["name"], deadline=deadline)
        except NotFound as error:
            if error.reason != "RESOURCE":
                raise
            return None
        same = pod["metadata"]["uid"] == parts["uid"] and _is_ours(pod)
        return pod if same and owner.owns(tags_of(pod)) else None

    def _owned(self, owner: Owner, deadline: datetime) -> Iterable[Body]:
        return _of(owner, self._api.list(POD, selector=selector(owner, SLOT), deadline=deadline))

    def _shown(self, pods: Iterable[Body], deadline: datetime) -> tuple[Instance, ...]:
        """Return Pods as instances. Of those that the cluster takes away it is looked up whether we deleted them as well."""
        pods = list(pods)
        taken = [pod for pod in pods if is_going(pod) and disruption(pod)]
        tokens = {annotation(pod, TOKEN) for pod in taken}
        spent = {name for token in tokens for name in spent_names(self._api, token, deadline=deadline)}
        now = self._clock.now()
        return tuple(
            parse(pod, now=now, patience=self._patience, is_spent=_name(pod) in spent and pod in taken) for pod in pods
        )


def _of(owner: Owner, pods: Iterable[Body]) -> "list[Body]":
    """Return those that are the owner's word for word: a label may be a digest, or somebody's own."""
    return [pod for pod in pods if _is_ours(pod) and owner.owns(tags_of(pod))]


def _is_ours(pod: Body) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return labels.get(SLOT_LABEL) == SLOT and bool(annotation(pod, FINGERPRINT))


def _name(pod: Body) -> str:
    return tags_of(pod).get("Name", "")
