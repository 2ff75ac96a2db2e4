"""What is known of an operator that is to be installed; a provider renders it into what its platform applies."""

from collections.abc import Mapping
from typing import Any

import attrs

from anyscale_core.models.identity import Binding, Identity
from anyscale_core.models.secret import Secret

ENTRY_POINTS = "anyscale_core.manifests"
"""The entry-point group: ``provider = "package.module:function"``, ``function(ManifestConfig) -> list of objects``, pure."""


@attrs.frozen(kw_only=True)
class ManifestConfig:
    """One operator's installation. ``settings``: each provider's keys, by its name, as ``--settings`` takes them.

    ``token`` is for a Secret of its own; None when the operator proves itself by ``identity`` (a provider). ``binding`` makes the
    operator one of an identity's workloads, by which it calls the cloud; ``node_identities`` are what nodes run as, where
    another provider made them. ``slots``: who fills each slot of the cloud; an empty one is ``provider``'s.
    """

    cloud: str
    provider: str
    slots: Mapping[str, str] = attrs.field(factory=dict)
    url: str
    ca_pem: str
    image: str
    namespace: str
    replicas: int = 1
    health_port: int = 8081
    token: Secret[str] | None = None
    identity: str = ""
    binding: Binding = attrs.field(factory=Binding)
    node_identities: tuple[Identity, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, repr=False)
