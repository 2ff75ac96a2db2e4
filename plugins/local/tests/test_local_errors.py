import errno
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path

import anyscale_local
import attrs
import pytest
from anyscale_local.config import Settings
from anyscale_local.errors import TRANSLATE, translate, translated
from anyscale_local.offerings import catalogue, offerings_of
from anyscale_local.permissions import NEEDS, permissions_for
from anyscale_local.plugin import CAPABILITIES, anyscale_provider
from anyscale_local.testing import Machine

from anyscale_core.drivers.capability import CAPABILITIES as KNOWN
from anyscale_core.errors import (
    AlreadyExists,
    CapacityUnavailable,
    CloudError,
    Conflict,
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    SpecError,
    Transient,
    Unclassified,
)
from anyscale_core.models.cluster import MarketType
from anyscale_core.registry import Registry

# docs/contract.md, "Local provider".
PROMISED: dict[type[CloudError], tuple[str, ...]] = {
    NotFound: ("ENOENT",),
    AlreadyExists: ("EEXIST",),
    PermissionDenied: ("EACCES", "EPERM"),
    CapacityUnavailable: ("ENOSPC", "ENOMEM", "EADDRINUSE"),
    QuotaExceeded: ("EDQUOT", "EMFILE"),
    Conflict: ("EBUSY", "ENOTEMPTY"),
    Transient: ("EAGAIN", "EINTR"),
    DeadlineExceeded: ("ETIMEDOUT",),
}


@pytest.mark.parametrize(("error", "code"), [(error, code) for error, codes in PROMISED.items() for code in codes])
def test_every_promised_errno_becomes_its_error_of_the_tree(error: type[CloudError], code: str) -> None:
    became = translate(OSError(getattr(errno, code), "said the kernel", "/a/path"), resource="one")
    assert type(became) is error
    assert became.vendor is not None
    assert (became.vendor.provider, became.vendor.code) == ("local", code)
    assert "/a/path" in became.message
    assert became.resource == "one"


def test_every_reason_of_the_table_is_a_word_of_its_category() -> None:
    for number, meaning in TRANSLATE.items():
        assert meaning.reason in (meaning.error.__doc__ or ""), errno.errorcode[number]


def test_an_errno_that_nobody_has_seen_is_unclassified_and_keeps_its_code() -> None:
    with pytest.raises(Unclassified) as caught, translated():
        raise OSError(errno.EXDEV, "cross-device link")
    assert caught.value.vendor is not None
    assert caught.value.vendor.code == "EXDEV"


def test_the_registry_finds_the_provider_sound_and_builds_its_four_drivers(tmp_path: Path) -> None:
    registry = Registry.load()
    provider = registry.provider("local")
    assert set(provider.slots()) == {"cluster", "identity", "storage", "networking"}
    assert provider.default_cloud is not None
    for slot in provider.slots():
        driver = registry.driver("local", slot, Machine(home=tmp_path).config())
        assert (driver.provider, driver.slot) == ("local", slot)
    assert list(tmp_path.iterdir()) == []


def test_every_capability_of_the_contract_is_either_claimed_or_refused_with_a_reason() -> None:
    assert CAPABILITIES.faults(anyscale_provider().slots()) == ()
    said = CAPABILITIES.supported | set(CAPABILITIES.emulated) | set(CAPABILITIES.unsupported)
    assert said == set(KNOWN)


def test_the_settings_of_the_hook_are_those_that_are_read() -> None:
    assert set(anyscale_provider().settings) == {field.name for field in attrs.fields(Settings)}


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="max_instances"):
        Machine(home=tmp_path).cluster(max_instances="many")


def test_listing_the_provider_loads_no_library_of_its_drivers() -> None:
    program = (
        "import sys, anyscale_local.plugin as p; p.anyscale_provider()\n"
        "heavy = {'psutil', 'obstore', 'joserfc', 'cryptography', 'ray', 'aiohttp', 'httpx'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_plugin_imports_nothing_above_the_contract() -> None:
    allowed = ("hookspecs", "drivers", "models", "errors", "clock")
    for path in Path(anyscale_local.__file__).parent.glob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] in ("from", "import") and words[1].startswith("anyscale_core"):
                assert words[1].split(".")[1] in allowed, f"{path.name}: {line}"


def test_the_entry_point_is_the_hooks_module() -> None:
    text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text()
    assert tomllib.loads(text)["project"]["entry-points"]["anyscale_core.providers"] == {
        anyscale_provider().name: "anyscale_local.plugin"
    }


def test_a_small_machine_sells_one_and_two_cpus_and_a_large_one_all_powers_of_two() -> None:
    assert [offer.instance_type for offer in offerings_of(cpus=1, memory=1 << 32)] == ["local.1cpu", "local.2cpu"]
    large = offerings_of(cpus=12, memory=12 << 30)
    assert [offer.instance_type for offer in large] == [f"local.{size}cpu" for size in (1, 2, 4, 8, 12)]
    assert large[1].resources == {"CPU": 2.0, "memory": float(2 << 30)}
    assert all(offer.resources["memory"] <= 12 << 30 for offer in large)


def test_the_catalogue_has_one_zone_one_market_and_no_price() -> None:
    for offer in catalogue():
        assert (offer.zone, offer.market_type, offer.price_per_hour) == ("local", MarketType.ON_DEMAND, 0.0)
        assert offer.resources["memory"] > 0
        assert offer.startup == timedelta(seconds=5)


def test_permissions_are_exact_paths_below_the_state_folder(tmp_path: Path) -> None:
    needed = permissions_for([*NEEDS, "cluster.create", "cluster.never"], tmp_path)
    assert len(needed) == sum(len(needs) for needs in NEEDS.values())
    for permission in needed:
        assert permission.resource.startswith(f"{tmp_path}/")
        assert "*" not in permission.action + permission.resource
        assert permission.feature.split(".")[0] in anyscale_provider().slots()
        assert permission.reason
