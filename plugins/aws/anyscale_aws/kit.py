"""The conformance kit of this provider: the suite's simulated AWS, one account a row. Its oracle looks into the simulator.

Nothing of the plugin imports this module; ``anyscale-conformance run --provider aws --mode E`` finds it by its entry point.
"""

import atexit
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cache, partial
from typing import Any
from urllib.parse import urlsplit

import attrs
from anyscale_conformance.faults.http import WireRequest
from anyscale_conformance.faults.http_botocore import BotocoreCarrier
from anyscale_conformance.kit import Item, Kit, Mode, RunScope, Samples, WireCode
from anyscale_conformance.rules import Hand
from anyscale_conformance.simulators.aws import Account, AwsSimulator, Key, balancers, buckets, compute, sts

from anyscale_aws import client
from anyscale_aws.cluster import AwsCluster
from anyscale_aws.errors import TRANSLATE, from_response
from anyscale_aws.grants import GrantName
from anyscale_aws.identity import AwsIdentity
from anyscale_aws.names import Path, profile_name
from anyscale_aws.networking import AwsNetworking
from anyscale_aws.plugin import CAPABILITIES, NAME, anyscale_provider
from anyscale_aws.storage import AwsStorage
from anyscale_aws.tags import member_of, shown
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import CloudError
from anyscale_core.hookspecs import Provider
from anyscale_core.models.identity import Access, IdentitySpec, Proof
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
from anyscale_core.models.networking import EndpointSpec, NetworkMode, NetworkSpec
from anyscale_core.models.owner import TAG_NAME, TAG_NODE
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import BucketSpec
from anyscale_core.testing.clock import ManualClock

REGION = "us-west-2"
EXTERNAL_ID = "org-conformance"
PLANE_ACCOUNT = "999999999999"
TYPE, IMAGE, IMAGE_X86 = "m7g.medium", "ami-0c0ffee0c0ffee000", "ami-0c0ffee0c0ffee086"
"""One vCPU, so that a quota of vCPUs is one of instances."""
OUR_TOKEN = re.compile(rb"anyscale-core-token(?:</Key><Value>|[^&]*&[^=]*Value=)([0-9a-f]{20})")
CODES = {
    **{f"{service}:Conflict(ETAG)": (412, "PreconditionFailed") for service in ("ec2", "iam", "s3")},
    **{f"{service}:Transient(PROPAGATION)": (428, "ResourcePropagationDelayException") for service in ("iam", "s3")},
    "CapacityUnavailable(SKU)": (400, "UnsupportedAvailabilityZoneException"),
}
"""Where a service has no word of its own, the one that means it wherever it comes."""
STATES = {"shutting-down": "deleting", "stopping": "stopped"}


@cache
def simulator() -> AwsSimulator:
    """Return the one simulator of this process."""
    found = AwsSimulator()
    atexit.register(found.close)
    return found


class Carrier(BotocoreCarrier):
    """Where AWS has no client token, ours is among the tags of the creating call."""

    def _wired(self, request: Any, event_name: str) -> WireRequest:
        wired = super()._wired(request, event_name)
        body = request.body.encode() if isinstance(request.body, str) else request.body
        found = OUR_TOKEN.search(body) if isinstance(body, bytes) else None
        return attrs.evolve(wired, token=found.group(1).decode()) if found is not None else wired


