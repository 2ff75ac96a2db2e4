"""What a plugin is in a process of its own: imported with no network and no home, its hook called, its claims told.

Run as ``python -m anyscale_conformance.elsewhere MODULE[:OBJECT]``; prints one JSON object.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

SDKS = (
    "aiobotocore", "azure", "boto3", "botocore", "google.api_core", "google.cloud", "googleapiclient", "kubernetes",
    "kubernetes_asyncio", "msrest", "oci", "openstack",
)  # fmt: skip
"""Cloud SDKs, by what they are imported as; a kit may name more (``Kit.sdks``)."""


def look(plugin: str, *, hash_seed: int, language: str = "C.UTF-8") -> Mapping[str, Any]:
    """Import a plugin in a fresh process and return what it says there. Raises RuntimeError with its last words."""
    with tempfile.TemporaryDirectory(prefix="ac-conf-") as home:
        keep = {
            key: value
            for key, value in os.environ.items()
            if key in ("PATH", "PYTHONPATH", "TMPDIR", "LD_LIBRARY_PATH")
        }
        env = keep | {
            "HOME": home,
            "PYTHONHASHSEED": str(hash_seed),
            "LANG": language,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-m", __name__, plugin], env=env, capture_output=True, text=True, timeout=60, check=False
        )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}")
    found: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(plugin: str) -> None:
    """Import, call the hook, print what was found."""
    from anyscale_conformance import watch
    from anyscale_core import hookspecs

    before = set(sys.modules)
    with watch.hosts() as called:
        module, _, attribute = plugin.partition(":")
        began = time.process_time()
        loaded = importlib.import_module(module)
        importing_s = time.process_time() - began
        hook = (getattr(loaded, attribute) if attribute else loaded).anyscale_provider
        provider = hook()
        again = hook()
    capabilities = provider.capabilities
    # Last, the factories: merely to have built drivers is not to have called anything.
    print(
        json.dumps(
            {
                "name": provider.name,
                "contract": provider.contract,
                "slots": list(provider.slots()),
                "is_provider": isinstance(provider, hookspecs.Provider),
                "settings": sorted(provider.settings),
                "capabilities": claims(capabilities),
                "again": claims(again.capabilities),
                "modules": sorted(set(sys.modules) - before),
                "called": called,
                "importing_s": importing_s,
                "marked": bool(getattr(hook, f"{hookspecs.PROJECT}_impl", None)),
            }
        )
    )


def claims(capabilities: Any) -> dict[str, Any]:
    """Return capabilities as plain values."""
    return {
        "supported": sorted(capabilities.supported),
        "emulated": dict(sorted(capabilities.emulated.items())),
        "unsupported": dict(sorted(capabilities.unsupported.items())),
        "numbers": dict(sorted(capabilities.numbers.items())),
        "windows": {key: value.total_seconds() for key, value in sorted(capabilities.windows.items())},
    }


if __name__ == "__main__":
    main(sys.argv[1])
