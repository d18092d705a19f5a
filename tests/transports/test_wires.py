"""The fakes themselves: what other tests stand on."""

import random

import pytest
from twisted.internet.error import ConnectionDone
from zope.interface.verify import verifyObject

from imgateway.interfaces import IConnection, IProtocolAdapter, IReceiver
from imgateway.testing.wires import (
    BareWire,
    MemoryConnection,
    Network,
    RawPeer,
    Recorder,
    accepting,
    connection_pair,
    outcome,
    pump,
)
from imgateway.transports.tcp import TCPTransport

WIRE = BareWire()


def pair(**options):
    one, two = connection_pair(**options)
    for end in (one, two):
        end.receiver = Recorder()
        end.receiver.opened(WIRE)
    return one, two


def test_providers():
    assert verifyObject(IConnection, MemoryConnection())
    assert verifyObject(IReceiver, Recorder())
    assert verifyObject(IProtocolAdapter, WIRE)
    with pytest.raises(NotImplementedError):
        WIRE.codec(True, 1)


def test_a_pair_carries_with_pump():
    one, two = pair()
    one.send(b"a")
    two.send(b"b")
    assert two.receiver.chunks == []
    assert (one.unsent(), one.unacked()) == (1, 1)
    pump(one, two)
    assert (one.receiver.chunks, two.receiver.chunks) == ([b"b"], [b"a"])
    assert one.sent == [b"a"]
    assert one.unsent() == 0


def test_a_stream_in_pieces_and_messages_whole():
    one, two = pair(chunk=2)
    one.send(b"abcde")
    pump(one, two)
    assert two.receiver.chunks == [b"ab", b"cd", b"e"]
    one, two = pair(stream=False, chunk=2)
    one.send(b"abcde")
    pump(one, two)
    assert two.receiver.chunks == [b"abcde"]


def test_who_stopped_reading_gets_nothing():
    one, two = pair()
    two.pause_reading()
    one.send(b"a")
    pump(one, two)
    assert two.receiver.chunks == []
    two.resume_reading()
    pump(one, two)
    assert two.receiver.chunks == [b"a"]


def test_close_flushes_then_both_lose_it():
    one, two = pair()
    one.send(b"bye")
    one.close(200)
    one.close(7)
    one.send(b"late")
    two.send(b"unheard")
    pump(one, two)
    assert two.receiver.chunks == [b"bye"]
    assert one.receiver.chunks == []
    assert one.closed_with == 200
    assert one.receiver.reason == two.receiver.reason == "closed with code 200"


def test_abort_drops():
    one, two = pair()
    one.send(b"a")
    one.abort()
    one.abort()
    one.close(1)
    pump(one, two)
    assert two.receiver.chunks == []
    assert two.receiver.reason == "aborted"
    alone = MemoryConnection()
    alone.send(b"x")
    pump(alone)
    alone.lose()
    assert alone.lost


def test_a_recorder_notices_calls_out_of_order():
    recorder = Recorder()
    with pytest.raises(AssertionError, match="before opened"):
        recorder.received(b"x")
    recorder.lost("gone")
    with pytest.raises(AssertionError, match="lost twice"):
        recorder.lost("again")


# ------------------------------------------------------------------------------------------------- network


def listening(network, echo=False):
    made = []
    network.result(TCPTransport().listen("tcp:0", [WIRE], accepting(made, echo), network, {}))
    return made


def test_ports_are_given_and_taken_back():
    network = Network()
    listener = network.result(TCPTransport().listen("tcp:0", [WIRE], accepting([]), network, {}))
    assert listener.port == 50_001
    network.result(listener.stop())
    assert isinstance(
        network.result(TCPTransport().listen("tcp:50001", [WIRE], accepting([]), network, {})).port, int
    )


def test_chunks_may_be_random():
    rng = random.Random(7)
    network = Network(chunk=lambda there: rng.randint(1, there))
    made = listening(network)
    peer = RawPeer.on(network, 50_001)
    peer.send(bytes(range(256)) * 8)
    assert made[0].data == bytes(range(256)) * 8
    assert len(made[0].chunks) > 1


def test_result_raises_and_notices_what_never_fires():
    from twisted.internet.defer import Deferred, fail, succeed

    network = Network()
    assert network.result(succeed(3)) == 3
    with pytest.raises(ZeroDivisionError):
        network.result(fail(ZeroDivisionError()))
    with pytest.raises(AssertionError, match="not fired"):
        network.result(Deferred())
    assert outcome(Deferred()) == []


def test_a_network_that_never_rests_is_noticed():
    network = Network()

    def again():
        network.callLater(0, again)

    calls = []
    network.callLater(0, lambda: calls.append(1))
    network.settle()
    assert calls == [1]
    network.addReader(restless := Restless())
    with pytest.raises(AssertionError, match="does not come to rest"):
        network.settle(100)
    network.removeReader(restless)


class Restless:
    def readable(self):
        return True

    def doRead(self):
        return None


def test_cutting_who_was_not_yet_accepted():
    network = Network()
    made = listening(network)
    network._ports[50_001].stopReading()
    peer = RawPeer.on(network, 50_001)
    network.links[0].cut()
    network._ports[50_001].startReading()
    network.settle()
    assert made == []
    assert peer.closed


def test_a_factory_that_wants_nobody():
    from twisted.internet.protocol import Factory

    network = Network()
    factory = Factory()
    factory.buildProtocol = lambda address: None
    network.listenTCP(1, factory)
    peer = RawPeer.on(network, 1)
    assert peer.closed
    assert not peer.closed.check(ConnectionDone)


def test_the_ends_tell_their_options():
    network = Network()
    listening(network)
    RawPeer.on(network, 50_001)
    end = network.links[0].server
    assert end.getTcpNoDelay()
    assert end.getTcpKeepAlive()
    assert end.getHost().port == 50_001


def test_giving_up_while_connecting():
    from twisted.internet.protocol import ClientFactory

    network, failed = Network(), []
    factory = ClientFactory()
    factory.clientConnectionFailed = lambda connector, reason: failed.append(reason)
    connector = network.connectTCP("127.0.0.1", 1, factory)
    assert connector.getDestination().port == 1
    connector.connect()
    connector.disconnect()
    network.settle()
    assert len(failed) == 1
