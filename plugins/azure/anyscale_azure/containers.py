"""A bucket is a blob container of the cloud's storage account. What it has to say of itself stands in its metadata.

Containers have no tags, but metadata that the creating request carries; and a container is created or refused, never
overwritten, where the management plane's PUT would change one that is there.
"""

import base64
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs

from anyscale_azure import tags as tagging
from anyscale_azure import upkeep
from anyscale_azure.client import Azure
from anyscale_azure.config import Settings
from anyscale_azure.tags import Stamp
from anyscale_azure.upkeep import NOTHING, Upkeep
from anyscale_core.errors import InvalidRequest, NotFound
from anyscale_core.models.owner import TAG_NAME, Owner
from anyscale_core.models.storage import Bucket

META = "x-ms-meta-"
TAGS = "anyscale_core_tags"
"""The tags of the core, as JSON in base64: names of metadata are words of a programming language, and those of tags are not."""
ADOPTED = "anyscale_core_adopted"
UPKEEP = "anyscale_core_upkeep"
"""What the bucket wants of its account, see ``upkeep``."""
CONTAINER = {"restype": "container"}
PLAIN = re.compile(r"[a-z0-9]([a-z0-9]|-(?!-)){1,61}[a-z0-9]")


@attrs.frozen(kw_only=True)
class Container:
    """A container that a plane made or adopted. ``others``: metadata that is not ours, to be kept."""

    container: str
    tags: Mapping[str, str]
    adopted: bool
    others: Mapping[str, str] = attrs.field(factory=dict)
    is_public: bool = False
    upkeep: Upkeep = NOTHING

    @property
    def name(self) -> str:
        """What the core calls it."""
        return self.tags.get(TAG_NAME, "")

    @property
    def owner(self) -> Owner:
        """Whose it is."""
        return tagging.owner_of(self.tags)

    @property
    def stamp(self) -> Stamp:
        """What made it."""
        return tagging.stamped(self.tags)

    def view(self, settings: Settings) -> Bucket:
        """Return it as the core knows it."""
        return Bucket(
            name=self.name, owner=self.owner, url=url_of(self.container, settings), region=settings.location,
            adopted=self.adopted, public=self.is_public,
        )  # fmt: skip


def container_of(name: str, owner: Owner) -> str:
    """Return the container of a bucket: a name with two '-' in a row is none of Azure's."""
    slug = re.sub("-+", "-", name)[:50].strip("-")
    return f"{slug}-{tagging.digest(owner.plane, owner.cloud, name)}"


def url_of(container: str, settings: Settings) -> str:
    """Return a bucket's URL: ``abfss://`` where the account has folders, else ``https://``."""
    if settings.hierarchical_namespace:
        return f"abfss://{container}@{settings.storage_account}.{settings.dfs_suffix}"
    return f"{settings.blob_endpoint.format(account=settings.storage_account).rstrip('/')}/{container}"


def container_in(url: str, settings: Settings) -> str:
    """Return the container that a URL names, in either scheme. Raises InvalidRequest for one of another account."""
    parts = urlsplit(url)
    own = urlsplit(settings.blob_endpoint.format(account=settings.storage_account))
    container = ""
    if parts.scheme in ("abfss", "abfs", "azure", "az") and parts.username:
        is_ours = parts.hostname == f"{settings.storage_account}.{settings.dfs_suffix}"
        container = parts.username if is_ours and parts.path in ("", "/") else ""
    elif parts.scheme == "https" and parts.netloc == own.netloc and parts.path.startswith(own.path):
        container = unquote(parts.path[len(own.path) :]).strip("/")
    if not PLAIN.fullmatch(container):
        hint = f"give {url_of('CONTAINER', settings)}; another account is named by the setting storage_account"
        raise InvalidRequest(f"{url!r} is no container of the cloud's storage account", reason="FIELD", hint=hint)
    return container


def metadata_of(
    tags: Mapping[str, str], wanted: Upkeep = NOTHING, *, adopted: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the headers that write what a container says of itself; ``adopted``: the metadata that it had before."""
    packed = base64.b64encode(json.dumps(dict(tags), sort_keys=True).encode()).decode()
    note = {} if adopted is None else {ADOPTED: "yes"}
    if wanted != NOTHING:
        note[UPKEEP] = upkeep.noted(wanted)
    return {f"{META}{key}": value for key, value in {**(adopted or {}), TAGS: packed, **note}.items()}


def find(azure: Azure, container: str, deadline: datetime) -> Container | None:
    """Return a container as it is; None when it is not there."""
    try:
        answer = azure.blob(
            "HEAD", azure.settings.storage_account, f"/{container}", params=CONTAINER, deadline=deadline
        )
    except NotFound:
        return None
    metadata = {key[len(META) :]: value for key, value in answer.headers.items() if key.startswith(META)}
    return _container(container, metadata, is_public="x-ms-blob-public-access" in answer.headers)


def every(azure: Azure, deadline: datetime) -> tuple[Container, ...]:
    """Return every container of the account that a plane made or adopted, page by page."""
    found: list[Container] = []
    marker, seen = "", set[str]()
    while True:
        params = {"comp": "list", "include": "metadata"} | ({"marker": marker} if marker else {})
        answer = azure.blob("GET", azure.settings.storage_account, "/", params=params, deadline=deadline)
        page = ET.fromstring(answer.text.lstrip("\ufeff"))
        for each in page.iter("Container"):
            metadata = {tag.tag.lower(): tag.text or "" for tag in each.findall("./Metadata/*")}
            is_public = bool(each.findtext("./Properties/PublicAccess"))
            container = _container(each.findtext("Name") or "", metadata, is_public=is_public)
            if container.owner.plane:
                found.append(container)
        marker = page.findtext("NextMarker") or ""
        if not marker:
            return tuple(found)
        azure.check_new(marker, seen, "of containers")


def is_empty(azure: Azure, container: str, deadline: datetime) -> bool:
    """Tell whether a container holds nothing."""
    params = {**CONTAINER, "comp": "list", "maxresults": "1"}
    answer = azure.blob("GET", azure.settings.storage_account, f"/{container}", params=params, deadline=deadline)
    page = ET.fromstring(answer.text.lstrip("\ufeff"))
    return page.find("./Blobs/Blob") is None and page.find("./Blobs/BlobPrefix") is None


def _container(name: str, metadata: Mapping[str, Any], *, is_public: bool) -> Container:
    plain = {key.lower(): str(value) for key, value in metadata.items()}
    packed = plain.get(TAGS, "")
    try:
        tags = json.loads(base64.b64decode(packed)) if packed else {}
    except ValueError:
        tags = {}  # written by somebody else under our name: none of ours
    others = {key: value for key, value in plain.items() if key not in (TAGS, ADOPTED, UPKEEP)}
    return Container(
        container=name, tags=tags, adopted=ADOPTED in plain, others=others, is_public=is_public,
        upkeep=upkeep.read(plain.get(UPKEEP, "")),
    )  # fmt: skip
