"""The Resource Groups Tagging API: what has which tags, over all services."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from anyscale_conformance.simulators.aws.accounts import Account
from anyscale_conformance.simulators.aws.signing import Refusal
from anyscale_conformance.simulators.aws.wire import Answer, json_answer

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import Exchange

KINDS = {
    "i-": "instance", "vol-": "volume", "eni-": "network-interface", "vpc-": "vpc", "subnet-": "subnet",
    "sg-": "security-group", "igw-": "internet-gateway", "rtb-": "route-table", "vpce-": "vpc-endpoint",
}  # fmt: skip
PAGE = 100


def get_resources(exchange: "Exchange") -> Answer:
    """Answer GetResources."""
    account, asked = exchange.account, json.loads(exchange.body or b"{}")
    size = int(asked.get("ResourcesPerPage", PAGE))
    if not 1 <= size <= PAGE:
        raise Refusal("InvalidParameterException", "ResourcesPerPage must be between 1 and 100")
    types = asked.get("ResourceTypeFilters", [])
    found: list[dict[str, Any]] = [
        {"ResourceARN": arn, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        for type, arn, tags in _everything(account)
        if tags
        and (not types or any(type == each or type.startswith(f"{each}:") for each in types))
        and all(
            each["Key"] in tags and (not each.get("Values") or tags[each["Key"]] in each["Values"])
            for each in asked.get("TagFilters", [])
        )
    ]
    token = asked.get("PaginationToken", "")
    page, token = account.page(found, size=size, token=token, key=lambda each: str(each["ResourceARN"]))
    return json_answer({"ResourceTagMappingList": page, "PaginationToken": token})


def _everything(account: Account) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    for id, tags in account.ec2.tags.items():
        kind = next((kind for prefix, kind in KINDS.items() if id.startswith(prefix)), "")
        if kind:
            yield f"ec2:{kind}", f"arn:aws:ec2:{account.region}:{account.id}:{kind}/{id}", tags
    for name, bucket in account.s3.buckets.items():
        if bucket.region_name == account.region:
            yield "s3", f"arn:aws:s3:::{name}", account.s3.tagger.get_tag_dict_for_resource(bucket.arn)
    for arn in (*account.elb.load_balancers, *account.elb.target_groups):
        kind = "loadbalancer" if ":loadbalancer/" in arn else "targetgroup"
        yield f"elasticloadbalancing:{kind}", arn, account.elb.tagging_service.get_tag_dict_for_resource(arn)


HANDLERS = {("tagging", "GetResources"): get_resources}
