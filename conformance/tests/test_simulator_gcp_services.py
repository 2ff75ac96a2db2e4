"""Networks, load balancers, GKE, projects, tokens and booted machines of the simulated Google Cloud."""

import base64
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest
from anyscale_conformance.simulators.gcp import GcpSimulator, Guard, Running, Timings
from anyscale_conformance.simulators.gcp.calls import HANDLERS
from anyscale_conformance.simulators.gcp.clients import client
from anyscale_conformance.simulators.gcp.dispatch import APIS
from anyscale_conformance.simulators.gcp.lab import MINUTE, REGION, ZONE, Lab, order, reason, refused
from anyscale_conformance.simulators.gcp.schema import Document

from anyscale_core.testing.clock import ManualClock

WAIT_S = 30.0


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    faults = list(lab.simulator.faults)
    lab.simulator.close()
    assert faults == [], "the simulator's own answers keep to the published schemas"


def test_a_network_is_used_when_it_is_ready_and_deleted_when_nothing_uses_it(lab: Lab) -> None:
    networks, subnetworks = lab.compute.networks(), lab.compute.subnetworks()
    networks.insert(project="p-1", body={"name": "new", "autoCreateSubnetworks": False}).execute()
    body = {"name": "part", "network": "global/networks/new", "ipCidrRange": "10.2.0.0/24"}
    assert reason(refused(subnetworks.insert(**REGION, body=body))) == "resourceNotReady"
    lab.clock.advance(MINUTE)
    subnetworks.insert(**REGION, body=body).execute()
    overlapping = {**body, "name": "other", "ipCidrRange": "10.2.0.128/25"}
    assert "conflicts with existing subnetwork" in refused(subnetworks.insert(**REGION, body=overlapping)).reason
    assert "RFC1918" in refused(subnetworks.insert(**REGION, body={**overlapping, "ipCidrRange": "8.8.8.0/24"})).reason
    lab.clock.advance(MINUTE)
    assert reason(refused(networks.delete(project="p-1", network="new"))) == "resourceInUseByAnotherResource"
    lab.insert("vm")
    assert reason(refused(subnetworks.delete(**REGION, subnetwork="sub"))) == "resourceInUseByAnotherResource"
    subnetworks.delete(**REGION, subnetwork="part").execute()
    lab.clock.advance(MINUTE)
    networks.delete(project="p-1", network="new").execute()
    lab.clock.advance(MINUTE)
    assert refused(networks.get(project="p-1", network="new")).status_code == 404
    assert [
        route["network"].rpartition("/")[2] for route in lab.compute.routes().list(project="p-1").execute()["items"]
    ] == ["net"]


def test_instances_of_a_service_project_lie_in_the_hosts_shared_network(lab: Lab) -> None:
    service = lab.simulator.add_project("p-service", clock=lab.clock, timings=Timings.none())
    service.share_network_of("p-1")
    compute = client(lab.simulator, "compute", token=service.token())
    assert compute.projects().getXpnHost(project="p-service").execute()["name"] == "p-1"
    body = {
        **order(),
        "name": "vm",
        "networkInterfaces": [{"subnetwork": "projects/p-1/regions/us-central1/subnetworks/sub"}],
    }
    compute.instances().insert(project="p-service", zone="us-central1-a", body=body).execute()
    lab.insert("vm")
    interfaces = [
        found.instances().get(project=project, zone="us-central1-a", instance="vm").execute()["networkInterfaces"][0]
        for found, project in ((compute, "p-service"), (lab.compute, "p-1"))
    ]
    assert [interface["networkIP"] for interface in interfaces] == ["10.1.0.2", "10.1.0.3"]
    assert interfaces[0]["subnetwork"] == interfaces[1]["subnetwork"]


