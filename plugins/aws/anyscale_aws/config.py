"""The provider's settings, checked once."""

import enum
from collections.abc import Mapping

import attrs

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import Fault, SpecError
from anyscale_core.models import wire

SUBJECT = "settings of provider aws"


class Way(enum.Enum):
    """How clients reach a head."""

    ADDRESS = "address"
    NLB = "nlb"


@attrs.frozen(kw_only=True)
class Settings:
    """What a cloud may set for this provider; the keys are explained in ``plugin``."""

    region: str = ""
    role_arn: str = ""
    external_id: str = ""
    adopted_roles: tuple[str, ...] = ()
    adopted_buckets: tuple[str, ...] = ()
    endpoint_url: str = ""
    image: str = ""
    image_arm64: str = ""
    images: Mapping[str, str] = attrs.field(factory=dict)
    security_groups: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    endpoint: Way = Way.ADDRESS
    allow_from: tuple[str, ...] = ("0.0.0.0/0",)
    python: str = "python3"
    prepare: str = ""
    disk_gib: int = 0
    instance_types: tuple[str, ...] = ()
    prices: Mapping[str, float] = attrs.field(factory=dict)


def read_settings(config: DriverConfig) -> Settings:
    """Return the settings of a cloud. Raises SpecError with every fault."""
    settings = wire.structure(dict(config.settings), Settings, subject=SUBJECT)
    faults = []
    if settings.role_arn and not settings.external_id:
        # Without one, anybody whom the control plane serves could name this role: the confused deputy.
        faults.append(
            Fault(path="external_id", message="role_arn needs one, and the role's trust policy has to demand it")
        )
    if settings.role_arn and not settings.role_arn.startswith("arn:aws"):
        faults.append(Fault(path="role_arn", message=f"{settings.role_arn!r} is not the ARN of a role"))
    if settings.disk_gib < 0:
        faults.append(Fault(path="disk_gib", message="is below zero"))
    if faults:
        raise SpecError(faults, subject=SUBJECT)
    return settings


def region_of(config: DriverConfig) -> str:
    """Return the region of a cloud. Raises SpecError for none."""
    if not config.region:
        raise SpecError([Fault(path="region", message="AWS needs a region, such as us-west-2")], subject=SUBJECT)
    return config.region
