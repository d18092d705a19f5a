"""The transport that the documentation shows, run as it stands there."""

import re
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from imgateway.errors import LinkLost, OperatorError
from imgateway.interfaces import IConnection, IListener, ITransportAdapter
from imgateway.testing.wires import BareWire, Recorder, accepting, outcome

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extend" / "transport.md"
WIRE = BareWire()


@pytest.fixture
def local():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    names = {}
    exec(
        compile(next(block for block in blocks if "class LocalTransport" in block), str(PAGE), "exec"), names
    )
    return names["LocalTransport"]()


@pytest.fixture
def ends(local):
    clock, made, client = Clock(), [], Recorder()
    [listener] = outcome(local.listen("office", [WIRE], accepting(made), clock, {}))
    [near] = outcome(local.connect("local://office", WIRE, client, clock, {}))
    assert verifyObject(ITransportAdapter, local)
    assert verifyObject(IListener, listener)
    assert verifyObject(IConnection, near)
    client.connection = near
    return clock, client, made[0]


def test_there_and_back(ends):
    clock, client, server = ends
    client.connection.send(b"a")
    client.connection.send(b"b")
    server.connection.send(b"c")
    clock.advance(0)
    assert (server.chunks, client.chunks) == ([b"ab"], [b"c"])
    assert client.wire is server.wire is WIRE


def test_a_peer_that_does_not_read(ends):
    clock, client, server = ends
    client.connection.pause_reading()
    server.connection.send(b"x" * 70_000)
    clock.advance(0)
    assert server.clogged
    assert server.connection.unacked() == 70_000
    client.connection.resume_reading()
    clock.advance(0)
    assert not server.clogged
    assert len(client.data) == 70_000


def test_closing(ends):
    clock, client, server = ends
    server.connection.send(b"bye")
    server.connection.close(200)
    server.connection.close(200)
    server.connection.send(b"late")
    clock.advance(0)
    assert client.data == b"bye"
    assert client.reason == server.reason == "closed"
    clock.advance(2)


def test_closing_against_who_does_not_read_and_aborting(ends):
    clock, client, server = ends
    client.connection.pause_reading()
    server.connection.send(b"bye")
    server.connection.close(200)
    clock.advance(1)
    assert server.reason is None
    clock.advance(1)
    assert client.reason == server.reason == "aborted"


def test_listening(local):
    clock = Clock()
    [listener] = outcome(local.listen("office", [WIRE], lambda connection: None, clock, {}))
    assert isinstance(outcome(local.listen("office", [WIRE], None, clock, {}))[0], OperatorError)

    def failed():
        [error] = outcome(local.connect("local://office", WIRE, Recorder(), clock, {}))
        assert isinstance(error, LinkLost)
        return str(error)

    assert "accepts nobody" in failed()
    listener.pause()
    assert "nobody listens" in failed()
    listener.resume()
    assert "accepts nobody" in failed()
    outcome(listener.stop())
    assert "nobody listens" in failed()