def test_firewall_rules_are_exact_and_are_patched(lab: Lab) -> None:
    firewalls = lab.compute.firewalls()
    body = {
        "name": "in",
        "network": "global/networks/net",
        "allowed": [{"IPProtocol": "tcp", "ports": ["22", "80-90"]}],
    }
    firewalls.insert(project="p-1", body=body).execute()
    assert firewalls.get(project="p-1", firewall="in").execute()["sourceRanges"] == ["0.0.0.0/0"], (
        "from anywhere by default"
    )
    lab.clock.advance(MINUTE)
    firewalls.patch(project="p-1", firewall="in", body={"name": "in", "sourceRanges": ["10.0.0.0/8"]}).execute()
    assert firewalls.list(project="p-1").execute()["items"][0]["sourceRanges"] == ["10.0.0.0/8"]
    for wrong in ({"denied": [{"IPProtocol": "tcp"}]}, {"allowed": [{"IPProtocol": "tcp", "ports": ["99999"]}]},
                  {"sourceTags": ["a"], "targetServiceAccounts": ["b@c"]}, {"sourceRanges": ["everywhere"]}):  # fmt: skip
        assert refused(firewalls.insert(project="p-1", body={**body, "name": "bad", **wrong})).status_code == 400


def test_a_passthrough_load_balancer_knows_which_instances_answer(lab: Lab) -> None:
    compute = lab.compute
    lab.insert("vm")
    lab.clock.advance(MINUTE)
    vm = {"instances": [{"instance": lab.get("vm")["selfLink"]}]}
    check = {"name": "check", "type": "TCP", "tcpHealthCheck": {"port": 443}}
    compute.regionHealthChecks().insert(**REGION, body=check).execute()
    compute.instanceGroups().insert(**ZONE, body={"name": "group", "network": "global/networks/net"}).execute()
    compute.addresses().insert(**REGION, body={"name": "ip"}).execute()
    lab.clock.advance(MINUTE)
    compute.instanceGroups().addInstances(**ZONE, instanceGroup="group", body=vm).execute()
    lab.clock.advance(MINUTE)
    group = {"group": "zones/us-central1-a/instanceGroups/group"}
    service = {"name": "service", "backends": [group], "healthChecks": ["regions/us-central1/healthChecks/check"]}
    compute.regionBackendServices().insert(**REGION, body=service).execute()
    rule = {
        "name": "rule", "IPAddress": "regions/us-central1/addresses/ip", "ports": ["443"],
        "backendService": "regions/us-central1/backendServices/service",
    }  # fmt: skip
    assert reason(refused(compute.forwardingRules().insert(**REGION, body=rule))) == "resourceNotReady"
    lab.clock.advance(timedelta(seconds=10))
    health = compute.regionBackendServices().getHealth(**REGION, backendService="service", body=group)
    assert health.execute()["healthStatus"][0]["healthState"] == "UNHEALTHY"
    lab.clock.advance(MINUTE)
    assert health.execute()["healthStatus"][0]["healthState"] == "HEALTHY"
    compute.forwardingRules().insert(**REGION, body=rule).execute()
    lab.clock.advance(MINUTE)
    address = compute.addresses().get(**REGION, address="ip").execute()
    assert (address["status"], compute.forwardingRules().get(**REGION, forwardingRule="rule").execute()["IPAddress"]) == (
        "IN_USE", address["address"],
    )  # fmt: skip
    for call in (
        compute.addresses().delete(**REGION, address="ip"),
        compute.regionBackendServices().delete(**REGION, backendService="service"),
        compute.regionHealthChecks().delete(**REGION, healthCheck="check"),
        compute.instanceGroups().delete(**ZONE, instanceGroup="group"),
    ):
        assert reason(refused(call)) == "resourceInUseByAnotherResource"
    compute.forwardingRules().delete(**REGION, forwardingRule="rule").execute()
    assert compute.addresses().get(**REGION, address="ip").execute()["status"] == "RESERVED"


