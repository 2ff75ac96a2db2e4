"""What a launch is made of, purely: specs that are equal but for who they are go in one call, with all that each needs to know.

EC2 gives every instance of a call the same user data. The user data of a batch therefore holds the startup script once, with
blanks, and what fills the blanks for each instance; on the machine the launch index picks its own. Join tokens are JWTs: their
JSON is compressed, of which little is new from one to the next, and their signatures lie beside it.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from anyscale_aws.config import Settings
from anyscale_aws.tags import TAGS_MAX, Member, batch_tags, check_name, pairs, tagged
from anyscale_core.drivers.startup import script
from anyscale_core.errors import InvalidRequest
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import InstanceSpec
from anyscale_core.models.secret import Secret

USER_DATA_MAX = 16384
"""Bytes before base64 (EC2 User Guide, "Instance user data")."""
LAUNCHED = ("instance", "volume", "network-interface")
"""What a launch makes and tags."""
NOBODY = "anyscale-core-blank-"
"""Begins the words of a batch's script that each instance fills in for itself."""
BLANK_NAME, BLANK_NODE, BLANK_TOKEN = (f"{NOBODY}{part}" for part in ("name", "node", "token"))
REFUSED_FIELDS = frozenset(
    {
        "MinCount", "MaxCount", "ClientToken", "UserData", "InstanceType", "TagSpecifications", "DryRun",
        "IamInstanceProfile",
    }
)  # fmt: skip
"""Launch fields that are this plugin's own to set: a spec that chose its profile would take the rights of another."""

PICK = """\
#!/bin/sh
# Starts the node agent of one instance of a batch: its launch index says which (IMDSv2).
set -eu
root="${{ANYSCALE_CORE_ROOT:-/var/lib/anyscale-core}}"
(umask 077 && mkdir -p "$root")
{python} - "$root" <<'END-OF-BATCH'
import base64, json, os, sys, urllib.request, zlib
imds = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
def ask(path, method="GET", **headers):
    request = urllib.request.Request(imds + path, method=method, headers=headers)
    return urllib.request.urlopen(request, timeout=10).read().decode()
key = ask("/latest/api/token", "PUT", **{{"X-aws-ec2-metadata-token-ttl-seconds": "60"}})
index = int(ask("/latest/meta-data/ami-launch-index", **{{"X-aws-ec2-metadata-token": key}}))
batch = json.loads(zlib.decompress(base64.b85decode("{texts}")))
name, node, token = batch["members"][index]
if batch["signature"]:
    size = batch["signature"]
    end = base64.b85decode("{signatures}")[index * size : (index + 1) * size]
    token = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (*map(str.encode, token), end))
text = batch["script"]
for blank, value in zip(batch["blanks"], (name, node, token)):
    text = text.replace(blank, value)
with open(os.open(sys.argv[1] + "/start", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "w") as file:
    file.write(text)
END-OF-BATCH
exec "$root/start"
"""


@attrs.frozen(kw_only=True)
class Group:
    """Specs that are equal but for who they are, with their places in the batch that they came in."""

    places: tuple[int, ...]
    specs: tuple[InstanceSpec, ...]

    @property
    def first(self) -> InstanceSpec:
        """What all of them are alike."""
        return self.specs[0]

    def rest(self, after: int) -> "Group":
        """Return the group without its first ``after``."""
        return attrs.evolve(self, places=self.places[after:], specs=self.specs[after:])


def grouped(specs: Sequence[InstanceSpec]) -> tuple[Group, ...]:
    """Return the groups of a batch, in the order of their first places."""
    found: dict[Any, list[int]] = {}
    for place, spec in enumerate(specs):
        found.setdefault(_common(spec), []).append(place)
    return tuple(Group(places=tuple(places), specs=tuple(specs[p] for p in places)) for places in found.values())


def check(specs: Sequence[InstanceSpec]) -> None:
    """Raise InvalidRequest for a batch that can never work."""
    names = [spec.name for spec in specs]
    for spec in specs:
        check_name(spec.name, "an instance")
        wrong = sorted(REFUSED_FIELDS & set(spec.advanced_instance_config))
        if wrong:
            raise InvalidRequest(
                f"{', '.join(wrong)} cannot be set by advanced_instance_config", reason="FIELD", resource=spec.name,
                hint="leave out what the control plane sets itself",
            )  # fmt: skip
    if len(set(names)) < len(names):
        raise InvalidRequest("the batch has a name twice", reason="NAME", hint="give each its own name")
    if len({(spec.owner.plane, spec.owner.cloud) for spec in specs}) > 1:
        raise InvalidRequest("the batch is for two clouds", reason="COMBINATION", hint="make a batch for each")


def fitting(group: Group, settings: Settings) -> tuple[Group, ...]:
    """Cut a group into as few as fit into user data and tags; one, up to some hundred instances."""
    pieces: list[Group] = []
    rest = group
    while rest.specs:
        count = len(rest.specs)
        while count > 1 and not _fits(
            attrs.evolve(rest, specs=rest.specs[:count], places=rest.places[:count]), settings
        ):
            count = count * 3 // 4
        pieces.append(attrs.evolve(rest, specs=rest.specs[:count], places=rest.places[:count]))
        rest = rest.rest(count)
    return tuple(pieces)