class AccountOracle:
    """Looks into the simulated account, past the drivers and past the API."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def inventory(self) -> Iterator[Item]:
        """Yield everything in the account but what AWS itself put there."""
        with self._account.lock:
            self._account.settle()
            balancers.settle(self._account)
            return iter(
                [*self._instances(), *self._network(), *self._identities(), *self._buckets(), *self._endpoints()]
            )

    def _tags(self, id: str) -> Mapping[str, str]:
        return dict(self._account.ec2.tags.get(id, {}))

    def _instances(self) -> Iterator[Item]:
        account = self._account
        for reservation in account.ec2.reservations.values():
            for instance in reservation.instances:
                life = account.lives[instance.id]
                _, state = life.state(account.clock.now(), account.timing)
                if state == "terminated":
                    continue
                tags = self._tags(instance.id)
                member = member_of(tags, life.index)
                named = {} if member is None else {TAG_NAME: member.name, TAG_NODE: member.node_id}
                yield Item(
                    kind="instance", id=instance.id, name=named.get(TAG_NAME, tags.get(TAG_NAME, "")),
                    tags={**shown(tags), **named},
                    state=STATES.get(state, state), detail={"type": instance.instance_type, "zone": instance.availability_zone},
                )  # fmt: skip
        for volume in account.ec2.volumes.values():
            yield Item(kind="volume", id=volume.id, tags=self._tags(volume.id))
        for eni in account.ec2.enis.values():
            yield Item(kind="interface", id=eni.id, tags=self._tags(eni.id))

    def _network(self) -> Iterator[Item]:
        ec2 = self._account.ec2
        default = {vpc.id for vpc in ec2.vpcs.values() if vpc.is_default == "true" or vpc.is_default is True}
        for vpc in ec2.vpcs.values():
            if vpc.id in default:
                continue
            tags = self._tags(vpc.id)
            kind = "network" if tags.get("anyscale-core-kind") else "foreign vpc"
            yield Item(kind=kind, id=vpc.id, name=tags.get(TAG_NAME, ""), tags=tags, detail={"range": vpc.cidr_block})
        for zoned in ec2.subnets.values():
            for subnet in zoned.values():
                if subnet.vpc_id not in default:
                    yield Item(kind="subnet", id=subnet.id, tags=self._tags(subnet.id))
        for gateway in ec2.internet_gateways.values():
            if gateway.vpc is None or gateway.vpc.id not in default:
                yield Item(kind="gateway", id=gateway.id, tags=self._tags(gateway.id))
        for end in ec2.vpc_end_points.values():
            if end.state != "deleted":
                yield Item(kind="vpc endpoint", id=end.id, tags=self._tags(end.id))
        for groups in list(ec2.groups.values()):
            for group in groups.values():
                if group.name != "default":
                    yield from self._group(group)

    def _group(self, group: Any) -> Iterator[Item]:
        tags = self._tags(group.id)
        kind = tags.get("anyscale-core-kind", "")
        if kind == "adopted":
            yield Item(kind="network", id=group.id, name=tags.get(TAG_NAME, ""), tags=tags)
        elif kind != "endpoint":
            yield Item(kind="group", id=group.id, tags=tags)
        else:
            yield Item(
                kind="endpoint", id=group.id, name=tags.get(TAG_NAME, ""), tags=tags, state=self._way_state(tags),
                detail={"target": tags.get("anyscale-core-target", "")},
            )  # fmt: skip
        for rule in group.ingress_rules:
            source = rule.ip_range.get("CidrIp") or rule.source_group.get("GroupId", "")
            yield Item(kind="rule", id=f"{group.id}/{rule.from_port}/{source}", tags=tags, detail={"from": source})

    def _way_state(self, tags: Mapping[str, str]) -> str:
        if tags.get("anyscale-core-state") == "deleting":
            return "deleting"
        for balancer in self._account.elb.load_balancers.values():
            own = self._account.elb.tagging_service.get_tag_dict_for_resource(balancer.arn)
            if own.get(TAG_NAME) == tags.get(TAG_NAME) and balancer.state == "active":
                healthy = [
                    f"{id}:{port}"
                    for group in self._account.elb.target_groups.values()
                    if group.name == balancer.name
                    for id, port, state in balancers.health(self._account, group.arn)
                    if state == "healthy"
                ]
                return "ready" if tags.get("anyscale-core-target") in healthy else "pending"
        return "pending"

    def _endpoints(self) -> Iterator[Item]:
        elb = self._account.elb
        for kind, found in (("balancer", elb.load_balancers), ("targets", elb.target_groups)):
            for each in found.values():
                yield Item(kind=kind, id=each.arn, tags=elb.tagging_service.get_tag_dict_for_resource(each.arn))

    def _identities(self) -> Iterator[Item]:
        iam = self._account.iam
        for profile in iam.instance_profiles.values():
            path = Path.parse(profile.path)
            name = "" if path is None else path.name
            yield Item(
                kind="identity",
                id=profile.arn,
                name=name,
                tags=_iam_tags(profile),
                detail={"roles": " ".join(sorted(role.name for role in profile.roles))},
            )
        for role in iam.roles.values():
            if role.name == ROLE:
                continue
            yield Item(
                kind="role",
                id=role.arn,
                tags=_iam_tags(role),
                detail={"trust": json.dumps(sts.document(role), sort_keys=True)},
            )
            for policy, text in role.policies.items():
                yield self._grant(role, policy, text)

    def _grant(self, role: Any, policy: str, text: Any) -> Item:
        document = json.loads(text) if isinstance(text, str) else text
        parsed = GrantName.parse(policy)
        bucket, _, prefix = document["Statement"][0]["Resource"].partition(":::")[2].partition("/")
        plain = re.sub(r"\$\{([*?$])\}", r"\1", prefix.removesuffix("*"))
        access = parsed.access.value if parsed is not None else Access.READ.value
        holders = [
            path.name
            for profile in self._account.iam.instance_profiles.values()
            if any(each.name == role.name for each in profile.roles) and (path := Path.parse(profile.path)) is not None
        ]
        if not holders and (path := Path.parse(role.path)) is not None:
            holders = [path.name]
        return Item(
            kind="grant",
            id=holders[0] if holders else SOMEBODY,
            name=f"{bucket}/{plain}",
            state=access,
            detail={"policy": policy},
        )

    def _buckets(self) -> Iterator[Item]:
        s3 = self._account.s3
        for bucket in s3.buckets.values():
            tags = s3.tagger.get_tag_dict_for_resource(bucket.arn)
            keys = sorted(bucket.keys.keys())
            block = bucket.public_access_block
            detail = {
                "keys": " ".join(keys),
                "public": "no" if block is not None and block.restrict_public_buckets else "yes",
            }
            kind = "bucket" if tags.get("anyscale-core-kind") else "foreign bucket"
            yield Item(kind=kind, id=bucket.arn, name=tags.get(TAG_NAME, bucket.name), tags=tags, detail=detail)
            for id in bucket.multiparts:
                yield Item(kind="upload", id=id)


ROLE = "control-plane"
"""The role in the customer's account that the control plane assumes."""
SOMEBODY = "somebody-else"