def test_an_older_load_balancer_is_a_target_pool(lab: Lab) -> None:
    pools = lab.compute.targetPools()
    lab.insert("vm")
    lab.clock.advance(MINUTE)
    link = lab.get("vm")["selfLink"]
    pools.insert(**REGION, body={"name": "pool"}).execute()
    lab.clock.advance(MINUTE)
    pools.addInstance(**REGION, targetPool="pool", body={"instances": [{"instance": link}]}).execute()
    lab.clock.advance(MINUTE)
    health = pools.getHealth(**REGION, targetPool="pool", body={"instance": link}).execute()
    assert health["healthStatus"][0]["healthState"] == "HEALTHY"
    lab.project.vanish("vm")
    assert pools.list(**REGION).execute()["items"][0]["name"] == "pool"


def test_clusters_and_node_pools_of_gke_come_and_go_one_change_at_a_time(lab: Lab) -> None:
    clusters = client(lab.simulator, "container", token=lab.project.token()).projects().locations().clusters()
    body = {"cluster": {"name": "kube", "network": "net", "initialNodeCount": 1, "resourceLabels": {"a": "b"}}}
    parent = "projects/p-1/locations/us-central1"
    clusters.create(parent=parent, body=body).execute()
    assert reason(refused(clusters.create(parent=parent, body=body))) == "alreadyExists"
    name = f"{parent}/clusters/kube"
    assert refused(clusters.delete(name=name)).status_code == 400, "an operation is going on"
    lab.clock.advance(timedelta(minutes=6))
    lab.project.serve_cluster("us-central1", "kube", endpoint="127.0.0.1:6443", certificate="Zm9v")
    kube = clusters.get(name=name).execute()
    assert (kube["status"], kube["endpoint"], kube["nodePools"][0]["status"]) == (
        "RUNNING",
        "127.0.0.1:6443",
        "RUNNING",
    )
    clusters.nodePools().create(parent=name, body={"nodePool": {"name": "gpu"}}).execute()
    lab.clock.advance(timedelta(minutes=6))
    clusters.nodePools().setSize(name=f"{name}/nodePools/gpu", body={"nodeCount": 3}).execute()
    lab.clock.advance(timedelta(minutes=6))
    assert clusters.nodePools().get(name=f"{name}/nodePools/gpu").execute()["initialNodeCount"] == 3
    clusters.delete(name=name).execute()
    lab.clock.advance(timedelta(minutes=6))
    assert clusters.list(parent="projects/p-1/locations/-").execute() == {"clusters": []}


def test_projects_are_apart_and_each_has_its_own_time(lab: Lab) -> None:
    other = lab.simulator.add_project("p-2", clock=ManualClock(), timings=Timings.none())
    token = other.token()
    compute = client(lab.simulator, "compute", token=token)
    lab.insert("vm")
    assert "items" not in compute.instances().list(project="p-2", zone="us-central1-a").execute()
    lab.clock.advance(timedelta(days=30))
    compute.networks().insert(project="p-2", body={"name": "net"}).execute()
    assert compute.networks().get(project="p-2", network="net").execute()["creationTimestamp"].startswith("2025-12-31")
    assert reason(refused(compute.networks().get(project="p-9", network="net"))) == "notFound"
    lab.simulator.remove_project("p-2")
    assert refused(compute.networks().get(project="p-2", network="net")).status_code == 404


def test_every_request_is_in_the_journal(lab: Lab) -> None:
    token = str(uuid.uuid4())
    lab.insert("vm", request_id=token)
    refused(lambda: lab.get("none"))
    inserted, asked = lab.project.requests("compute.instances.insert"), lab.project.requests("compute.instances.get")
    assert [(entry.request_id, entry.status) for entry in inserted] == [(token, 200)]
    assert [(entry.status, entry.reason) for entry in asked] == [(404, "notFound")]


def test_a_request_without_a_good_token_is_refused(lab: Lab) -> None:
    url = f"{lab.simulator.endpoint('compute')}projects/p-1/global/networks"
    for headers in ({}, {"Authorization": "Bearer made-up"}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10)
        assert caught.value.code == 401
    short = lab.project.token(lifetime=MINUTE)
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {short}"})
    assert urllib.request.urlopen(request, timeout=10).status == 200
    lab.clock.advance(MINUTE)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code == 401


