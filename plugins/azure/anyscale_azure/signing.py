"""What a user delegation key signs, and no account key: URLs for one method on one key, and accesses to one prefix.

obstore 0.12 signs the path as it stands in the URL, where Azure signs the plain name: its URLs are refused for keys with blanks
and the like. azure-storage-blob would be a package of its own for these lines.
"""

import base64
import hashlib
import hmac
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from datetime import datetime, timedelta
from urllib.parse import quote, urlencode

from anyscale_azure.client import Azure
from anyscale_core.models.identity import Access
from anyscale_core.models.storage import UrlMethod

SAS_VERSION = "2023-11-03"
"""The version of the string that is signed: https://learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas"""
RIGHTS = {UrlMethod.GET: "r", UrlMethod.PUT: "cw"}
PREFIX_RIGHTS = {Access.READ: "rl", Access.WRITE: "racwdl"}
EARLIER = timedelta(minutes=5)
"""A URL is good from a while ago on, as the clock of the storage service may be behind ours."""
LONGEST = timedelta(days=7)
"""Azure gives no key for longer, and so no URL."""


def signed(
    azure: Azure,
    container: str,
    key: str,
    method: UrlMethod,
    *,
    now: datetime,
    expires_in: timedelta,
    deadline: datetime,
) -> str:
    """Return the URL. Two requests at most: none of them touches the object."""
    query = _query(
        azure,
        f"{container}/{key}",
        {"sp": RIGHTS[method], "sr": "b"},
        now=now,
        expires_in=expires_in,
        deadline=deadline,
    )
    return f"{azure.blob_url(azure.settings.storage_account)}/{container}/{quote(key)}?{query}"


def signed_prefix(
    azure: Azure,
    container: str,
    prefix: str,
    access: Access,
    *,
    now: datetime,
    expires_in: timedelta,
    deadline: datetime,
) -> str:
    """Return the query that lets at everything below a prefix, which is a folder: only accounts that have folders know it."""
    folder = prefix.rstrip("/")
    fields = {"sp": PREFIX_RIGHTS[access], "sr": "d", "sdd": str(folder.count("/") + 1)}
    return _query(azure, f"{container}/{folder}", fields, now=now, expires_in=expires_in, deadline=deadline)


def _query(
    azure: Azure, path: str, wanted: Mapping[str, str], *, now: datetime, expires_in: timedelta, deadline: datetime
) -> str:
    begins, ends = now - EARLIER, now + expires_in
    found = _delegation_key(azure, begins, ends, deadline)
    fields = {
        **wanted, "st": _text(begins), "se": _text(ends), "skoid": found["SignedOid"], "sktid": found["SignedTid"],
        "skt": found["SignedStart"], "ske": found["SignedExpiry"], "sks": found["SignedService"],
        "skv": found["SignedVersion"], "spr": "https", "sv": SAS_VERSION,
    }  # fmt: skip
    fields["sig"] = _signature(fields, f"/blob/{azure.settings.storage_account}/{path}", found["Value"])
    return urlencode(fields)


def _delegation_key(azure: Azure, begins: datetime, ends: datetime, deadline: datetime) -> Mapping[str, str]:
    """Return a key that Azure made for the control plane's own identity, good as long as the URL is."""
    body = f"<KeyInfo><Start>{_text(begins)}</Start><Expiry>{_text(ends)}</Expiry></KeyInfo>".encode()
    params = {"restype": "service", "comp": "userdelegationkey"}
    answer = azure.blob(
        "POST", azure.settings.storage_account, "/", params=params, body=body, deadline=deadline,
        headers={"Content-Type": "application/xml"},
    )  # fmt: skip
    page = ET.fromstring(answer.text.lstrip("\ufeff"))
    return {each.tag: each.text or "" for each in page}


def _signature(fields: Mapping[str, str], resource: str, key: str) -> str:
    """Sign the fields in Azure's order; those that a URL of ours never has are empty."""
    words = (
        fields["sp"], fields["st"], fields["se"], resource, fields["skoid"], fields["sktid"], fields["skt"],
        fields["ske"], fields["sks"], fields["skv"], "", "", "", "", fields["spr"], fields["sv"], fields["sr"],
        *[""] * 7,
    )  # fmt: skip
    digest = hmac.new(base64.b64decode(key), "\n".join(words).encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def _text(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")
