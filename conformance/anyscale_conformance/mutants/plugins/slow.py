"""Does seconds of work while it is imported."""

import time

from anyscale_conformance.kits.fake_plugin import anyscale_provider

_end = time.process_time() + 1.5
while time.process_time() < _end:
    pass

__all__ = ["anyscale_provider"]
