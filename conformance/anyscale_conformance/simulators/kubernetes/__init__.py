"""A Kubernetes API server on this machine: real HTTPS, real refusals, time by an injected clock.

    from anyscale_conformance.simulators.kubernetes import NodeSpec, Servers, Settings

    servers = Servers()                                  # one thread and one event loop for the process; a context manager
    cluster = servers.start(clock=clock)                 # a cluster of its own, at a port of its own; Settings(...) says how
    cluster.url, cluster.ca_file, cluster.admin_token    # or cluster.kubeconfig(token)
    token = cluster.add_user("operator")                 # somebody whom only roles allow something (system:masters: all)
    cluster.make_namespace("ray")
    cluster.requests                                     # the journal: method, path, query, user, status
    servers.close()

Nothing waits: what takes time is due at an instant of the clock, and is done when the cluster is next looked at by a request,
by a hand, or (every 20 ms) because a watch is open. With ``Settings(boots=True)``
containers are processes (``booting`` says how).

What it does not do (docs/kubernetes-simulator.md has all of it): StatefulSets, DaemonSets, Jobs, custom resource definitions
and webhooks; protobuf, tables, OpenAPI, exec and port-forward; impersonation and client certificates; CEL, and every rule of
validation; spreading and preferred affinities; probes, hooks and init containers; enforcing NetworkPolicies; scopes of quotas.
What its own components write has no field manager.
"""

from anyscale_conformance.simulators.kubernetes.cluster import Cluster
from anyscale_conformance.simulators.kubernetes.server import Servers
from anyscale_conformance.simulators.kubernetes.settings import NodeSpec, Request, Settings

__all__ = ["Cluster", "NodeSpec", "Request", "Servers", "Settings"]
