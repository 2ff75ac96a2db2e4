"""Stand-ins for clouds, nodes and time, shipped so that embedders and plugin authors can test without either.

Needs attrs, cattrs and pluggy alone. ``FakeProvider`` is a complete provider over ``FakeCloud``, a world in memory with
hands for faults; ``FakeAgents`` plays every node's agent and a Ray beneath it; time is a ``ManualClock`` moved by hand.
"""

from anyscale_core.testing.agents import FakeAgents, Plane
from anyscale_core.testing.clock import ManualClock
from anyscale_core.testing.fake import FakeProvider
from anyscale_core.testing.faults import FaultRule, WireCall
from anyscale_core.testing.ray import FakeDemand, FakeRay
from anyscale_core.testing.world import FakeCloud, Item, Remains

__all__ = [
    "FakeAgents",
    "FakeCloud",
    "FakeDemand",
    "FakeProvider",
    "FakeRay",
    "FaultRule",
    "Item",
    "ManualClock",
    "Plane",
    "Remains",
    "WireCall",
]
