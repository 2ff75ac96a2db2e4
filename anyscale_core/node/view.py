"""What a head sees of its cluster, as its launcher tells the agent."""

import attrs

from anyscale_core.models.node import Demand, Gang, RayNode


@attrs.frozen(kw_only=True)
class HeadView:
    """Ray's state at one moment, in the words of ``models.node``."""

    demand: tuple[Demand, ...] = ()
    gangs: tuple[Gang, ...] = ()
    constraints: tuple[Demand, ...] = ()
    ray_nodes: tuple[RayNode, ...] = ()

    def wants(self) -> tuple[object, ...]:
        """Return the part whose age matters: what is asked for."""
        return self.demand, self.gangs, self.constraints

    def shape(self) -> tuple[object, ...]:
        """Return what the control plane should hear of at once: all but the ticking of idle clocks and usage."""
        return *self.wants(), tuple(
            (node.ray_id, node.instance_name, node.status, node.total) for node in self.ray_nodes
        )
