"""IAM: when things were made, by the account's own clock, when EC2 comes to know of them, and how much a role holds."""

from typing import TYPE_CHECKING

from anyscale_conformance.simulators.aws.signing import Refusal
from anyscale_conformance.simulators.aws.wire import Answer

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import Exchange

INLINE_MAX = 10_240
"""IAM User Guide, "IAM and AWS STS quotas"."""


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


def put_role_policy(exchange: "Exchange") -> Answer:
    """Answer PutRolePolicy: the inline policies of a role have so many characters together, blanks aside."""
    params = exchange.params
    name, policy = params.one("RoleName"), params.one("PolicyName")
    role = next((each for each in exchange.account.iam.roles.values() if each.name == name), None)
    others = [] if role is None else [text for known, text in role.policies.items() if known != policy]
    size = sum(len("".join(str(text).split())) for text in (*others, params.one("PolicyDocument")))
    if size > INLINE_MAX:
        raise Refusal(
            "LimitExceeded", f"Maximum policy size of {INLINE_MAX} bytes exceeded for role {name}", status=409
        )
    return exchange.inner()


HANDLERS = {
    ("iam", "CreateRole"): create_role,
    ("iam", "CreateInstanceProfile"): create_profile,
    ("iam", "PutRolePolicy"): put_role_policy,
}
