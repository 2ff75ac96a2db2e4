"""What is really there, as the conformance kit sees it: it looks into the simulated account, past the drivers and the API."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from anyscale_conformance.kit import Item
from anyscale_conformance.simulators.aws import Account, balancers, sts

from anyscale_aws.grants import GrantName
from anyscale_aws.names import Path
from anyscale_aws.tags import member_of, shown
from anyscale_core.models.identity import Access
from anyscale_core.models.owner import TAG_NAME, TAG_NODE

STATES = {"shutting-down": "deleting", "stopping": "stopped"}
ROLE = "control-plane"
"""The role in the customer's account that the control plane assumes; it is no identity."""
SOMEBODY = "somebody-else"
"""Whom ``Hand.SHARE`` lets in: a principal of a bucket's policy."""


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

    def name_of(self, bucket: str) -> str:
        """Return what the drivers call a bucket; its own name where they have nothing to do with it."""
        found = self._account.s3.buckets.get(bucket)
        tags = {} if found is None else self._account.s3.tagger.get_tag_dict_for_resource(found.arn)
        return str(tags.get(TAG_NAME, bucket))

    def place_of(self, name: str) -> str:
        """Return where a bucket is that the drivers call so."""
        return next((place for place in self._account.s3.buckets if self.name_of(place) == name), name)

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
            yield _part("volume", volume.id, self._tags(volume.id))
        for eni in account.ec2.enis.values():
            yield _part("interface", eni.id, self._tags(eni.id))

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
                    yield _part("subnet", subnet.id, self._tags(subnet.id))
        for gateway in ec2.internet_gateways.values():
            if gateway.vpc is None or gateway.vpc.id not in default:
                yield _part("gateway", gateway.id, self._tags(gateway.id))
        for end in ec2.vpc_end_points.values():
            if end.state != "deleted":
                yield _part("vpce", end.id, self._tags(end.id))
        for groups in list(ec2.groups.values()):
            for group in groups.values():
                if group.name != "default":
                    yield from self._group(group)

    def _group(self, group: Any) -> Iterator[Item]:
        tags = self._tags(group.id)
        kind = tags.get("anyscale-core-kind", "")
        if kind == "adopted":
            yield _part("network", group.id, tags)
        elif kind != "endpoint":
            yield _part("group", group.id, tags)
        else:
            yield Item(
                kind="endpoint", id=group.id, name=tags.get(TAG_NAME, ""), tags=shown(tags), state=self._way_state(tags),
                detail={"target": tags.get("anyscale-core-target", "")},
            )  # fmt: skip
        for rule in group.ingress_rules:
            source = rule.ip_range.get("CidrIp") or rule.source_group.get("GroupId", "")
            own = self._tags(rule.id) or tags
            yield _part("rule", f"{group.id}/{rule.from_port}/{source}", own, **{"from": source})

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
                yield _part(kind, each.arn, elb.tagging_service.get_tag_dict_for_resource(each.arn))

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
            yield _part("role", role.arn, _iam_tags(role), trust=json.dumps(sts.document(role), sort_keys=True))
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
            name=f"{self.name_of(bucket)}/{plain}",
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
            yield from self._shared(bucket)

    def _shared(self, bucket: Any) -> Iterator[Item]:
        """Yield whom the bucket's own policy lets in."""
        document = json.loads(getattr(bucket, "own_policy", None) or '{"Statement": []}')
        for statement in document["Statement"]:
            if statement["Effect"] == "Allow":
                principal = statement["Principal"]["AWS"].rpartition("/")[2]
                _, _, prefix = statement["Resource"].removesuffix("*").partition("/")
                name = f"{self.name_of(bucket.name)}/{prefix}"
                yield Item(kind="grant", id=principal, name=name, state=Access.READ.value)


def _part(kind: str, id: str, tags: Mapping[str, str], **detail: str) -> Item:
    """Return something that belongs to what its name says."""
    return Item(kind=kind, id=id, name=tags.get(TAG_NAME, ""), tags=tags, detail=detail)


def _iam_tags(thing: Any) -> dict[str, str]:
    found = getattr(thing, "tags", None) or {}
    if isinstance(found, Mapping):
        return {key: each["Value"] if isinstance(each, Mapping) else str(each) for key, each in found.items()}
    return {each["Key"]: each["Value"] for each in found}
