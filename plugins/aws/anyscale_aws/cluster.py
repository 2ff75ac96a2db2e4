"""ClusterDriver: EC2. A batch of equal specs is one RunInstances with a client token of the core's.

EC2 knows no unique names, so a name that is taken is noticed by what this driver has made or listed: before its first create
for a cloud it lists it, unless it has already, as a control plane does. Whose an instance is does not change, so it is asked for
once.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from anyscale_aws import launch
from anyscale_aws.busy import Busy
from anyscale_aws.client import Aws, Sessions
from anyscale_aws.config import read_settings, region_of
from anyscale_aws.errors import check_deadline
from anyscale_aws.instances import STATES, by_index, flat, is_gone, notice_of, parse
from anyscale_aws.launch import Group
from anyscale_aws.names import profile_name
from anyscale_aws.offerings import Catalogue, architecture, quota_code
from anyscale_aws.places import Network, Place, places_of, read_network
from anyscale_aws.quotas import read_quotas, with_use
from anyscale_aws.tags import TAG_TOKEN, digest, filters, mapping, tagged
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.errors import (
    AlreadyExists,
    CapacityUnavailable,
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
    Notice,
    Offering,
    Outcome,
    Quota,
)
from anyscale_core.models.owner import TAG_NAME, Owner

REMEMBERED = 50_000
"""Instances whose owner and name are remembered."""
PAGE = 1000
TERMINATE_MAX = 1000
FULL = (Scope.ZONE, Scope.SUBNET)
"""How far a stockout reaches that another place may not share."""


@attrs.frozen(kw_only=True)
class Known:
    """What is remembered of an instance."""

    id: str
    owner: Owner
    token: str


@attrs.frozen(kw_only=True)
class Marks:
    """What a launch is known by: digests of its call's token, of its own and of all specs of the call, and their names."""

    token: str
    part: str
    spec: str
    names: frozenset[str]


