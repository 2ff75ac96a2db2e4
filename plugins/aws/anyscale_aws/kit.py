"""The conformance kit of this provider: the suite's simulated AWS, one account a row. Its oracle looks into the simulator.

Nothing of the plugin imports this module; ``anyscale-conformance run --provider aws --mode E`` finds it by its entry point.
"""

import atexit
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any

import attrs
from anyscale_conformance.browser import use_url
from anyscale_conformance.faults.http import WireRequest
from anyscale_conformance.faults.http_botocore import BotocoreCarrier
from anyscale_conformance.faults.plan import Effect, Fault
from anyscale_conformance.kit import Kit, Mode, RunScope, Samples, WireCode
from anyscale_conformance.rules import Hand
from anyscale_conformance.simulators.aws import Account, AwsSimulator, Key, Spoilt, buckets, compute, sts

from anyscale_aws import client
from anyscale_aws.cluster import AwsCluster
from anyscale_aws.config import read_settings
from anyscale_aws.errors import TRANSLATE, from_response
from anyscale_aws.identity import AwsIdentity
from anyscale_aws.kit_oracle import ROLE, SOMEBODY, AccountOracle
from anyscale_aws.names import profile_name
from anyscale_aws.networking import AwsNetworking
from anyscale_aws.plugin import NAME, anyscale_provider
from anyscale_aws.storage import AwsStorage
from anyscale_aws.tags import member_of
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import CloudError
from anyscale_core.hookspecs import Provider
from anyscale_core.models.identity import Access, IdentitySpec, Proof
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
from anyscale_core.models.networking import EndpointSpec, NetworkSpec
from anyscale_core.models.owner import TAG_NAME
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import BucketSpec
from anyscale_core.testing.clock import ManualClock

REGION = "us-west-2"
EXTERNAL_ID = "org-conformance"
PLANE_ACCOUNT = "999999999999"
TYPE, IMAGE, IMAGE_X86 = "m7g.medium", "ami-0c0ffee0c0ffee000", "ami-0c0ffee0c0ffee086"
"""One vCPU, so that a quota of vCPUs is one of instances."""
PAGE = 8
"""Things on a page of any list: so few that the suite's longest lists have several."""
OUR_TOKEN = re.compile(
    rb"anyscale-core-token(?:</Key><Value>|[^&]*&[^=]*Value=)([0-9a-f]{20})|PolicyName=ac\.(?:\w+\.){3}([0-9a-f]{20})\."
)
"""Where a digest of our token is on the wire: among the tags of what is made, and in the name of a grant."""
CODES = {
    **{
        f"{service}:Conflict(ETAG)": (412, "PreconditionFailed")
        for service in ("ec2", "elastic-load-balancing-v2", "iam", "s3")
    },
    **{f"{service}:Transient(PROPAGATION)": (428, "ResourcePropagationDelayException") for service in ("iam", "s3")},
    "CapacityUnavailable(SKU)": (400, "UnsupportedAvailabilityZoneException"),
}
"""Where a service has no word of its own, the one that means it wherever it comes."""
SPOILT = {
    Effect.REPEAT_PAGE: Spoilt.REPEATED,
    Effect.EXPIRE_PAGE: Spoilt.EXPIRED,
    Effect.EMPTY_PAGE: Spoilt.EMPTY,
}
STATES = {"shutting-down": "deleting", "stopping": "stopped"}


@cache
def simulator() -> AwsSimulator:
    """Return the one simulator of this process."""
    found = AwsSimulator()
    atexit.register(found.close)
    return found


class Carrier(BotocoreCarrier):
    """Where AWS has no client token, ours is in what the creating call writes; pages are spoilt by the simulator itself."""

    effects = frozenset(Effect)

    def __init__(self, account: Account) -> None:
        super().__init__(account.clock, codes=CODES)
        self._account = account

    def meet(self, request: WireRequest) -> Fault | None:
        fault = super().meet(request)
        if fault is None or fault.effect not in SPOILT:
            return fault
        self._account.spoilt = SPOILT[fault.effect]
        return None

    def _wired(self, request: Any, event_name: str) -> WireRequest:
        wired = super()._wired(request, event_name)
        body = request.body.encode() if isinstance(request.body, str) else request.body
        found = OUR_TOKEN.search(body) if isinstance(body, bytes) else None
        return attrs.evolve(wired, token=(found[1] or found[2]).decode()) if found is not None else wired


class ProvingIdentity(AwsIdentity):
    """The driver as a control plane has it, but for ``prove``: that is done on the machine which is to be proven."""

    def __init__(self, config: DriverConfig, sessions: client.Sessions, on: Callable[[str], client.Sessions]) -> None:
        super().__init__(config, sessions)
        self._on = on

    def prove(self, audience: str, *, subject: str, deadline: datetime) -> Proof:
        node = AwsIdentity(self._config, self._on(subject))
        try:
            return node.prove(audience, subject=subject, deadline=deadline)
        finally:
            node.close()


