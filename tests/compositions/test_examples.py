"""The clouds in ``examples`` can be registered as they are."""

from pathlib import Path

import pytest
import yaml

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.models import wire
from anyscale_core.models.cloud import CloudSpec

CLOUDS = sorted((Path(__file__).parents[2] / "examples" / "clouds").glob("*.yaml"))


@pytest.mark.parametrize("file", CLOUDS, ids=lambda file: file.stem)
def test_an_example_is_a_cloud_that_a_control_plane_takes(file: Path, tmp_path: Path) -> None:
    plane = ControlPlane(Settings(home=tmp_path))
    spec = wire.structure(yaml.safe_load(file.read_text()), CloudSpec)
    assert plane.register_cloud(spec, actor="test")
    with plane.clouds.direct(spec.name) as cloud:  # its drivers take their settings
        assert cloud.is_composed
    plane.close()


def test_there_is_an_example_of_each_composition() -> None:
    assert {file.stem for file in CLOUDS} == {"aks", "eks", "gke"}
