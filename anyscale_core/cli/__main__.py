"""``python -m anyscale_core.cli``: the same as ``anyscale-core``."""

import sys

from anyscale_core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