class AwsKit(Kit):
    """Simulated AWS: the control plane in an account of its own, and a customer's account for every row."""

    name = NAME
    modes = frozenset({Mode.EMULATOR})
    untaggable = frozenset({"grant", "rule"})
    unseen = frozenset(
        {
            # Asked of the same request as RunInstances, CreateInstanceProfile, CreateRole and CreateBucket:
            "iam:PassRole", "iam:TagInstanceProfile", "iam:TagRole", "s3:TagResource",
            # Where a network is public or names no zone; something is adopted, has grants, was left half made, or is SPOT; and
            # where a quota is spent. `plugins/aws/tests` takes each away and looks for what fails.
            "ec2:AttachInternetGateway", "ec2:CreateInternetGateway", "ec2:CreateRoute", "ec2:DeleteInternetGateway",
            "ec2:DescribeAvailabilityZones", "ec2:DescribeSpotInstanceRequests", "ec2:DetachInternetGateway",
            "iam:DeleteRolePolicy", "iam:GetRole", "s3:GetBucketCORS", "s3:GetBucketLocation", "s3:GetBucketPolicy",
            "s3:GetBucketPublicAccessBlock", "s3:GetLifecycleConfiguration", "s3:PutBucketCORS", "s3:PutBucketTagging",
            "servicequotas:ListServiceQuotas",
        }
    )  # fmt: skip
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
        self.account.page_size = PAGE
        plane = self.simulator.account(PLANE_ACCOUNT, region=REGION)
        self.key = self.simulator.issue(plane.administrator("plane"))
        self._add_role()
        self._carrier = Carrier(self.account)
        self._machines: dict[str, Key] = {}
        self._sessions: dict[str, Any] = {}
        self._oracle = AccountOracle(self.account)
        config = self.config()
        self._door = client.Aws.shared(read_settings(config), config.region, config.clock, self._session)
        """Held for the length of the row: making clients and credentials anew at each restart takes longer than the checks."""

    def provider(self) -> Provider:
        provider = anyscale_provider()
        return attrs.evolve(
            provider,
            cluster=lambda config: AwsCluster(config, self._session),
            identity=lambda config: ProvingIdentity(config, self._session, self._sessions_on),
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
        instance = str(ctx.subject("cluster").make().id)
        self._machines[instance] = sts.session(self.simulator, self.account, "node", instance, timedelta(hours=6))
        return instance

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
            Hand.USE_URL: use_url,
        }

    def close(self) -> None:
        self._door.close()
        self.simulator.drop(self.account)
        self.simulator.keys.pop(self.key.id, None)

    # Below the hands ------------------------------------------------------------------------------------------------

    def _session(self) -> Any:
        """Return a session with the control plane's own credentials, with the faults below it."""
        return self._session_of(self.key)

    def _sessions_on(self, machine: str) -> client.Sessions:
        """Return what makes sessions with the credentials of a machine that is to prove itself."""
        return partial(self._session_of, self._machines.get(machine, self.key))

    def _session_of(self, key: Key) -> Any:
        """Return the session of a key: making one takes longer than most requests."""
        if key.id not in self._sessions:
            session = self._sessions[key.id] = client.new_session()
            session.set_credentials(key.id, key.secret, key.session_token or None)
            self._carrier.attach(session)
        return self._sessions[key.id]

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
        return all(
            buckets.may(self.account, list(documents), each, self._oracle.place_of(bucket), key, {})
            for each in operations
        )

    def _share(self, bucket: str, prefix: str) -> None:
        """Let somebody else in by the bucket's own policy."""
        place = self._oracle.place_of(bucket)
        found = self.account.s3.buckets[place]
        document = json.loads(getattr(found, "own_policy", None) or '{"Version": "2012-10-17", "Statement": []}')
        principal = {"AWS": f"arn:aws:iam::{self.account.id}:role/{SOMEBODY}"}
        statement = {"Effect": "Allow", "Principal": principal, "Action": "s3:GetObject"}
        document["Statement"].append({**statement, "Resource": f"arn:aws:s3:::{place}/{prefix}*"})
        found.own_policy = json.dumps(document)

    def _foreign_proof(self, audience: str, subject: str) -> Proof:
        """Prove by a machine of another account."""
        other = self.simulator.account("888888888888", region=REGION, clock=self.clock)
        key = sts.session(self.simulator, other, "node", subject, timedelta(hours=1))
        node = AwsIdentity(self.config(), partial(self._session_of, key))
        return node.prove(audience, subject=subject, deadline=self.clock.now() + timedelta(minutes=1))


def _told(code: str) -> CloudError:
    response = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": 400, "RequestId": "r"}}
    return from_response(response, "Operation", clock=ManualClock())
