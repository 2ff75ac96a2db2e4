"""Google Cloud on this machine: a simulator over real HTTP, written from the vendor's own documents.

    simulator = GcpSimulator()                                  # listens on 127.0.0.1
    project = simulator.add_project("p-1", clock=ManualClock()) # each with a clock of its own; apart from all others
    token = project.token("user:ada@example.com")               # an access token (Authorization: Bearer)
    compute = build("compute", "v1", static_discovery=True, credentials=Credentials(token),
                    client_options={"api_endpoint": simulator.endpoint("compute")})

Routes, parameters and bodies are held against the discovery documents of the google-api-python-client wheel, those of requests
and those of its own answers (``simulator.faults`` stays empty). Time comes from the project's clock alone, and what was to
happen meanwhile happens at the next request.
"""

from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.inventory import Seen
from anyscale_conformance.simulators.gcp.simulator import CERTIFICATES, GcpSimulator, ProjectHands, Running
from anyscale_conformance.simulators.gcp.tokens import Guard
from anyscale_conformance.simulators.gcp.world import Timings

__all__ = ["CERTIFICATES", "ApiError", "GcpSimulator", "Guard", "ProjectHands", "Running", "Seen", "Timings"]
