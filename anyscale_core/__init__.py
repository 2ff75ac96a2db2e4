"""anyscale_core: the open kernel of a bring-your-own-cloud Ray platform.

The bare import needs attrs, cattrs and pluggy alone and loads no cloud SDK. Rooms, from the ground up: ``errors`` and
``clock``; ``models`` (values); ``drivers`` (the contract); ``hookspecs`` and ``registry`` (plugins); ``planning`` (pure
decisions); ``controlplane`` (state and effects); ``api``, ``node``, ``operator`` and ``cli`` on top.
"""

__version__ = "0.1.0"

CONTRACT_VERSION = "1.0"
"""The version of the driver contract that this core speaks; see docs/contract.md."""
