"""Azure on this machine: ARM and Entra ID over real HTTPS, with everything that is awkward about them.

    with AzureSimulator() as azure:                        # one server; a process needs no more
        at = azure.subscription(ManualClock())             # a tenant and a subscription of its own, on a clock of its own
        at.group("rg", location="eastus")                  # what a customer hands over
        client = ComputeManagementClient(
            at.credential(), at.id, base_url=azure.url, connection_verify=str(azure.ca_path),
            credential_scopes=["https://management.azure.com/.default"],
        )

``at.owner`` is a service principal with a secret (``client_id``, ``secret``, ``principal``) for azure-identity, whose authority
is ``azure.url`` and tenant ``at.tenant_id``; ``at.credential(who)`` gives its tokens without a request. ``at.journal`` are the
requests that arrived, ``at.inventory()`` what is there past every lag, ``at.hands`` what can be done behind everybody's back,
``at.fail`` and ``at.throttle`` what the next requests meet, ``at.flows`` other shapes of long-running operations, ``at.lag``
how old lists are, ``at.page_size`` how long their pages.

Nothing happens by itself: what is due by the subscription's clock is carried out when the next request or hand comes.
``at.pace`` makes everything quicker. With ``machines=Machines()`` the custom data of a machine really runs, at the address that
its interface has, and finds its metadata service by ``AZURE_POD_IDENTITY_AUTHORITY_HOST``.

It is written from Microsoft's documentation, and bodies are checked against the models of Microsoft's SDKs (``shapes``). It
does not do:

- deployments, policies, management groups, private endpoints, gateways, DNS zones, metrics and billing;
- old api-versions: every well-formed one is taken, and means the newest;
- uniform scale sets, availability sets and dedicated hosts; other interfaces for a machine that is there;
- what goes over the wire between machines: rules, routes and load balancers are checked and shown, and carry nothing;
- an API server behind an AKS cluster: ``at.hands.serve_cluster`` gives it one that runs elsewhere;
- roles on the data plane: Azurite takes every token for storage that is in time, whoever's it is; what Azure would let an
  identity do is told by ``at.hands.may_blob``, from its role assignments and their conditions;
- application registrations, unless ``at.directory.audiences`` says which there are;
- the simulated clock for tokens of ARM and of storage: the SDKs keep those by this machine's time.
"""

from anyscale_conformance.simulators.azure.simulator import AzureSimulator
from anyscale_conformance.simulators.azure.subscription import Subscription, Thing

__all__ = ["AzureSimulator", "Subscription", "Thing"]
