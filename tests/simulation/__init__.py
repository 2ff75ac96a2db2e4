"""The whole control plane on one virtual clock and one seed: ``python -m tests.simulation --seed N --steps M``.

A history is a list of plain actions; the world plays it, the judge looks after every step. Whoever adds something that can
happen writes one function in ``actions``; whoever adds something that must hold writes one rule in ``judge``.
"""
