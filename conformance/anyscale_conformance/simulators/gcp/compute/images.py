"""Images: those that a project has, and families of them."""

from anyscale_conformance.simulators.gcp.calls import Call, handles
from anyscale_conformance.simulators.gcp.catalogue import IMAGES
from anyscale_conformance.simulators.gcp.errors import not_found
from anyscale_conformance.simulators.gcp.lists import listed
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import Project, Resource


@handles("compute.images.get")
def get_image(call: Call) -> Json:
    """Answer with an image, public or the project's own."""
    return image(call.project, call.params["image"])


@handles("compute.images.getFromFamily")
def get_from_family(call: Call) -> Json:
    """Answer with the newest image of a family."""
    return newest(call.project, call.params["family"])


@handles("compute.images.list")
def list_images(call: Call) -> Json:
    """Answer with the images of a project."""
    return listed(call, "images", "global", kind="compute#imageList")


def image(project: Project, name: str) -> Json:
    """Return an image. Raises 404."""
    return project.get("images", "global", name).body


def newest(project: Project, family: str) -> Json:
    """Return the newest image of a family. Raises 404."""
    found = [thing for thing in project.all("images") if thing.body.get("family") == family]
    if not found:
        raise not_found(f"projects/{project.id}/global/images/family/{family}")
    return max(found, key=lambda thing: thing.created_at).body


def add_image(
    project: Project, name: str, *, family: str = "", disk_gb: int = 10, architecture: str = "X86_64"
) -> Resource:
    """Let a project have an image."""
    body: Json = {"status": "READY", "diskSizeGb": str(disk_gb), "architecture": architecture, "sourceType": "RAW"}
    return project.add("images", "global", name, body | ({"family": family} if family else {}))


def publish(project: Project) -> None:
    """Let a project have the public images that its name is known for."""
    for family, name in IMAGES.get(project.id, {}).items():
        add_image(project, name, family=family)