class AwsCluster(ClusterDriver):
    """Instances on EC2. ``config.settings`` as explained in ``plugin``; ``sessions`` makes sessions of botocore."""

    provider = "aws"

    def __init__(self, config: DriverConfig, sessions: Sessions | None = None) -> None:
        self._settings = read_settings(config)
        self._clock = config.clock
        self._aws = Aws.shared(self._settings, region_of(config), config.clock, sessions)
        self._catalogue = Catalogue(self._settings, self._aws.region)
        self._busy = Busy()
        self._networks: dict[tuple[str, str, str], Network] = {}
        self._listed: set[Owner] = set()
        """The clouds whose instances have been listed once, so that their names are known."""
        self._by_id: OrderedDict[str, Known] = OrderedDict()
        self._by_name: OrderedDict[tuple[str, str, str], Known] = OrderedDict()

    def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
        check_deadline(deadline, self._clock)
        if not specs:
            return ()
        launch.check(specs)
        for spec in specs:
            self._check(spec)
        with self._busy.holding(spec.name for spec in specs):
            self._check_names(specs, token, deadline)
            outcomes: dict[int, Outcome] = {}
            names, whole = frozenset(spec.name for spec in specs), digest(*map(launch.essence, specs))
            errors: list[CloudError] = []
            for number, group in enumerate(launch.grouped(specs)):
                for piece, part in enumerate(launch.fitting(group, self._settings)):
                    marks = Marks(token=digest(token), part=digest(token, number, piece), spec=whole, names=names)
                    try:
                        self._launch(part, marks, outcomes, deadline)
                    except CloudError as error:
                        if error.reason == "TOKEN_MISMATCH":
                            raise
                        errors.append(error)
                        _refuse(part, error, outcomes)
            if errors and not any(isinstance(outcome, Created) for outcome in outcomes.values()):
                raise errors[0]
            return tuple(outcomes[place] for place in range(len(specs)))

    def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
        check_deadline(deadline, self._clock)
        if _is_id(id):
            for found in self._describe([id], owner, deadline):
                if not is_gone(found):
                    return self._shown([found], deadline)[0]
        raise NotFound(f"there is no instance {id}", reason="RESOURCE", resource=id)

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
        wanted = [*filters(owner), {"Name": "instance-state-name", "Values": sorted(STATES)}]
        pages = self._aws.pages(
            "ec2", "describe_instances", deadline, next=("NextToken", "NextToken"), Filters=wanted, MaxResults=PAGE
        )
        found = {each["InstanceId"]: each for page in pages for each in flat(page) if not is_gone(each)}
        shown = self._shown(tuple(found.values()), deadline)
        if owner.cluster is None:
            self._listed.add(owner)
        return shown

    def delete(self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime) -> Mapping[InstanceId, Deletion]:
        check_deadline(deadline, self._clock)
        mine = self._owned(ids, owner, deadline)
        answers: dict[str, Deletion] = {}
        for start in range(0, len(mine), TERMINATE_MAX):
            answers |= self._terminate(mine[start : start + TERMINATE_MAX], owner, deadline)
        return {id: answers.get(id, Deletion.ALREADY_ABSENT) for id in ids}

    def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
        check_deadline(deadline, self._clock)
        return self._catalogue.offerings(self._aws, deadline)

    def quotas(self, *, deadline: datetime) -> tuple[Quota, ...]:
        check_deadline(deadline, self._clock)
        return read_quotas(self._aws, deadline)

    def close(self) -> None:
        self._aws.close()

    # Creating -------------------------------------------------------------------------------------------------------

    def _check(self, spec: InstanceSpec) -> None:
        """Refuse what can never work, before anything is written."""
        if spec.volume is not None:
            raise Unsupported(
                "a head's folder is not kept on a disk of its own here", reason="cluster.volumes", resource=spec.name,
                hint="leave volume out",
            )  # fmt: skip
        self._image(spec)

    def _check_names(self, specs: Sequence[InstanceSpec], token: Token, deadline: datetime) -> None:
        """Raise AlreadyExists for a name that an instance which this driver knows has by another token."""
        cloud = attrs.evolve(specs[0].owner, cluster=None)
        if cloud not in self._listed:
            self.list(cloud, deadline=deadline)
        known = {spec.name: self._by_name.get(_key(spec.owner, spec.name)) for spec in specs}
        other = {each.id: name for name, each in known.items() if each is not None and each.token != digest(token)}
        if not other:
            return
        found = self._aws.request(
            "ec2", "describe_instances", deadline, Filters=[{"Name": "instance-id", "Values": sorted(other)}]
        )
        for each in flat(found):
            if not is_gone(each):
                name = other[each["InstanceId"]]
                raise AlreadyExists(
                    f"the instance {each['InstanceId']} is called {name}", reason="OWNED", resource=name,
                    hint="mint another name",
                )  # fmt: skip

    def _launch(self, group: Group, marks: Marks, outcomes: dict[int, Outcome], deadline: datetime) -> None:
        """Launch a group, place by place, until all of it is there or no place is left; one call where the first has room."""
        places = self._places(group.first, deadline)
        rest = group if len(places) == 1 else self._not_there(group, marks, outcomes, deadline)
        error: CloudError | None = None
        for place in places:
            try:
                while rest.specs:
                    made = self._run(rest, place, marks, len(group.specs) - len(rest.specs), outcomes, deadline)
                    rest = rest.rest(made)
            except CapacityUnavailable as stockout:
                # Where EC2 may choose the zone, it has looked in all of them.
                error = stockout if error is None and place.key else _everywhere(stockout)
                if stockout.scope not in FULL:
                    break
            if not rest.specs:
                return
        if error is not None and rest.specs:
            if len(rest.specs) == len(group.specs):
                raise error
            _refuse(rest, error, outcomes)

    def _run(
        self, group: Group, place: Place, marks: Marks, offset: int, outcomes: dict[int, Outcome], deadline: datetime
    ) -> int:
        """Make one RunInstances; return how many instances it gave."""
        spec = group.first
        client_token = digest(marks.part, place.key, offset)
        request = self._request(group, place, marks) | {"ClientToken": client_token}
        try:
            found = by_index(
                self._aws.request("ec2", "run_instances", deadline, resource=spec.name, **request)["Instances"]
            )
        except Conflict as error:
            if error.reason != "TOKEN_SPENT":
                raise
            return self._survivors(group, client_token, error, outcomes, deadline)
        except QuotaExceeded as error:
            code = quota_code(spec.instance_type, spec.market_type)
            raise with_use(error, self._aws, code, deadline) from error
        except NotFound as error:
            self._networks.clear()  # what is remembered of them may be what is gone
            raise _reference(error) from error
        for at, each in enumerate(found):
            outcomes[group.places[at]] = Created(instance=self._remembered(each))
        return len(found)

    def _request(self, group: Group, place: Place, marks: Marks) -> dict[str, Any]:
        spec = group.first
        tags = launch.tags_of(group, marks.token, marks.spec)
        request: dict[str, Any] = {
            **spec.advanced_instance_config,
            "ImageId": self._image(spec),
            "InstanceType": spec.instance_type,
            "MinCount": 1,
            "MaxCount": len(group.specs),
            "UserData": launch.user_data(group, self._settings, self._aws.region),
            "TagSpecifications": launch.tag_specifications(tags, spec),
            "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            **place.fields(),
        }
        if spec.identity is not None:
            request["IamInstanceProfile"] = {"Name": profile_name(spec.owner, spec.identity)}
        if spec.market_type is MarketType.SPOT:
            options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
        if self._settings.disk_gib:
            disk = {
                "VolumeSize": self._settings.disk_gib,
                "VolumeType": "gp3",
                "Encrypted": True,
                "DeleteOnTermination": True,
            }
            request.setdefault("BlockDeviceMappings", [{"DeviceName": "/dev/sda1", "Ebs": disk}])
        return request

    def _survivors(
        self, group: Group, client_token: str, spent: Conflict, outcomes: dict[int, Outcome], deadline: datetime
    ) -> int:
        """Tell what is left of a launch some of whose instances have been deleted. Raises the Conflict when none are."""
        found = self._aws.request(
            "ec2", "describe_instances", deadline, Filters=[{"Name": "client-token", "Values": [client_token]}]
        )
        alive = {
            int(each["AmiLaunchIndex"]): each
            for each in flat(found)
            if not is_gone(each) and each["State"]["Name"] != "shutting-down"
        }
        if not alive:
            raise spent
        for index, (at, spec) in enumerate(zip(group.places, group.specs, strict=True)):
            outcomes[at] = (
                Created(instance=self._remembered(alive[index]))
                if index in alive
                else NotCreated(name=spec.name, error=spent)
            )
        return len(group.specs)

    def _not_there(self, group: Group, marks: Marks, outcomes: dict[int, Outcome], deadline: datetime) -> Group:
        """Return the group without what an earlier call with this token made, in whichever place it found room.

        Raises Conflict (TOKEN_MISMATCH) when that is not what is asked for now.
        """
        pages = self._aws.pages(
            "ec2", "describe_instances", deadline, next=("NextToken", "NextToken"), MaxResults=PAGE,
            Filters=[{"Name": f"tag:{TAG_TOKEN}", "Values": [marks.token]}],
        )  # fmt: skip
        there = {}
        for each in (each for page in pages for each in flat(page)):
            name = mapping(each.get("Tags")).get(TAG_NAME, "") if is_gone(each) else parse(each).name
            there[name] = each
        mine = {spec.name for spec in group.specs}
        wanted = {**tagged(group.first.tags, group.first.owner, ""), TAG_NAME: ""}
        for name, each in there.items():
            tags = mapping(each.get("Tags"))
            alike = all(tags.get(key) == value for key, value in wanted.items() if key != TAG_NAME)
            same = alike and each["InstanceType"] == group.first.instance_type
            if not is_gone(each) and (name not in marks.names or (name in mine and not same)):
                raise Conflict(f"the token has made {name} otherwise", reason="TOKEN_MISMATCH", resource=name)
        left: list[tuple[int, InstanceSpec]] = []
        for at, spec in zip(group.places, group.specs, strict=True):
            found = there.get(spec.name)
            if found is None:
                left.append((at, spec))
            elif is_gone(found) or found["State"]["Name"] == "shutting-down":
                error = Conflict(
                    f"what this token made, {spec.name}, is deleted", reason="TOKEN_SPENT", resource=spec.name
                )
                if len(group.specs) == 1:
                    raise error
                outcomes[at] = NotCreated(name=spec.name, error=error)
            else:
                outcomes[at] = Created(instance=self._remembered(found))
        return Group(places=tuple(at for at, _ in left), specs=tuple(spec for _, spec in left))

    def _places(self, spec: InstanceSpec, deadline: datetime) -> tuple[Place, ...]:
        network = None if spec.network is None else self._network(spec, deadline)
        return places_of(spec, network, self._settings)

    def _network(self, spec: InstanceSpec, deadline: datetime) -> Network:
        """Return where instances of a network go; asked for once, because it stays as it was made."""
        key = (spec.owner.plane, spec.owner.cloud, spec.network or "")
        if key not in self._networks:
            self._networks[key] = read_network(self._aws, spec.owner, spec.network or "", deadline)
        return self._networks[key]

    def _image(self, spec: InstanceSpec) -> str:
        if spec.image_uri is not None:
            image = (
                spec.image_uri if spec.image_uri.startswith("ami-") else self._settings.images.get(spec.image_uri, "")
            )
            hint = f"give its AMI in the setting 'images': images: {{{spec.image_uri}: ami-...}}"
        else:
            arm = architecture(spec.instance_type) == "arm64"
            image = self._settings.image_arm64 if arm else self._settings.image
            hint = f"give an AMI in the setting {'image_arm64' if arm else 'image'!r}"
        if not image:
            raise InvalidRequest(
                f"there is no AMI for {spec.image_uri or spec.instance_type}", reason="UNSUPPORTED_VALUE",
                resource=spec.name, hint=hint,
            )  # fmt: skip
        return image

    # Looking and deleting -------------------------------------------------------------------------------------------

    def _describe(self, ids: Iterable[str], owner: Owner, deadline: datetime) -> Sequence[Mapping[str, Any]]:
        """Return what there is of some ids that belongs to an owner."""
        wanted = [*filters(owner), {"Name": "instance-id", "Values": sorted(set(ids))}]
        pages = self._aws.pages(
            "ec2", "describe_instances", deadline, next=("NextToken", "NextToken"), Filters=wanted, MaxResults=PAGE
        )
        return [each for page in pages for each in flat(page)]

    def _shown(self, found: Sequence[Mapping[str, Any]], deadline: datetime) -> tuple[Instance, ...]:
        has_spot = any(each.get("InstanceLifecycle") == "spot" for each in found)
        notices = self._notices(deadline) if has_spot else {}
        return tuple(self._remembered(each, notices) for each in found)

    def _notices(self, deadline: datetime) -> dict[str, Notice]:
        """Return the notices of the account's SPOT instances, by their ids."""
        pages = self._aws.pages(
            "ec2", "describe_spot_instance_requests", deadline, next=("NextToken", "NextToken"), MaxResults=PAGE,
            Filters=[{"Name": "status-code", "Values": ["marked-for-termination"]}],
        )  # fmt: skip
        return {
            each["InstanceId"]: notice_of(each)
            for page in pages
            for each in page["SpotInstanceRequests"]
            if each.get("InstanceId")
        }

    def _remembered(self, found: Mapping[str, Any], notices: Mapping[str, Notice] | None = None) -> Instance:
        instance = parse(found, notices)
        token = mapping(found.get("Tags")).get(TAG_TOKEN, "")
        known = Known(id=instance.id, owner=instance.owner, token=token)
        self._by_id[instance.id] = known
        self._by_name[_key(instance.owner, instance.name)] = known
        for table in (self._by_id, self._by_name):
            while len(table) > REMEMBERED:
                table.popitem(last=False)
        return instance

    def _owned(self, ids: Sequence[InstanceId], owner: Owner, deadline: datetime) -> Sequence[str]:
        """Return those ids that are the owner's, asking for those that this driver has not seen."""
        wanted = [id for id in dict.fromkeys(ids) if _is_id(id)]
        unknown = [id for id in wanted if id not in self._by_id]
        there = {each["InstanceId"] for each in self._describe(unknown, owner, deadline)} if unknown else set()
        return [id for id in wanted if id in there or (id in self._by_id and owner.owns(self._by_id[id].owner.tags()))]

    def _terminate(self, ids: Sequence[str], owner: Owner, deadline: datetime) -> dict[str, Deletion]:
        try:
            found = self._aws.request("ec2", "terminate_instances", deadline, InstanceIds=ids)
        except NotFound:
            # One that EC2 has forgotten fails the whole call, with nothing done.
            there = [each["InstanceId"] for each in self._describe(ids, owner, deadline)]
            if not there:
                return {}
            found = self._aws.request("ec2", "terminate_instances", deadline, InstanceIds=there)
        return {each["InstanceId"]: _deletion(each) for each in found["TerminatingInstances"]}


