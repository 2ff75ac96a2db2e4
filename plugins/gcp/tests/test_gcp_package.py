"""The package as a whole."""

import subprocess
import sys

SDKS = ("google", "googleapiclient")

CODE = f"""
import sys
import anyscale_gcp
loaded = [name for name in sys.modules if name.partition('.')[0] in {SDKS!r}]
sys.exit(f'loaded: {{loaded}}' if loaded else 0)
"""


def test_importing_the_package_loads_no_sdk() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
