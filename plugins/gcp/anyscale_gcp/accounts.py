"""Service accounts as identities: what they are called, and what their descriptions remember.

A service account has no labels. Its display name is the identity's name, its description (256 bytes) says whose it is. One
that was adopted is remembered by a service account of ours that has no rights and names it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import attrs

from anyscale_core.errors import InvalidRequest, NotFound
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId
from anyscale_core.models.owner import Owner
from anyscale_gcp.client import SCOPES, Client
from anyscale_gcp.tags import brief, owner_mark

PREFIX = "ac-"
MARK = "anyscale-core"
DESCRIPTION_MAX = 256
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
PAGE = 100
"""The most that IAM puts on a page."""
EMAIL = re.compile(r"[a-z0-9.-]+@[a-z0-9.:-]+\.gserviceaccount\.com")


@attrs.frozen(kw_only=True)
class Account:
    """A service account that stands for an identity. ``token`` and ``wanted``: hashes of what it was made by and as.

    ``adopts``: the email of the customer's account that it stands for; empty when it is the identity itself.
    """

    name: str
    owner: Owner
    token: str
    wanted: str
    email: str
    adopts: str = ""
    has_subjects: bool = False

    @property
    def acting(self) -> str:
        """The email of the account that workloads run as."""
        return self.adopts or self.email

    @property
    def member(self) -> str:
        """The account as a policy names it."""
        return f"serviceAccount:{self.acting}"


def account_id(owner: Owner, name: str) -> str:
    """Return the id of an identity's service account: 29 letters and digits, the same in every process."""
    return f"{PREFIX}{owner_mark(owner)}-{brief(name)[:15]}"


def email(project: str, owner: Owner, name: str) -> str:
    """Return the email of an identity's service account."""
    return f"{account_id(owner, name)}@{project}.iam.gserviceaccount.com"


def home(email: str) -> str:
    """Return what IAM calls a service account of any project: by the project of its address, where that tells."""
    project, _, rest = email.partition("@")[2].partition(".")
    return path(project if rest == "iam.gserviceaccount.com" else "-", email)


def path(project: str, email: str) -> str:
    """Return what IAM calls a service account."""
    return f"projects/{project}/serviceAccounts/{email}"


def description(account: Account) -> str:
    """Return what an account's description says. Raises InvalidRequest when it does not fit."""
    cluster = account.owner.cluster or "-"
    flags = "subjects" if account.has_subjects else "-"
    words = (
        MARK,
        account.owner.plane,
        account.owner.cloud,
        cluster,
        account.token,
        account.wanted,
        flags,
        account.adopts,
    )
    text = " ".join(word for word in words if word)
    if len(text.encode()) > DESCRIPTION_MAX:
        raise InvalidRequest(
            f"whose {account.name} is takes {len(text)} of the {DESCRIPTION_MAX} bytes of a description", reason="NAME",
            resource=account.name, hint="use shorter names of the cloud and the cluster",
        )  # fmt: skip
    return text


def parse(item: Mapping[str, Any]) -> Account | None:
    """Return the account that IAM shows; None for one that is not ours."""
    words = str(item.get("description", "")).split()
    if len(words) not in (7, 8) or words[0] != MARK:
        return None
    _, plane, cloud, cluster, token, wanted, flags, *adopts = words
    owner = Owner(plane=PlaneId(plane), cloud=CloudName(cloud), cluster=None if cluster == "-" else ClusterId(cluster))
    return Account(
        name=str(item.get("displayName", "")), owner=owner, token=token, wanted=wanted, email=str(item["email"]),
        adopts=adopts[0] if adopts else "", has_subjects=flags == "subjects",
    )  # fmt: skip


def find(client: Client, name: str, *, owner: Owner, deadline: datetime) -> Account | None:
    """Return an identity's account, whichever cluster of the owner's plane and cloud has it; None when there is none."""
    project = client.settings.project
    try:
        item = client.call(
            "iam.projects.serviceAccounts.get", name=path(project, email(project, owner, name)), about=name,
            deadline=deadline,
        )  # fmt: skip
    except NotFound:
        return None
    found = parse(item)
    return found if found is not None and (found.owner.plane, found.owner.cloud) == (owner.plane, owner.cloud) else None


def every(client: Client, owner: Owner, *, deadline: datetime) -> Iterator[Account]:
    """Yield every account of the owner's plane and cloud, each once."""
    seen: set[str] = set()
    project = client.settings.project
    pages = client.pages(
        "iam.projects.serviceAccounts.list", name=f"projects/{project}", pageSize=PAGE, deadline=deadline
    )
    for page in pages:
        for item in page.get("accounts", ()):
            found = parse(item)
            if found is None or found.email in seen:
                continue
            if (found.owner.plane, found.owner.cloud) == (owner.plane, owner.cloud):
                seen.add(found.email)
                yield found


def access_token(client: Client, email: str, *, deadline: datetime) -> tuple[str, datetime]:
    """Return an access token of a service account, and when it expires: in an hour."""
    answer = client.call(
        "iamcredentials.projects.serviceAccounts.generateAccessToken", name=path("-", email), about=email,
        body={"scope": list(SCOPES)}, deadline=deadline,
    )  # fmt: skip
    return str(answer["accessToken"]), datetime.fromisoformat(answer["expireTime"])


def narrowed(client: Client, token: str, boundary: Mapping[str, Any], *, about: str, deadline: datetime) -> str:
    """Return an access token that may do no more than a boundary holds, and ends when the one that was given does."""
    body = {
        "grantType": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requestedTokenType": ACCESS_TOKEN,
        "subjectTokenType": ACCESS_TOKEN,
        "subjectToken": token,
        "options": json.dumps(boundary),
    }
    return str(client.call("sts.v1.token", body=body, about=about, deadline=deadline)["access_token"])
