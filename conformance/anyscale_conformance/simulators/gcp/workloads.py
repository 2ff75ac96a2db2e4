"""Pods of GKE: which cluster issued a Pod's token, and whom it makes of the Pod.

Source: cloud.google.com/kubernetes-engine/docs/concepts/workload-identity. The metadata server of a node exchanges a token of the
Pod's account, made for the project's workload pool, at STS, and acts with that as the account's service account.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from anyscale_conformance.simulators.gcp.calls import Caller
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import Project

AUDIENCE = re.compile(
    r"identitynamespace:(?P<pool>[^:/]+\.svc\.id\.goog):(?P<issuer>https://container\.googleapis\.com/v1/projects/[^/]+/"
    r"locations/(?P<location>[^/]+)/clusters/(?P<name>[^/]+))"
)
SUBJECT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")


def issuer_of(project: Project, audience: str) -> Json | None:
    """Return a cluster as a provider of tokens; None for an audience of no cluster here, or of one without a workload pool."""
    found = AUDIENCE.fullmatch(audience)
    if found is None or found["pool"] != pool_of(project):
        return None
    key = f"{found['location']}/{found['name']}"
    pool = project.clusters.get(key, {}).get("workloadIdentityConfig", {}).get("workloadPool")
    if pool != found["pool"] or key not in project.cluster_keys:
        return None
    keys = json.dumps(project.cluster_keys[key])
    return {
        "name": found["issuer"],
        "oidc": {"issuerUri": found["issuer"], "jwksJson": keys, "allowedAudiences": [pool]},
    }


def pod_of(project: Project, claims: Mapping[str, Any]) -> Caller | None:
    """Return whom a Pod's token is for: its account, as policies name it. None for a token of nobody's Pod."""
    found = SUBJECT.fullmatch(str(claims.get("sub", "")))
    return Caller(member=f"serviceAccount:{pool_of(project)}[{found[1]}/{found[2]}]") if found else None


def pool_of(project: Project) -> str:
    """Return the one workload pool that a project's clusters may have."""
    return f"{project.id}.svc.id.goog"
