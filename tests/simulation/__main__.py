import logging

import structlog

from tests.simulation.cli import main

# Warnings by the thousand are what a history is made of.
logging.disable(logging.WARNING)
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
raise SystemExit(main())
