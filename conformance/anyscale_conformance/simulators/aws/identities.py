"""IAM: when things were made, by the account's own clock, and when EC2 comes to know of them."""

from typing import TYPE_CHECKING

from anyscale_conformance.simulators.aws.wire import Answer

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import Exchange


def create_role(exchange: "Exchange") -> Answer:
    """Answer CreateRole."""
    answer = exchange.inner()
    for role in exchange.account.iam.roles.values():
        if role.name == exchange.params.one("RoleName") and answer.status == 200:
            role.create_date = exchange.account.clock.now()
    return answer


def create_profile(exchange: "Exchange") -> Answer:
    """Answer CreateInstanceProfile."""
    account, name = exchange.account, exchange.params.one("InstanceProfileName")
    answer = exchange.inner()
    if answer.status == 200:
        account.profiles[name] = account.clock.now()
    return answer


HANDLERS = {("iam", "CreateRole"): create_role, ("iam", "CreateInstanceProfile"): create_profile}
