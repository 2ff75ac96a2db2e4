"""What is looked at when a network is looked over: nothing is changed, and each thing that is not right has its remedy."""

from collections.abc import Iterator
from datetime import datetime

from anyscale_core.errors import NotFound
from anyscale_core.models.networking import Check, CheckStatus
from anyscale_kubernetes.client import Api
from anyscale_kubernetes.config import Settings
from anyscale_kubernetes.kinds import GATEWAY, INGRESS_CLASS, NETWORK_POLICY
from anyscale_kubernetes.records import find, is_adopted
from anyscale_kubernetes.tags import Body


def checks_of(api: Api, settings: Settings, record: Body, *, deadline: datetime) -> tuple[Check, ...]:
    """Return each thing that was looked at. Raises CloudError when it could not be looked at."""
    return (_policy(api, record, deadline), *_routing(api, settings, deadline))


def _policy(api: Api, record: Body, deadline: datetime) -> Check:
    name = record["data"]["adopted"] if is_adopted(record) else record["metadata"]["name"]
    there = find(api, NETWORK_POLICY, name, deadline=deadline) is not None
    return Check(
        id="network.policy",
        status=CheckStatus.PASSED if there else CheckStatus.FAILED,
        detail=f"the NetworkPolicy {name} is {'there' if there else 'not there: everybody in the cluster comes in'}",
        remedy="" if there else "create the network again with its token, or make the policy that was adopted",
    )


def _routing(api: Api, settings: Settings, deadline: datetime) -> Iterator[Check]:
    id = "network.route"
    if settings.route in ("service", "loadbalancer"):
        yield Check(id=id, status=CheckStatus.PASSED, detail=f"heads are reached by a Service ({settings.route})")
        return
    try:
        found, what = _server(api, settings, deadline)
    except NotFound as error:
        yield Check(id=id, status=CheckStatus.FAILED, detail=error.message, remedy=error.hint)
        return
    if found is None:
        remedy = "install what serves it, or mend the settings 'gateway' and 'ingress_class'"
        yield Check(id=id, status=CheckStatus.FAILED, detail=f"there is no {what}", remedy=remedy)
        return
    conditions = {each.get("type"): each for each in (found.get("status") or {}).get("conditions") or ()}
    programmed = conditions.get("Programmed", {"status": "True"})
    if programmed.get("status") == "True":
        yield Check(id=id, status=CheckStatus.PASSED, detail=f"{what} is there")
        return
    detail = (
        f"{what} is not programmed: {programmed.get('message') or programmed.get('reason') or 'it does not say why'}"
    )
    yield Check(id=id, status=CheckStatus.FAILED, detail=detail, remedy="see what its controller logs")


def _server(api: Api, settings: Settings, deadline: datetime) -> tuple[Body | None, str]:
    gateway = settings.gateway
    if settings.route == "httproute" and gateway is not None:
        place = gateway.namespace or api.namespace
        found = find(api, GATEWAY, gateway.name, namespace=place, deadline=deadline)
        return found, f"the Gateway {place}/{gateway.name}"
    found = find(api, INGRESS_CLASS, settings.ingress_class, deadline=deadline)
    return found, f"the IngressClass {settings.ingress_class}"