def test_what_cannot_be_read_is_an_error_of_the_request_and_not_of_the_simulator(lab: Lab) -> None:
    headers = {"Authorization": f"Bearer {lab.project.token()}", "Content-Type": "application/json"}
    compute, storage = lab.simulator.endpoint("compute"), lab.simulator.endpoint("storage")
    for url, body in (
        (f"{compute}projects/p-1/global/networks", b"{no json"),
        (f"{compute}projects/p-1/global/networks", b"[1]"),
        (f"{compute}projects/p-1/global/networks?requestID=x", b"{}"),
        (f"{compute}projects/p-1/global/networks?maxResults=many", None),
        (f"{compute}projects/p-1/moons", None),
        (f"{lab.simulator.url}/v1/nothing/of/this", None),
        (f"{storage}b?project=nobody", None),
        (f"{lab.simulator.url}/no-bucket?max-keys=many", None),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers), timeout=10)
        assert caught.value.code in (400, 404), url


def test_a_permission_that_is_missing_is_named(lab: Lab) -> None:
    with GcpSimulator(guard=Guard.PERMISSIONS) as simulator:
        project = simulator.add_project("p-1", clock=lab.clock, timings=Timings.none())
        client(simulator, "compute", token=project.token()).networks().insert(
            project="p-1", body={"name": "default"}
        ).execute()
        member = f"serviceAccount:{project.add_account('deployer')}"
        compute = client(simulator, "compute", token=project.token(member))
        body = {**order(), "name": "vm", "networkInterfaces": [{}], "labels": {"a": "b"}}
        insert = compute.instances().insert(**ZONE, body=body)
        error = refused(insert)
        assert (error.status_code, reason(error)) == (403, "forbidden")
        assert "Required 'compute.instances.create' permission for 'projects/p-1'" in error.reason
        project.bind("", "roles/compute.instanceAdmin.v1", member)
        insert.execute()
        assert compute.regions().get(**REGION).execute()["name"] == "us-central1"
        assert compute.projects().get(project="p-1").execute()["name"] == "p-1"
        email = project.add_account("worker")
        as_other = compute.instances().insert(
            **ZONE, body={**body, "name": "vm-2", "serviceAccounts": [{"email": email}]}
        )
        assert "iam.serviceAccounts.actAs" in refused(as_other).reason
        project.bind(email, "roles/iam.serviceAccountUser", member)
        as_other.execute()
        rule = compute.firewalls().insert(project="p-1", body={"name": "x", "allowed": []})
        assert "compute.firewalls.create" in refused(rule).reason


def test_a_role_under_a_condition_reaches_the_resources_that_it_names() -> None:
    with GcpSimulator(guard=Guard.PERMISSIONS) as simulator:
        project = simulator.add_project("p-1", timings=Timings.none())
        client(simulator, "compute", token=project.token()).networks().insert(
            project="p-1", body={"name": "default"}
        ).execute()
        member = f"serviceAccount:{project.add_account('deployer')}"
        condition = {"title": "mine", "expression": 'resource.name.extract("instances/{name}").startsWith("mine-")'}
        binding = {"role": "roles/compute.instanceAdmin.v1", "members": [member], "condition": condition}
        policy = {"version": 3, "bindings": [{"role": "roles/owner", "members": ["user:owner@example.com"]}, binding]}
        projects = client(simulator, "cloudresourcemanager", token=project.token()).projects()
        projects.setIamPolicy(resource="projects/p-1", body={"policy": policy}).execute()
        compute = client(simulator, "compute", token=project.token(member)).instances()
        body = {**order(), "networkInterfaces": [{}]}
        compute.insert(**ZONE, body={**body, "name": "mine-1"}).execute()
        assert compute.get(**ZONE, instance="mine-1").execute()["status"] == "RUNNING"
        assert refused(compute.insert(**ZONE, body={**body, "name": "yours"})).status_code == 403
        assert refused(compute.delete(**ZONE, instance="yours")).status_code == 403
        assert simulator.faults == []


