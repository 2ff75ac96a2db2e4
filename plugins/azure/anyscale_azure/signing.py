"""URLs that a user delegation key signs: good for one method on one key until they expire, and by no account key.

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
from anyscale_core.models.storage import UrlMethod

SAS_VERSION = "2023-11-03"
"""The version of the string that is signed: https://learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas"""
RIGHTS = {UrlMethod.GET: "r", UrlMethod.PUT: "cw"}
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
    settings = azure.settings
    begins, ends = now - EARLIER, now + expires_in
    found = _delegation_key(azure, begins, ends, deadline)
    fields = {
        "sp": RIGHTS[method], "st": _text(begins), "se": _text(ends), "skoid": found["SignedOid"],
        "sktid": found["SignedTid"], "skt": found["SignedStart"], "ske": found["SignedExpiry"],
        "sks": found["SignedService"], "skv": found["SignedVersion"], "spr": "https", "sv": SAS_VERSION, "sr": "b",
    }  # fmt: skip
    resource = f"/blob/{settings.storage_account}/{container}/{key}"
    fields["sig"] = _signature(fields, resource, found["Value"])
    return f"{azure.blob_url(settings.storage_account)}/{container}/{quote(key)}?{urlencode(fields)}"


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
