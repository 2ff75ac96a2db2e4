"""The conformance suite: proves that a provider keeps the contract, or says exactly what it does not keep.

Stands on the contract of anyscale-core (hookspecs, drivers, models, errors, clock, registry, planning, testing) and never on
its control plane, service, node agent or command line.
"""
