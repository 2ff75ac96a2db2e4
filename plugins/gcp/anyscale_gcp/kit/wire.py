"""Faults below googleapiclient, told by the permissions that requests need and the tokens that things keep."""

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from anyscale_conformance.faults.http import WireRequest
from anyscale_conformance.faults.http_google import GoogleCarrier

from anyscale_gcp.kit.world import MACHINE, REGION


class GcpCarrier(GoogleCarrier):
    """Faults below googleapiclient; its actions are the permissions that requests need."""

    CODES = {**GoogleCarrier.CODES, "CapacityUnavailable(SKU)": (400, "invalid")}  # noqa: RUF012 - a table
    MESSAGES = {  # noqa: RUF012 - a table
        **GoogleCarrier.MESSAGES,
        "CapacityUnavailable(SKU)": f"Machine type with name '{MACHINE}' does not exist in zone '{REGION}-a'.",
    }

    def http(self, inner: Any) -> "WiredHttp":  # type: ignore[override]
        return WiredHttp(self, inner)


class WiredHttp:
    """One request's ``http``, whose request meets the plan first."""

    def __init__(self, carrier: GcpCarrier, inner: Any) -> None:
        self._carrier, self._inner = carrier, inner

    def request(self, uri: str, method: str = "GET", *args: Any, **kwargs: Any) -> Any:
        """Carry one request out as the plan says."""
        action = action_of(uri, method)
        wired = WireRequest(
            action=action, is_write=not READING.search(action), names=(urlsplit(uri).path,),
            token=_token_of(uri, kwargs.get("body")), timeout_s=self._inner.timeout,
        )  # fmt: skip
        return self._carrier.carry(wired, lambda: self._inner.request(uri, method, *args, **kwargs))


EXCHANGE = "sts.token"
"""Needs no permission: whoever shows a token may have a narrower one."""
READING = re.compile(r"\.(get|list|getIamPolicy|signBlob|getAccessToken|token)$|^$")
VERBS = {
    "generateAccessToken": "iam.serviceAccounts.getAccessToken", "signBlob": "iam.serviceAccounts.signBlob",
    "getIamPolicy": "iam.serviceAccounts.getIamPolicy", "setIamPolicy": "iam.serviceAccounts.setIamPolicy",
}  # fmt: skip
OF_MANY = {"GET": "list", "POST": "create"}
OF_ONE = {"GET": "get", "DELETE": "delete", "PATCH": "update"}
KEPT = re.compile(
    r'"anyscale-core-token": ?"(\w+)"|anyscale-core \S+ \S+ \S+ (\w{12}) '
    r'|"description": ?"(?:\w{10}\.\w{20} )*\w{10}\.(\w{20})"|\\"token\\": ?\\"(\w{20})\\"',
    re.ASCII,
)
"""Where labels, descriptions (of service accounts, of networks) and conditions of grants keep the hash of a token."""


def action_of(uri: str, method: str) -> str:
    """Return the permission that a request needs first of all; empty for one that needs none (a key set, metadata)."""
    path, _, verb = urlsplit(uri).path.partition(":")
    if verb:
        return VERBS[verb]
    if "/storage/v1/b" in path:
        words = path.partition("/storage/v1/")[2].split("/")[1:]
        if words[1:] == ["iam"]:
            return f"storage.buckets.{'get' if method == 'GET' else 'set'}IamPolicy"
        return f"storage.buckets.{(OF_ONE if words else OF_MANY)[method]}"
    if path.endswith("/v1/token"):
        return EXCHANGE
    if "/projects/" not in path:
        return ""
    words = [word for word in path.partition("/projects/")[2].split("/")[1:] if word not in ("global", "aggregated")]
    while words[0] in ("zones", "regions") and len(words) > 2:
        words = words[2:]
    kind = words[0]
    if kind == "operations":
        return "compute.globalOperations.list" if len(words) == 1 else "compute.zoneOperations.get"
    service = "iam" if kind == "serviceAccounts" else "compute"
    return f"{service}.{kind}.{(OF_ONE if len(words) > 1 else OF_MANY)[method]}"


def _token_of(uri: str, body: Any) -> str:
    """Return what a write is known again by: the request's id, or where an API has none the token that the thing keeps."""
    given = parse_qs(urlsplit(uri).query).get("requestId")
    if given:
        return given[0]
    text = body.decode() if isinstance(body, bytes) else str(body or "")
    found = KEPT.findall(text)
    return "".join(found[-1]) if found else ""
