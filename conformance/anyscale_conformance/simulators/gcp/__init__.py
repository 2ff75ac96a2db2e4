"""Google Cloud on this machine: a simulator over real HTTP, written from the vendor's own documents.

    simulator = GcpSimulator()                                  # listens on 127.0.0.1
    project = simulator.add_project("p-1", clock=ManualClock()) # each with a clock of its own; apart from all others
    token = project.token("user:ada@example.com")               # an access token (Authorization: Bearer)
    compute = build("compute", "v1", static_discovery=True, credentials=Credentials(token),
                    client_options={"api_endpoint": simulator.endpoint("compute")})

Below ``simulator.url`` are all APIs (``simulator.endpoint(api)``), the objects of Cloud Storage (``URL/BUCKET/KEY``, what obstore
calls its ``base_url``) and Google's public keys (``CERTIFICATES``). Answered are

- **compute** v1: instances (insert, bulkInsert, get, list, aggregatedList, delete, stop, start, reset, setLabels, setMetadata,
  setTags, setDeletionProtection, getSerialPortOutput), disks, images, networks, subnetworks, routes, routers, firewalls,
  addresses, health checks, instance groups, target pools, regional backend services and forwarding rules (passthrough),
  zones, regions, projects, machine and accelerator types, operations of zones, regions and the project;
- **iam** v1: service accounts, custom roles, workload identity pools and their OIDC providers; **iamcredentials** v1: access and
  identity tokens, signBlob, signJwt; **sts** v1: token, also of access
  boundaries; **cloudresourcemanager** v1 and v3: projects and their policies;
- **storage** v1: buckets, their policies, objects; the XML API of objects; signed URLs, version 4;
- **container** v1: clusters and node pools of locations, operations;
- the metadata server of each machine that is booted (``GcpSimulator(machines=Running.SCRIPTS)``).

Routes, parameters and bodies are held against the discovery documents of the google-api-python-client wheel, those of requests
and those of its own answers: ``simulator.faults`` stays empty. A method that there is and that is not answered here is a 501.
Time comes from the project's clock alone, and what was to happen meanwhile happens at the next request. Requests are in
``project.requests()``, everything that exists in ``project.inventory()``, and ``ProjectHands`` has what can be done behind the
back of who uses it.

What it does not do: reach packets (firewalls, routes and load balancers are rows; health is whether the instance runs),
charge, run Kubernetes, know more machine types, roles and locations than its catalogues have, instance templates and managed
groups, object ACLs, versions and holds of objects, customer keys, organisations and folders, principals of workforces, SAML,
AWS and X.509 providers, batch requests, resumable uploads by the JSON API, notifications. ``wait`` answers at once. Predefined
roles that it does not know allow nothing. Where the vendor's documents leave open what happens, it is strict: a requestId that
comes again with another request is refused; it is remembered for an hour.
"""

from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.inventory import Seen
from anyscale_conformance.simulators.gcp.simulator import CERTIFICATES, GcpSimulator, ProjectHands, Running
from anyscale_conformance.simulators.gcp.tokens import Guard
from anyscale_conformance.simulators.gcp.world import QuotaAnswer, Timings

__all__ = [
    "CERTIFICATES",
    "ApiError",
    "GcpSimulator",
    "Guard",
    "ProjectHands",
    "QuotaAnswer",
    "Running",
    "Seen",
    "Timings",
]
