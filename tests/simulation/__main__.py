from tests.simulation.cli import main

raise SystemExit(main())
