"""Pages of the lists that moto gives whole: as many things on each as the account's pages have, or as the request allows.

Sources: the API references of EC2 (``MaxResults``, ``NextToken``), IAM (``MaxItems``, ``Marker``, ``IsTruncated``) and Elastic
Load Balancing (``PageSize``, ``Marker``, ``NextMarker``). A service may give fewer things than it was asked for.
"""

import re
from functools import partial
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import attrs

from anyscale_conformance.simulators.aws.wire import Answer, paged

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import Exchange

XMLNS = re.compile(r"\{(.*)\}")


@attrs.frozen(kw_only=True)
class List:
    """A list of a service: which element holds its things, and what tells them apart.

    ``size``, ``token``: the parameters of a request. ``next``, ``truncated``: the elements that tell of more.
    """

    holder: str
    key: str
    size: str
    token: str
    next: str
    truncated: str = ""


def _ec2(holder: str, key: str) -> List:
    return List(holder=holder, key=key, size="MaxResults", token="NextToken", next="nextToken")


def _iam(holder: str, key: str = "") -> List:
    return List(holder=holder, key=key, size="MaxItems", token="Marker", next="Marker", truncated="IsTruncated")


def _elb(holder: str, key: str) -> List:
    return List(holder=holder, key=key, size="PageSize", token="Marker", next="NextMarker")


LISTS = {
    ("ec2", "DescribeVpcs"): _ec2("vpcSet", "vpcId"),
    ("ec2", "DescribeSubnets"): _ec2("subnetSet", "subnetId"),
    ("ec2", "DescribeSecurityGroups"): _ec2("securityGroupInfo", "groupId"),
    ("iam", "ListInstanceProfiles"): _iam("InstanceProfiles", "InstanceProfileName"),
    ("iam", "ListRolePolicies"): _iam("PolicyNames"),
    ("elasticloadbalancing", "DescribeLoadBalancers"): _elb("LoadBalancers", "LoadBalancerArn"),
    ("elasticloadbalancing", "DescribeTargetGroups"): _elb("TargetGroups", "TargetGroupArn"),
}


def page_of(exchange: "Exchange", list: List) -> Answer:
    """Answer with one page of what moto lists."""
    params, most = exchange.params, exchange.account.page_size
    answer = exchange.inner({name: value for name, value in params.form.items() if name not in (list.size, list.token)})
    if answer.status != 200:
        return answer
    root = ET.fromstring(answer.body)
    found = XMLNS.match(root.tag)
    stem = found[0] if found is not None else ""
    holder = next(root.iter(f"{stem}{list.holder}"), None)
    if holder is None:
        return answer
    things = [each for each in holder if _is_below(each, stem, params.one("PathPrefix", "/"))]
    size = min(int(params.one(list.size) or most), most)
    page, token = paged(
        things, size=size, token=params.one(list.token), key=lambda each: _text(each, f"{stem}{list.key}")
    )
    if len(page) == len(holder):
        return answer
    parent = next(each for each in root.iter() if holder in each)
    holder[:] = page
    for name, value in ((list.next, token), (list.truncated, "true" if token else "false")):
        for old in parent.findall(f"{stem}{name}") if name else ():
            parent.remove(old)
        if name and value:
            ET.SubElement(parent, f"{stem}{name}").text = value
    ET.register_namespace("", stem.strip("{}"))
    return attrs.evolve(answer, body=ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _text(thing: ET.Element, name: str) -> str:
    found = thing.find(name) if not name.endswith("}") else thing
    return "" if found is None else found.text or ""


def _is_below(thing: ET.Element, stem: str, prefix: str) -> bool:
    """Tell whether a thing of IAM is below a path; moto lists it in any case."""
    return prefix == "/" or _text(thing, f"{stem}Path").startswith(prefix)


HANDLERS = {asked: partial(page_of, list=list) for asked, list in LISTS.items()}
