"""The ``anyscale-core`` command: reads arguments, asks the control plane, shows what it says. It decides nothing.

Door rule: a module of this package imports what one verb alone needs inside that verb; ``--help`` loads argparse and
nothing else.
"""