def essence(spec: InstanceSpec) -> str:
    """Return what tells a spec from another, without its secrets."""
    return f"{spec.name} {spec.node_id} {_common(spec)}"


def tags_of(group: Group, token: str, whole: str) -> dict[str, str]:
    """Return the tags that every instance of a group gets in the creating call."""
    spec = group.first
    if len(group.specs) == 1:
        return {**tagged(spec.tags, spec.owner, spec.name, token=token, spec=whole), "anyscale-core-node": spec.node_id}
    members = [Member(name=each.name, node_id=each.node_id) for each in group.specs]
    return {**tagged(spec.tags, spec.owner, spec.group, token=token, spec=whole), **batch_tags(members)}


def tag_specifications(tags: Mapping[str, str], spec: InstanceSpec) -> list[dict[str, Any]]:
    """Return the tags of a launch for each thing that it makes. The names of a batch are on its instances alone."""
    plain = {key: value for key, value in tags.items() if not key.startswith("anyscale-core-batch-")}
    kinds = (*LAUNCHED, "spot-instances-request") if spec.market_type is MarketType.SPOT else LAUNCHED
    return [{"ResourceType": kind, "Tags": pairs(tags if kind == "instance" else plain)} for kind in kinds]


def user_data(group: Group, settings: Settings, region: str = "") -> str:
    """Return what a group's machines run. It holds join tokens: treat it as a secret.

    Of the cloud's settings nodes get what they need to prove themselves, and not the role of the control plane.
    """
    known = {"region": region, "endpoint_url": settings.endpoint_url}
    own = {key: value for key, value in known.items() if value}
    told = [
        attrs.evolve(each, bootstrap=attrs.evolve(each.bootstrap, identity_settings=own))
        for each in group.specs
        if each.bootstrap is not None and each.bootstrap.identity_provider == "aws"
    ]
    if len(told) == len(group.specs):
        group = attrs.evolve(group, specs=tuple(told))
    if group.first.bootstrap is None:
        raise InvalidRequest(
            f"{group.first.name} boots the node agent, which needs a bootstrap", reason="FIELD",
            resource=group.first.name, hint="give one",
        )  # fmt: skip
    if len(group.specs) == 1:
        return script(group.first, python=settings.python, prepare=settings.prepare)
    blank = attrs.evolve(
        group.first, name=BLANK_NAME, node_id=NodeId(BLANK_NODE),
        bootstrap=attrs.evolve(group.first.bootstrap, node_id=NodeId(BLANK_NODE), join_token=Secret(BLANK_TOKEN)),
    )  # fmt: skip
    tokens = [each.bootstrap.join_token.reveal() for each in group.specs if each.bootstrap is not None]
    parts = [_split(token) for token in tokens]
    size = len(parts[0][-1]) if parts[0] is not None else 0
    alike = [part for part in parts if part is not None and len(part[-1]) == size]
    is_split = size > 0 and len(alike) == len(tokens)
    texts = [[part.decode() for part in each[:-1]] for each in alike] if is_split else tokens
    batch = {
        "script": script(blank, python=settings.python, prepare=settings.prepare),
        "blanks": [BLANK_NAME, BLANK_NODE, BLANK_TOKEN],
        "signature": size if is_split else 0,
        "members": [[each.name, each.node_id, text] for each, text in zip(group.specs, texts, strict=True)],
    }
    packed = zlib.compress(json.dumps(batch, separators=(",", ":")).encode(), 9)
    signatures = b"".join(each[-1] for each in alike) if is_split else b""
    return PICK.format(
        python=settings.python, texts=base64.b85encode(packed).decode(),
        signatures=base64.b85encode(signatures).decode(),
    )  # fmt: skip


def _split(token: str) -> list[bytes] | None:
    """Return the decoded parts of a JWT, text but for the last; None for a token that does not come back from that as it was."""
    try:
        raw = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split(".")]
        for part in raw[:-1]:
            part.decode()
    except ValueError:
        return None
    again = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in raw)
    return raw if again == token else None


def _fits(group: Group, settings: Settings) -> bool:
    tags = tags_of(group, "x" * 20, "x" * 20)
    return len(tags) <= TAGS_MAX and len(user_data(group, settings).encode()) + 64 <= USER_DATA_MAX


def _common(spec: InstanceSpec) -> Any:
    bootstrap = spec.bootstrap
    if bootstrap is not None:
        bootstrap = attrs.evolve(bootstrap, node_id=NodeId(""), join_token=Secret(""), identity_settings={})
    alike = attrs.evolve(spec, name="", node_id=NodeId(""), bootstrap=None)
    return repr((alike, bootstrap, bootstrap is None))


__all__ = ["Group", "check", "fitting", "grouped", "tag_specifications", "tags_of", "user_data"]