def _deletion(change: Mapping[str, Any]) -> Deletion:
    if change["PreviousState"]["Name"] == "terminated":
        return Deletion.ALREADY_ABSENT
    return Deletion.GONE if change["CurrentState"]["Name"] == "terminated" else Deletion.GOING


def _refuse(group: Group, error: CloudError, outcomes: dict[int, Outcome]) -> None:
    for at, spec in zip(group.places, group.specs, strict=True):
        outcomes.setdefault(at, NotCreated(name=spec.name, error=error))


def _everywhere(error: CapacityUnavailable) -> CapacityUnavailable:
    """Return a stockout as one of every place that was allowed; one of addresses stays one of the network's subnets."""
    if error.scope is Scope.SUBNET:
        return error
    return CapacityUnavailable(
        error.message,
        reason="REGION" if error.reason == "ZONE" else error.reason,
        scope=Scope.REGION,
        vendor=error.vendor,
        resource=error.resource,
        hint=error.hint,
    )


def _reference(error: NotFound) -> NotFound:
    """Return that something is missing as what it is for a launch: a reference that leads nowhere."""
    return NotFound(error.message, reason="REFERENCE", vendor=error.vendor, resource=error.resource, hint=error.hint)


def _key(owner: Owner, name: str) -> tuple[str, str, str]:
    return (owner.plane, owner.cloud, name)


def _is_id(id: str) -> bool:
    stem, _, rest = id.partition("-")
    return stem == "i" and len(rest) in (8, 17) and all(each in "0123456789abcdef" for each in rest)
