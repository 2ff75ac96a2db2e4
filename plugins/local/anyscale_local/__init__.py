"""Ray clusters as processes on this machine. Stands on the contract alone: hookspecs, drivers, models, errors, clock."""
