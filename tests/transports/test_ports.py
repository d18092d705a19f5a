"""Unix sockets that others have left, and what HTTP ports get of the transports' care."""

import fcntl
import os
import socket
import stat
import sys
from typing import Any

import pytest
from twisted.internet import unix
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.protocol import Factory
from zope.interface import implementer

from imgateway.errors import InUse, OperatorError
from imgateway.testing.wires import Network, outcome
from imgateway.transports.listening import listen_stream
from imgateway.transports.ports import LOCK, opener
from imgateway.transports.stream import Side
from imgateway.transports.tls import BoundedTLS


@implementer(IReactorFDSet)
class Files(Network):
    """A network whose unix sockets are the system's; nobody is accepted."""

    def listenUNIX(self, *args: Any, **kwargs: Any) -> Any:
        port = unix.Port(*args, **kwargs, reactor=self)
        port.startListening()
        return port

    def addReader(self, reader: Any) -> None: ...

    def getReaders(self) -> list[Any]:
        return []

    def getWriters(self) -> list[Any]:
        return []

    def removeAll(self) -> list[Any]:
        return []


@pytest.fixture
def network():
    return Files()


def listen(network, path, options=""):
    [listener] = outcome(listen_stream(f"unix:{path}{options}", Side(network, lambda connection: None)))
    return listener


def stop(network, *listeners):
    for listener in listeners:
        network.result(listener.stop())


def left_by_the_dead(path):
    """As a process leaves it that was killed."""
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(os.fspath(path))
        gone.listen()


def refused(network, path):
    error = listen(network, path)
    assert isinstance(error, InUse), error
    assert str(error).endswith(f"the address is in use; see by whom with:  lsof {path}")


@pytest.mark.parametrize("owner", ["us", "1", "none", None])
def test_a_socket_that_a_killed_node_has_left(network, socket_path, owner):
    """Beside an older one lies a link that names a process: in a container it may be our own."""
    left_by_the_dead(socket_path)
    link = f"{socket_path}.lock"
    if owner is not None:
        os.symlink(str(os.getpid()) if owner == "us" else owner, link)
    listener = listen(network, socket_path, ":mode=600")
    assert listener.address == f"unix:{socket_path}"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(socket_path))
    assert stat.S_IMODE(os.stat(socket_path).st_mode) == 0o600
    refused(network, socket_path)
    stop(network, listener)
    left = [] if owner is None else [os.path.basename(link)]
    assert os.listdir(socket_path.parent) == left
    stop(network, listen(network, socket_path))


def test_a_socket_on_which_somebody_listens_is_left_alone(network, socket_path):
    """Another node, or another program, with or without a lock that we know."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(socket_path))
        other.listen(1)
        for _ in range(5):  # also when its queue is full
            refused(network, socket_path)
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            assert client.connect_ex(os.fspath(socket_path)) in (0, 11)
    assert os.listdir(socket_path.parent) == [socket_path.name]


def test_a_file_is_no_socket(network, socket_path):
    socket_path.write_text("somebody's")
    refused(network, socket_path)
    assert socket_path.read_text() == "somebody's"


def test_two_that_start_at_once(network, socket_path):
    left_by_the_dead(socket_path)
    with open(f"{socket_path}{LOCK}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(network, socket_path)
        assert os.path.exists(lock.name)
    stop(network, listen(network, socket_path))


def test_a_lock_that_somebody_has_taken_away(network, socket_path, monkeypatch):
    make = Files.listenUNIX

    def made(self, *args, **kwargs):
        os.unlink(f"{socket_path}{LOCK}")
        return make(self, *args, **kwargs)

    monkeypatch.setattr(Files, "listenUNIX", made)
    stop(network, listen(network, socket_path))


def test_where_no_socket_can_be_made(network, socket_path):
    error = listen(network, socket_path.parent / "not" / "there")
    assert isinstance(error, OperatorError)
    assert str(error).endswith(f"the directory {socket_path.parent}/not does not exist")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such names")
def test_a_name_without_a_file_needs_no_lock(network, socket_path):
    name = f"\0imgateway {socket_path}"
    opened = opener("unix:", network)
    port = opened.listenUNIX(name, Factory())
    with pytest.raises(CannotListenError):
        opened.listenUNIX(name, Factory())
    network.result(port.stopListening())
    assert os.listdir(socket_path.parent) == []


def test_http_ports_are_opened_so_too(network, certificate, socket_path):
    for endpoint, is_ours in (
        ("tcp:7990", False),
        ("systemd:domain=INET:index=0", False),
        ("ssl:7990", True),
    ):
        assert (opener(endpoint, network) is not network) is is_ours
    endpoint = f"ssl:7990:privateKey={certificate}/key.pem:certKey={certificate}/cert.pem"
    port = network.result(serverFromString(opener(endpoint, network), endpoint).listen(Factory()))
    assert port.factory.protocol is BoundedTLS
    assert opener(endpoint, network).seconds() == network.seconds()
