"""What somebody on the network tries with a cluster's Ray: join, read and submit, with the wrong papers."""

import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import psutil
from ray.core.generated import (
    autoscaler_pb2,
    autoscaler_pb2_grpc,
    common_pb2,
    gcs_pb2,
    gcs_service_pb2,
    gcs_service_pb2_grpc,
)

from anyscale_core.node.head import credentials
from anyscale_core.node.rayargs import TLS_VARIABLES

DEADLINE = 3.0
"""Seconds that a connection is tried for; a refused one is never made."""


def channels(
    mine: Mapping[str, str], foreign: Mapping[str, str]
) -> dict[str, tuple[grpc.ChannelCredentials | None, bool]]:
    """Return how one may come: what to show, and whether Ray's token is with it. By the environment of nodes."""
    ca = Path(mine[TLS_VARIABLES[2]]).read_bytes()
    cert, key = (Path(foreign[name]).read_bytes() for name in TLS_VARIABLES[:2])
    return {
        "plain": (None, True),
        "without a certificate": (grpc.ssl_channel_credentials(root_certificates=ca), True),
        "with another cluster's": (
            grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert), True,
        ),
        "without the token": (credentials(mine), False),
        "with both": (credentials(mine), True),
    }  # fmt: skip


def attempts(address: str, papers: grpc.ChannelCredentials | None, token: str) -> dict[str, grpc.StatusCode]:
    """Try to read, to join and to submit at a GCS; return how each ended."""
    channel = grpc.insecure_channel(address) if papers is None else grpc.secure_channel(address, papers)
    node = gcs_pb2.GcsNodeInfo(node_id=b"\x01" * 28, node_manager_address="127.0.0.1")
    job = gcs_pb2.JobTableData(job_id=b"\x01" * 4, driver_address=common_pb2.Address())
    calls: dict[str, tuple[Any, Any]] = {
        "read": (
            autoscaler_pb2_grpc.AutoscalerStateServiceStub(channel).GetClusterResourceState,
            autoscaler_pb2.GetClusterResourceStateRequest(),
        ),
        "join": (
            gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).RegisterNode,
            gcs_service_pb2.RegisterNodeRequest(node_info=node),
        ),
        "submit": (
            gcs_service_pb2_grpc.JobInfoGcsServiceStub(channel).AddJob, gcs_service_pb2.AddJobRequest(data=job),
        ),
    }  # fmt: skip
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    out = {}
    with channel:
        for what, (method, request) in calls.items():
            try:
                method(request, timeout=DEADLINE, metadata=metadata)
                out[what] = grpc.StatusCode.OK
            except grpc.RpcError as error:
                out[what] = error.code()
            if papers is None or out[what] is not grpc.StatusCode.OK:
                continue
            break  # the one with the right papers has read; it need not do harm
    return out


def speaks_plain(process: psutil.Process) -> list[int]:
    """Return the gRPC ports of a raylet or gcs_server that greet a client which shows no certificate."""
    open_to_all = []
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    for port in {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}:
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as plain:
            try:
                with context.wrap_socket(plain) as tls:
                    # With TLS 1.3 the refusal of a client comes after its own handshake has ended.
                    if tls.recv(1):
                        open_to_all.append(port)
            except OSError:
                continue
    return open_to_all
