"""Tests reach this machine and nothing else."""

import socket

import pytest
import pytest_socket


def test_no_test_reaches_beyond_this_machine() -> None:
    with pytest.raises(pytest_socket.SocketConnectBlockedError):
        socket.create_connection(("192.0.2.1", 443), timeout=0.1)  # RFC 5737: an address that is nobody's
