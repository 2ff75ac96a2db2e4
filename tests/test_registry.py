"""The registry: a broken plugin is listed with its reason and harms no other."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from anyscale_core import CONTRACT_VERSION
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.errors import PluginError, UnknownName
from anyscale_core.registry import Found, Registry, contract_allows
from anyscale_core.testing import FakeCloud, FakeProvider
from anyscale_core.testing import builders as build

SOUND = """
from anyscale_core.drivers.capability import Capabilities
from anyscale_core.hookspecs import Provider, hookimpl

def make(name="acme", contract=">=1.0,<2", supported=("cluster.batch",), **slots):
    slots = slots or {"cluster": lambda config: None}
    return Provider(name=name, contract=contract, summary="A test.",
                    capabilities=Capabilities(supported=frozenset(supported)), **slots)
"""

HOOK = """
@hookimpl
def anyscale_provider():
    return make()
"""

_numbers = itertools.count(1)

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a distribution with one plugin on the path, as an installer would."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(source: str, *, name: str = "acme", distribution: str = "", target: str = "") -> None:
        number = next(_numbers)
        module = f"plugin_under_test_{number}"
        distribution = distribution or f"dist-{name}-{number}"
        (tmp_path / f"{module}.py").write_text(SOUND + source)
        info = tmp_path / f"{distribution.replace('-', '_')}-3.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 3.1\n")
        (info / "entry_points.txt").write_text(f"[anyscale_core.providers]\n{name} = {target or module}\n")

    return put


def found(name: str = "acme") -> Found:
    (item,) = [item for item in Registry.load().found() if item.name == name]
    return item


def config(**settings: Any) -> DriverConfig:
    return DriverConfig(owner=build.owner(), home=Path("unused"), settings=settings)


def test_a_sound_plugin_is_found_by_its_entry_point_alone(install: Install) -> None:
    install(HOOK, distribution="acme-plugin")
    item = found()
    assert item.broken == ""
    assert (item.distribution, item.version) == ("acme-plugin", "3.1")
    assert Registry.load().provider("acme").slots() == ("cluster",)


BROKEN = {
    "raises at import": ("raise ImportError('no module acme_sdk')", "ImportError: no module acme_sdk"),
    "leaves the process at import": ("import sys; sys.exit('bye')", "SystemExit: bye"),
    "has a fault of syntax": ("def (:", "SyntaxError"),
    "has no hook": ("", "has no hook anyscale_provider"),
    "has a hook that is not marked": ("def anyscale_provider(): return make()", "has no hook anyscale_provider"),
    "has a misspelled hook": ("@hookimpl\ndef anyscale_providr(): return make()", "anyscale_providr"),
    "has a hook with an argument of its own": ("@hookimpl\ndef anyscale_provider(settings): return make()", "settings"),
    "raises in its hook": ("@hookimpl\ndef anyscale_provider(): return 1 / 0", "ZeroDivisionError"),
    "returns nothing": ("@hookimpl\ndef anyscale_provider(): pass", "returned NoneType"),
    "returns something else": ("@hookimpl\ndef anyscale_provider(): return {}", "returned dict, not a Provider"),
    "is called otherwise": ("@hookimpl\ndef anyscale_provider(): return make(name='acne')", "its provider 'acne'"),
    "is written for a later contract": (
        "@hookimpl\ndef anyscale_provider(): return make(contract='>=2.0')",
        f"contract >=2.0, this core speaks {CONTRACT_VERSION}",
    ),
    "has a contract that cannot be read": (
        "@hookimpl\ndef anyscale_provider(): return make(contract='new')", "contract new"),
    "lacks a core capability": (
        "@hookimpl\ndef anyscale_provider(): return make(supported=())", "core capability cluster.batch is missing"),
    "claims what nobody knows": (
        "@hookimpl\ndef anyscale_provider(): return make(supported=('cluster.batch', 'cluster.fly'))",
        "unknown capability 'cluster.fly'",
    ),
    "fills no slot": ("@hookimpl\ndef anyscale_provider(): return make(cluster=None)", "fills no driver slot"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_is_listed_with_its_reason_and_harms_no_other(install: Install, fault: str) -> None:
    source, reason = BROKEN[fault]
    install(source)
    install("@hookimpl\ndef anyscale_provider(): return make(name='sound')", name="sound")
    item = found()
    assert item.provider is None
    assert reason in item.broken
    assert found("sound").broken == ""
    registry = Registry.load()
    with pytest.raises(PluginError, match="provider 'acme' cannot be used"):
        registry.provider("acme")
    assert registry.provider("sound").name == "sound"


def test_an_entry_point_to_nowhere_is_listed_with_its_reason(install: Install) -> None:
    install("", target="no_such_module_anywhere")
    assert "No module named 'no_such_module_anywhere'" in found().broken


def test_two_plugins_of_one_name_are_both_refused_and_named(install: Install) -> None:
    install(HOOK, distribution="first-acme")
    install(HOOK, distribution="second-acme")
    item = found()
    assert item.provider is None
    assert "first-acme" in item.broken
    assert "second-acme" in item.broken


def test_the_list_is_sorted_by_name(install: Install) -> None:
    for name in ("zeta", "beta", "acme"):
        install("", name=name)
    names = [item.name for item in Registry.load().found()]
    assert names == sorted(names)
    assert {"zeta", "beta", "acme"} <= set(names)


# In-process ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry() -> Registry:
    return Registry.of(FakeProvider(FakeCloud()).provider())


def test_an_embedder_hands_providers_over_without_entry_points(registry: Registry) -> None:
    assert [item.name for item in registry.found()] == ["fake"]
    assert registry.provider("fake").slots() == ("cluster", "identity", "storage", "networking")
    assert isinstance(registry.driver("fake", "cluster", config()), ClusterDriver)


def test_an_unknown_name_is_answered_with_the_nearest_or_with_those_there_are(registry: Registry) -> None:
    with pytest.raises(UnknownName, match="did you mean 'fake'"):
        registry.provider("fkae")
    with pytest.raises(UnknownName, match="installed: fake"):
        registry.provider("aws")
    with pytest.raises(UnknownName, match="installed: none"):
        Registry().provider("aws")


def test_settings_that_a_provider_does_not_know_are_refused_by_name(registry: Registry) -> None:
    with pytest.raises(PluginError, match="unknown settings regoin; it knows none"):
        registry.driver("fake", "cluster", config(regoin="x"))


def test_a_slot_that_is_not_filled_is_refused() -> None:
    provider = attrs.evolve(FakeProvider(FakeCloud()).provider(), storage=None)
    with pytest.raises(PluginError, match="no storage driver; it fills cluster, identity, networking"):
        Registry.of(provider).driver("fake", "storage", config())


def test_whatever_a_factory_raises_becomes_a_plugin_error_with_its_cause() -> None:
    def factory(config: DriverConfig) -> ClusterDriver:
        raise FileNotFoundError("credentials.json")

    registry = Registry.of(attrs.evolve(FakeProvider(FakeCloud()).provider(), cluster=factory))
    with pytest.raises(
        PluginError, match=r"cluster driver cannot be built: FileNotFoundError: credentials\.json"
    ) as caught:
        registry.driver("fake", "cluster", config())
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_factory_that_gives_a_driver_of_another_slot_is_refused() -> None:
    fake = FakeProvider(FakeCloud())
    swapped: Any = fake.identity
    registry = Registry.of(attrs.evolve(fake.provider(), cluster=swapped))
    with pytest.raises(PluginError, match="not a ClusterDriver"):
        registry.driver("fake", "cluster", config())


@pytest.mark.parametrize(
    ("contract", "version", "allowed"),
    [
        (">=1.0,<2", "1.0", True),
        (">=1.0,<2", "1.7", True),
        (">=1.0,<2", "2.0", False),
        (">=1.1,<2", "1.0", False),
        ("==1.0", "1.0", True),
        ("==1", "1.0", True),
        (">1.0", "1.0", False),
        ("<=1.10", "1.9", True),
        (">=1.9", "1.10", True),
        (" >= 1.0 , < 2 ", "1.0", True),
        ("1.0", "1.0", False),
        ("", "1.0", False),
        (">=1.0,", "1.0", False),
        ("~=1.0", "1.0", False),
    ],
)
def test_a_contract_range_is_read_by_numbers(contract: str, version: str, allowed: bool) -> None:
    assert contract_allows(contract, version) is allowed


# What is loaded ------------------------------------------------------------------------------------------------------

HEAVY = {
    "aiohttp", "alembic", "azure", "boto3", "botocore", "cryptography", "google", "googleapiclient", "grpc", "httpx",
    "joserfc", "kubernetes", "litestar", "msgspec", "numpy", "obstore", "opentelemetry", "psutil", "pydantic", "ray",
    "requests", "rich", "sqlalchemy", "stamina", "structlog", "typer", "uvicorn", "yaml",
}  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        "import anyscale_core",
        "from anyscale_core.registry import Registry; Registry.load().found()",
        "import anyscale_core.testing, anyscale_core.testing.builders",
        "import anyscale_core.drivers.layers",
    ],
    ids=["the bare import", "listing providers", "the stand-ins", "the layers"],
)
def test_the_core_loads_no_sdk_and_no_server(code: str) -> None:
    script = f"import sys; {code}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "anyscale_core" in loaded
    assert loaded & HEAVY == set()