def test_sixteen_threads_get_only_their_own_answers() -> None:
    with GcpSimulator() as simulator:
        project = simulator.add_project("p-1", timings=Timings.none())
        token = project.token()
        client(simulator, "compute", token=token).networks().insert(project="p-1", body={"name": "default"}).execute()
        wrong: list[str] = []

        def work(number: int) -> None:
            compute = client(simulator, "compute", token=token)
            body = {**order(), "name": f"vm-{number}", "networkInterfaces": [{}]}
            compute.instances().insert(**ZONE, body=body).execute()
            get = compute.instances().get(**ZONE, instance=f"vm-{number}")
            wrong.extend(name for _ in range(20) if (name := get.execute()["name"]) != f"vm-{number}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        addresses = {
            thing.body["networkInterfaces"][0]["networkIP"]
            for thing in project.inventory()
            if thing.kind == "instances"
        }
    assert (wrong, len(addresses)) == ([], 16)


BOOTED = """#!/bin/sh
echo "address $ANYSCALE_CORE_ADDRESS"
python - <<'END'
import google.auth.compute_engine, google.auth.transport.requests, google.oauth2.id_token
request = google.auth.transport.requests.Request()
credentials = google.auth.compute_engine.Credentials()
credentials.refresh(request)
print("account", credentials.service_account_email)
print("identity", google.oauth2.id_token.fetch_id_token(request, "https://plane.example.com"), flush=True)
END
exec sleep 1000
"""


def test_a_booted_instance_runs_its_script_and_its_metadata_server_tells_it_who_it_is() -> None:
    with GcpSimulator(machines=Running.SCRIPTS) as simulator:
        project = simulator.add_project("p-1", timings=Timings.none())
        compute = client(simulator, "compute", token=project.token())
        compute.networks().insert(project="p-1", body={"name": "default"}).execute()
        email = project.add_account("worker")
        body = {
            **order(), "name": "vm", "networkInterfaces": [{}],
            "serviceAccounts": [{"email": email, "scopes": ["cloud-platform"]}],
            "metadata": {"items": [{"key": "startup-script", "value": BOOTED}]},
        }  # fmt: skip
        compute.instances().insert(**ZONE, body=body).execute()
        address = compute.instances().get(**ZONE, instance="vm").execute()["networkInterfaces"][0]["networkIP"]
        end = time.monotonic() + WAIT_S
        while (printed := project.console("vm")).count("\n") < 3:
            assert time.monotonic() < end, printed
            time.sleep(0.05)
        lines = dict(line.split(" ", 1) for line in printed.splitlines())
        assert (lines["address"], lines["account"]) == (address, email)
        claims = json.loads(base64.urlsafe_b64decode(lines["identity"].split(".")[1] + "=="))
        assert claims["aud"] == "https://plane.example.com"
        assert claims["google"]["compute_engine"]["instance_name"] == "vm"
        compute.instances().delete(**ZONE, instance="vm").execute()
        assert project.inventory()[0].kind != "instances"
        assert simulator.faults == []


def test_every_method_that_is_answered_is_one_of_the_published_ones() -> None:
    published = {method for api in APIS for method in Document.load(*api).methods}
    assert set(HANDLERS) <= published


def test_an_answer_that_its_schema_does_not_allow_is_a_fault_of_the_simulator(lab: Lab) -> None:
    lab.insert("vm")
    lab.project.project.all("instances")[0].body["status"] = "DREAMING"
    assert refused(lambda: lab.get("vm")).status_code == 500
    assert "Invalid value at 'status' (enum, 'DREAMING')" in lab.simulator.faults.pop()


def test_it_is_a_process_of_its_own_until_its_input_ends() -> None:
    command = [sys.executable, "-m", "anyscale_conformance.simulators.gcp", "p-1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        request = urllib.request.Request(
            f"{said['endpoints']['compute']}projects/p-1", headers={"Authorization": f"Bearer {said['tokens']['p-1']}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.loads(answer.read())["name"] == "p-1"
        process.stdin.close()
        assert process.wait(WAIT_S) == 0
