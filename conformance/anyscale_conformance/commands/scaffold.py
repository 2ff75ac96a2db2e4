"""``new-kit``: a plugin package to start from."""

import argparse
import re
from pathlib import Path
from string import Template

from anyscale_conformance.cli import Exit
from anyscale_core.errors import Fault, SpecError

TEMPLATES = Path(__file__).parents[1] / "templates"
NAME = re.compile(r"[a-z][a-z0-9]{0,30}")


def new_kit(args: argparse.Namespace) -> Exit:
    """Write the package. Raises SpecError for a name that cannot be one, and for a folder that has something in it."""
    name, folder = args.name, args.folder
    faults = []
    if not NAME.fullmatch(name):
        faults.append(Fault(path="NAME", message=f"{name!r} is not up to 31 of a-z and 0-9 with a letter first"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        faults.append(Fault(path="DIR", message=f"{folder} is there and not empty; nothing is written over"))
    if faults:
        raise SpecError(faults, subject="new-kit")
    words = {"name": name, "package": f"anyscale_{name}", "cls": name.capitalize()}
    for template in sorted(TEMPLATES.glob("*.tmpl")):
        target = template.name.removesuffix(".tmpl")
        path = folder / (words["package"] if target.endswith(".py") else "") / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(template.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
        print(path)
    print(f"install it with `pip install -e {folder}`, then: anyscale-conformance run --provider {name}")
    return Exit.OK
