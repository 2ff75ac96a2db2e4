"""What really runs when instances are booted: nothing, unless machines were asked for."""

from anyscale_conformance.simulators.gcp.world import Project, Resource


class Power:
    """Runs nothing: instances are rows of a table."""

    def address(self) -> str:
        """Return the address of the next machine; empty when its subnetwork decides."""
        return ""

    def boot(self, project: Project, instance: Resource) -> None:
        """Run an instance's startup script."""

    def cut(self, instance: Resource) -> None:
        """Cut an instance's power; its disk stays."""

    def remove(self, instance: Resource) -> None:
        """Take an instance and its disk away."""

    def console(self, instance: Resource) -> str:  # noqa: ARG002 - nothing runs, nothing is printed
        """Return what an instance has printed."""
        return ""

    def close(self) -> None:
        """End everything that runs."""
