"""Images that machines can be made from: a few of the marketplace, and the subscription's own."""

from anyscale_conformance.simulators.azure.errors import ArmError, invalid
from anyscale_conformance.simulators.azure.operations import route
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Reply, Request

MARKETPLACE = {
    ("canonical", "ubuntu-24_04-lts", "server"): ("24.04.202510010", "24.04.202511060"),
    ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts-gen2"): ("22.04.202510020",),
    ("debian", "debian-12", "12-gen2"): ("0.20251112.2294",),
    ("microsoftcblmariner", "azure-linux-3", "azure-linux-3-gen2"): ("3.20251101.01",),
}  # fmt: skip


def check_image(at: Subscription, request: Request, image: dict[str, str] | None, location: str) -> None:
    """Refuse an image that is not there. Raises ArmError."""
    if not image:
        raise invalid("Required parameter 'imageReference' is missing (null).", target="imageReference")
    if id := image.get("id"):
        if at.find(id) is None:
            raise ArmError(
                404,
                "ImageNotFound",
                f"The Image '{id}' cannot be found in '{location}' region.",
                target="imageReference",
            )
        return
    if image.get("communityGalleryImageId") or image.get("sharedGalleryImageId"):
        return
    names = tuple(str(image.get(name, "")) for name in ("publisher", "offer", "sku"))
    for name, value in zip(("publisher", "offer", "sku", "version"), (*names, image.get("version")), strict=True):
        if not value:
            raise invalid(f"Required parameter 'imageReference.{name}' is missing (null).", target="imageReference")
    versions = MARKETPLACE.get((names[0].lower(), names[1].lower(), names[2].lower()), ())
    if not versions or image["version"] not in ("latest", *versions):
        raise ArmError(
            404, "PlatformImageNotFound",
            f"The platform image '{':'.join(names)}:{image['version']}' is not available. Verify that all fields in the storage "
            "profile are correct.", target="imageReference",
        )  # fmt: skip


@route("GET", "Microsoft.Compute/locations/publishers/artifacttypes/vmimage/offers/skus/versions")
def versions(at: Subscription, request: Request) -> Reply:
    """Answer the versions of a marketplace image."""
    location, publisher, offer, sku = (*request.target.names[:2], *request.target.names[-2:])
    found = MARKETPLACE.get((publisher.lower(), offer.lower(), sku.lower()), ())
    return Reply(status=200, body=[{"name": version, "location": location} for version in found])
