"""``python -m anyscale_conformance``."""

import sys

from anyscale_conformance.cli import main

if __name__ == "__main__":
    sys.exit(main())
