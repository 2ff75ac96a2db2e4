"""What a fresh machine runs: a shell script that puts the bootstrap where only its owner reads it and becomes the node agent.

Providers of virtual machines hand it over as user data, custom data or a startup script. It wants a Python with
``anyscale-core[node]`` and the identity provider's plugin: in the image, or put there by ``prepare``.
"""

import json
import shlex

from anyscale_core.errors import InvalidRequest
from anyscale_core.models import wire
from anyscale_core.models.instance import InstanceSpec

ROOT = "/var/lib/anyscale-core"
"""Where a node keeps what is its own; ``ANYSCALE_CORE_ROOT`` in the machine's environment overrides it."""

_SCRIPT = """\
#!/bin/sh
# Starts the node agent of {name}. The machine's environment may say where (ANYSCALE_CORE_ROOT) and at which address
# (ANYSCALE_CORE_ADDRESS); else the agent finds the address itself.
set -eu
root="${{ANYSCALE_CORE_ROOT:-{root}}}"
(umask 077 && mkdir -p "$root")
(umask 077 && cat > "$root/bootstrap.json") <<'END-OF-BOOTSTRAP'
{bootstrap}
END-OF-BOOTSTRAP
{prepare}cd "$root"
exec {python} -m anyscale_core.node --bootstrap "$root/bootstrap.json" --home "$root" \\
    --name {name} --address "${{ANYSCALE_CORE_ADDRESS:-}}"
"""


def script(spec: InstanceSpec, *, python: str = "python3", prepare: str = "") -> str:
    """Return the script of one instance; equal for equal specs. It holds a join token: treat it as a secret.

    ``python`` is the interpreter on the machine, ``prepare`` shell lines that run before the agent (an installation).
    Raises InvalidRequest(FIELD) for a spec without a bootstrap.
    """
    if spec.bootstrap is None:
        raise InvalidRequest(
            f"{spec.name} boots the node agent, which needs a bootstrap", reason="FIELD", resource=spec.name,
            hint="give one",
        )  # fmt: skip
    return _SCRIPT.format(
        name=shlex.quote(spec.name),
        root=ROOT,
        bootstrap=json.dumps(wire.unstructure_revealed(spec.bootstrap), sort_keys=True, separators=(",", ":")),
        prepare=f"{prepare.rstrip()}\n" if prepare.strip() else "",
        python=shlex.quote(python),
    )
