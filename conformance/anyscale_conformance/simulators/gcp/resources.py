"""Projects: what they are called, and who may do what in them."""

from anyscale_conformance.simulators.gcp import iam, policies
from anyscale_conformance.simulators.gcp.answers import zulu
from anyscale_conformance.simulators.gcp.calls import Call, handles
from anyscale_conformance.simulators.gcp.compute.catalogues import SINCE
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import fingerprint

PROJECTS = "cloudresourcemanager.projects"


@handles(f"{PROJECTS}.get")
def get(call: Call) -> Json:
    """Answer with a project, in the words of the version that was asked."""
    project = call.project
    if call.method.template.startswith("v1/"):
        return {
            "projectId": project.id, "projectNumber": str(project.number), "name": project.id, "lifecycleState": "ACTIVE",
            "createTime": zulu(SINCE),
        }  # fmt: skip
    return {
        "name": f"projects/{project.number}", "projectId": project.id, "displayName": project.id, "state": "ACTIVE",
        "createTime": zulu(SINCE), "updateTime": zulu(SINCE), "etag": f'W/"{fingerprint(project.id)}"',
    }  # fmt: skip


@handles(f"{PROJECTS}.getIamPolicy")
def get_policy(call: Call) -> Json:
    """Answer with a project's policy."""
    return policies.read(call.project, "", version=int(call.body.get("options", {}).get("requestedPolicyVersion", 1)))


@handles(f"{PROJECTS}.setIamPolicy")
def set_policy(call: Call) -> Json:
    """Replace a project's policy."""
    return policies.write(call.cloud, call.project, "", call.body.get("policy", {}), api="cloudresourcemanager")


@handles(f"{PROJECTS}.testIamPermissions")
def test(call: Call) -> Json:
    """Answer with those of some permissions on a project that the caller has."""
    return iam.tested(call, [])