class AwsKit(Kit):
    """Simulated AWS: the control plane in an account of its own, and a customer's account for every row."""

    name = NAME
    modes = frozenset({Mode.EMULATOR})
    untaggable = frozenset({"grant", "rule"})
    sdks = ("boto3", "botocore")
    image_uri = "registry.invalid/conformance:1"
    many = 5
    patience = timedelta(minutes=10)

    def __init__(self, scope: RunScope) -> None:
        super().__init__(scope)
        self.clock = self.manual = ManualClock()
        self.simulator = simulator()
        number = int(hashlib.sha256(f"{scope.run}/{scope.row}/{scope.home}".encode()).hexdigest(), 16)
        self.account = self.simulator.account(
            f"{100_000_000_000 + number % 800_000_000_000}", region=REGION, clock=self.clock
        )
        self.account.images.update({IMAGE: "arm64", IMAGE_X86: "x86_64"})
        plane = self.simulator.account(PLANE_ACCOUNT, region=REGION)
        self.key = self.simulator.issue(plane.administrator("plane"))
        self._add_role()
        self._carrier = Carrier(self.clock, codes=CODES)
        self._machines: dict[str, Key] = {}
        self._machine: Key | None = None
        self._oracle = AccountOracle(self.account)

    def provider(self) -> Provider:
        provider = anyscale_provider()
        return attrs.evolve(
            provider,
            cluster=lambda config: AwsCluster(config, self._session),
            identity=lambda config: AwsIdentity(config, self._session),
            storage=lambda config: AwsStorage(config, self._session),
            networking=lambda config: AwsNetworking(config, self._session),
        )

    def config(self) -> DriverConfig:
        settings = {
            "role_arn": f"arn:aws:iam::{self.account.id}:role/{ROLE}",
            "external_id": EXTERNAL_ID,
            "endpoint_url": self.simulator.url,
            "image": IMAGE_X86,
            "image_arm64": IMAGE,
            "images": {self.image_uri: IMAGE},
            "zones": [f"{REGION}a", f"{REGION}b"],
            "endpoint": "nlb",
        }
        return attrs.evolve(super().config(), region=REGION, settings=settings)

    def samples(self) -> Samples:
        owner = self.scope.owner
        bootstrap = Bootstrap(
            url="https://127.0.0.1:1", ca_pem="", node_id=NodeId("sample"), join_token=Secret("sample"),
            identity_provider=NAME,
        )  # fmt: skip
        instance = InstanceSpec(
            name="sample", node_id=NodeId("sample"), owner=owner, kind=NodeKind.WORKER, group="workers",
            instance_type=TYPE, bootstrap=bootstrap,
        )  # fmt: skip
        endpoint = EndpointSpec(name="sample", owner=owner, network="", target_address="10.0.0.9", target_port=8443)
        return Samples(
            instance=instance, identity=IdentitySpec(name="sample", owner=owner), bucket=BucketSpec(name="sample"),
            network=NetworkSpec(name="sample"), endpoint=endpoint, account=self.account.id,
        )  # fmt: skip

    def oracle(self) -> AccountOracle:
        return self._oracle

    def carrier(self) -> Carrier:
        return self._carrier

    def wire_codes(self) -> Iterator[WireCode]:
        for code, meaning in TRANSLATE.items():
            yield WireCode(code=code, category=meaning.error, reason=meaning.reason, translate=partial(_told, code))

    def permission_of(self, action: str) -> str:
        service, _, operation = action.partition(".")
        if service == "sts":
            return ""
        if service == "s3":
            return buckets.permission_of(operation)
        names = {
            "elastic-load-balancing-v2": "elasticloadbalancing", "elbv2": "elasticloadbalancing",
            "resource-groups-tagging-api": "tag", "resourcegroupstaggingapi": "tag", "service-quotas": "servicequotas",
        }  # fmt: skip
        return f"{names.get(service, service)}:{operation}"

    def proving_subject(self, ctx: Any) -> str:
        """Let this process be on a new machine; return its instance id, which is what STS says of it."""
        life_id = str(ctx.subject("cluster").make().id)
        self._machine = self._credentials_of(life_id)
        self._machines[life_id] = self._machine
        return life_id

    def hands(self) -> Mapping[Hand, Callable[..., Any]]:
        account = self.account

        def one(name: str) -> Any:
            for life in account.lives.values():
                member = member_of(account.ec2.tags.get(life.id, {}), life.index)
                if life.ended is None and member is not None and member.name == name:
                    return life
            raise LookupError(f"no instance {name} lives")

        def protect(name: str, *, is_protected: bool) -> None:
            one(name).protected = is_protected

        return {
            Hand.SELL_OUT: self._sell_out,
            Hand.RESTOCK: self._restock,
            Hand.LIMIT: lambda count: account.quotas.update({"L-1216C47A": float(count)}),
            Hand.KILL: lambda name: account.vanish(one(name)),
            Hand.STOP: lambda name: account.stop(one(name)),
            Hand.ANNOUNCE: lambda name: account.interrupt(one(name)),
            Hand.ADD_DUPLICATE: lambda name: compute.double(account, name),
            Hand.PROTECT: partial(protect, is_protected=True),
            Hand.RELEASE: partial(protect, is_protected=False),
            Hand.OFFER: self._offer,
            Hand.SPOIL: self._spoil,
            Hand.FILL: self._fill,
            Hand.MAY: self._may,
            Hand.SHARE: self._share,
            Hand.FOREIGN_PROOF: self._foreign_proof,
            Hand.USE_URL: _use_url,
        }

    def close(self) -> None:
        self.simulator.drop(self.account)
        self.simulator.keys.pop(self.key.id, None)

    # Below the hands ------------------------------------------------------------------------------------------------

    def _session(self) -> Any:
        """Return a session of the control plane's own credentials (or the machine's), with the faults below it."""
        session = client.new_session()
        key = self._machine or self.key
        session.set_credentials(key.id, key.secret, key.session_token or None)
        self._carrier.attach(session)
        return session

    def _add_role(self) -> None:
        trust = {
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{PLANE_ACCOUNT}:root"}, "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:ExternalId": EXTERNAL_ID}},
            }],
        }  # fmt: skip
        self.account.iam.create_role(
            role_name=ROLE, assume_role_policy_document=json.dumps(trust), path="/", permissions_boundary=None,
            description="", tags=[], max_session_duration="3600",
        )  # fmt: skip
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        self.account.iam.put_role_policy(ROLE, "everything", json.dumps(everything))

    def _credentials_of(self, instance: str) -> Key:
        return sts.session(self.simulator, self.account, "node", instance, timedelta(hours=6))

    def _sell_out(self, instance_type: str, zone: str | None = None) -> None:
        # A stockout shows in no catalogue of EC2; what a zone does not offer any more does.
        self.account.sold_out.add((instance_type, zone or ""))
        self.account.withdrawn.add((instance_type, zone or ""))

    def _restock(self) -> None:
        self.account.sold_out.clear()
        self.account.withdrawn.clear()

    def _offer(self, kind: str) -> str:
        account = self.account
        if kind == "network":
            vpc = account.ec2.create_vpc("10.250.0.0/16")
            for number, zone in enumerate(account.zones[:2]):
                account.ec2.create_subnet(vpc.id, f"10.250.{number}.0/24", availability_zone=zone)
            return str(vpc.id)
        if kind == "bucket":
            name = f"theirs-{account.id}"
            bucket = account.s3.create_bucket(name, REGION)
            bucket.public_access_block = buckets.PublicAccessBlock("true", "true", "true", "true")
            return f"s3://{name}"
        if kind == "identity":
            trust = {
                "Version": "2012-10-17",
                "Statement": [
                    {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
                ],
            }
            role = account.iam.create_role(
                role_name="theirs", assume_role_policy_document=json.dumps(trust), path="/", permissions_boundary=None,
                description="", tags=[], max_session_duration="3600",
            )  # fmt: skip
            return str(role.arn)
        missing = {"no network": "vpc-00000000000000000", "no bucket": "s3://theirs-and-not-there"}
        return missing.get(kind, f"arn:aws:iam::{account.id}:role/not-there")

    def _spoil(self, network: str) -> None:
        """Let the nodes of a network not reach each other any more."""
        for groups in self.account.ec2.groups.values():
            for group in groups.values():
                tags = self.account.ec2.tags.get(group.id, {})
                if tags.get(TAG_NAME) == network and tags.get("anyscale-core-kind") == "nodes":
                    group.ingress_rules.clear()

    def _fill(self, network: str) -> None:
        for zoned in self.account.ec2.subnets.values():
            for subnet in zoned.values():
                if self.account.ec2.tags.get(subnet.id, {}).get(TAG_NAME) == network:
                    self.account.full.add(subnet.id)

    def _may(self, identity: str, bucket: str, key: str, access: Access) -> bool:
        role = profile_name(self.scope.owner, identity)
        documents = self.account.policies_of(role)
        operations = ("PutObject", "DeleteObject") if access is Access.WRITE else ("GetObject",)
        return all(buckets.may(self.account, list(documents), each, bucket, key, {}) for each in operations)

    def _share(self, bucket: str, prefix: str) -> None:
        statement = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": f"arn:aws:s3:::{bucket}/{prefix}*"}
        trust = {"Version": "2012-10-17", "Statement": []}
        self.account.iam.create_role(
            role_name=SOMEBODY, assume_role_policy_document=json.dumps(trust), path="/", permissions_boundary=None,
            description="", tags=[], max_session_duration="3600",
        )  # fmt: skip
        self.account.iam.put_role_policy(
            SOMEBODY, "theirs", json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        )

    def _foreign_proof(self, audience: str, subject: str) -> Proof:
        """Prove by a machine of another account."""
        other = self.simulator.account("888888888888", region=REGION, clock=self.clock)
        key = sts.session(self.simulator, other, "node", subject, timedelta(hours=1))
        before, self._machine = self._machine, key
        try:
            deadline = self.clock.now() + timedelta(minutes=1)
            proof = AwsIdentity(self.config(), self._session).prove(audience, subject=subject, deadline=deadline)
        finally:
            self._machine = before
        return proof


def _iam_tags(thing: Any) -> dict[str, str]:
    found = getattr(thing, "tags", None) or {}
    if isinstance(found, Mapping):
        return {key: each["Value"] if isinstance(each, Mapping) else str(each) for key, each in found.items()}
    return {each["Key"]: each["Value"] for each in found}


def _told(code: str) -> CloudError:
    response = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": 400, "RequestId": "r"}}
    return from_response(response, "Operation", clock=ManualClock())


def _use_url(url: str, method: str, body: bytes = b"") -> tuple[int, bytes]:
    import http.client

    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", body=body if method == "PUT" else None)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


__all__ = ["CAPABILITIES", "AccountOracle", "AwsKit", "NetworkMode", "simulator"]
