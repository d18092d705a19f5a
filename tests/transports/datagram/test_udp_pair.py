"""Both ends of the UDP transport on a network in memory: what the core sees of it, whatever the link does."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from imgateway.errors import CloseCode
from imgateway.interfaces import Carriage, IConnection, IListener, ITransportAdapter
from imgateway.testing.conditions import LinkConditions
from imgateway.testing.network import Network
from imgateway.testing.wires import BareWire, Recorder
from imgateway.transports.datagram.flow import Flow
from imgateway.transports.datagram.messages import MessageTooLarge, challenge, close, data_head, padding
from imgateway.transports.datagram.packets import Reason, Refused, Reset
from imgateway.transports.udp import UDPTransport

UDP = (b"i" * 16, b"k" * 16)
URL = "udp://127.0.0.1:7901"
SERVER = ("127.0.0.1", 7901)


class Room:
    """A network with a listener on it. `echo`: what comes is answered with ``re:`` before it."""

    def __init__(
        self, echo: bool = True, seed: int = 1, wire: Any = None, endpoint: str = "127.0.0.1:7901"
    ) -> None:
        self.network = Network(seed=seed, capacity=4_194_304)
        self.echo = echo
        self.wire = wire or BareWire()
        self.accepted: list[Recorder] = []
        self.endpoint = endpoint
        self.listener = self.listen()

    def listen(self, **options: Any) -> Any:
        options = {"udp_key": lambda key_id: UDP[1], "udp_reset_key": b"r" * 32, **options}
        return self.network.result(
            UDPTransport().listen(self.endpoint, [self.wire], self.accept, self.network, options)
        )

    def accept(self, connection: Any) -> Recorder:
        receiver = Recorder(lambda data: self.echo and connection.send(b"re:" + data))
        receiver.connection = connection
        self.accepted.append(receiver)
        return receiver

    def connect(self, url: str = URL, udp: Any = UDP, **options: Any) -> Recorder:
        receiver = Recorder()
        receiver.connection = self.network.result(
            UDPTransport().connect(url, self.wire, receiver, self.network, {"udp": udp, **options})
        )
        return receiver

    def login(self, **options: Any) -> Recorder:
        receiver = self.connect(**options)
        receiver.connection.send(b"hello")
        self.network.settle()
        return receiver

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds * 64)):
            self.network.advance(1 / 64)

    def port_of(self, receiver: Recorder) -> Any:
        return receiver.connection._port.transport

    def kill(self) -> None:
        """The server's process is gone, and nobody was told."""
        self.listener.transport.stopListening()
        self.listener.transport = None
        self.network.settle()


@pytest.fixture
def room() -> Room:
    return Room()


def test_the_interfaces(room: Room) -> None:
    client = room.login()
    verifyObject(ITransportAdapter, UDPTransport())
    verifyObject(IListener, room.listener)
    verifyObject(IConnection, client.connection)
    verifyObject(IConnection, room.accepted[0].connection)


def test_hello_and_answer(room: Room) -> None:
    client = room.login()
    server = room.accepted[0]
    assert (client.events, client.chunks) == (["opened"], [b"re:hello"])
    assert (server.events, server.chunks) == (["opened"], [b"hello"])
    assert client.wire is server.wire is room.wire
    assert room.listener.address == "udp:127.0.0.1:7901"
    assert room.listener.port == 7901
    assert client.connection.peer == "127.0.0.1:7901"
    assert server.connection.peer.startswith("127.0.0.1:5")
    assert server.connection.source == client.connection.source == ""
    assert client.connection.secure
    assert server.connection.secure
    assert not client.connection.stream


def test_over_ipv6() -> None:
    room = Room(endpoint="[::1]:7901")
    client = room.login(url="udp://[::1]:7901")
    assert client.chunks == [b"re:hello"]
    assert client.connection.peer == "[::1]:7901"
    assert room.listener.address == "udp:[::1]:7901"
    assert room.accepted[0].connection.source == ""


def test_unsealed_on_loopback() -> None:
    room = Room(endpoint="127.0.0.1:7901:insecure=1")
    client = room.login(udp=None)
    assert client.chunks == [b"re:hello"]
    assert not client.connection.secure
    assert not room.accepted[0].connection.secure
    assert any(b"re:hello" in one.data for one in room.network.datagrams.captured or ())
    assert room.login().chunks == [b"re:hello"]  # sealed ones are as welcome
    client.connection.close(0)
    room.network.settle()
    assert room.accepted[0].reason == "closed by the peer with code 0"


def test_nothing_is_sent_before_there_is_something_to_say(room: Room) -> None:
    room.connect()
    room.pass_time(20)
    assert room.network.datagrams.captured == []
    assert room.accepted == []


def test_an_idle_connection_sends_nothing_and_arms_nothing(room: Room) -> None:
    room.login()
    room.pass_time(15)
    sent = len(room.network.datagrams.captured or ())
    room.pass_time(30)
    assert len(room.network.datagrams.captured or ()) == sent
    assert room.network.getDelayedCalls() == []


def test_what_a_turn_sends_goes_together(room: Room) -> None:
    client = room.login()
    room.pass_time(1)
    before = len(room.network.datagrams.captured or ())
    for number in range(20):
        client.connection.send(b"%d" % number)
    room.network.settle()
    assert [b"re:%d" % number for number in range(20)] == client.chunks[1:]
    assert len(room.network.datagrams.captured or ()) == before + 2


def test_what_was_sent_during_the_greeting_waits() -> None:
    room = Room()
    client = room.connect()
    client.connection.send(b"1")
    client.connection.send(b"22")
    client.connection.send(b"333")
    assert client.connection.unsent() == client.connection.unacked() == 6
    client.connection.flush()
    room.network.settle()
    assert client.chunks == [b"re:1", b"re:22", b"re:333"]
    room.pass_time(2)
    assert client.connection.unsent() == client.connection.unacked() == 0


def test_a_large_message_in_pieces(room: Room) -> None:
    client = room.login()
    body = bytes(range(256)) * 256
    client.connection.send(body)
    room.pass_time(5)
    assert room.accepted[0].chunks[-1] == body
    assert client.connection.max_send_bytes == Flow.MAX_MESSAGE > 65_536
    with pytest.raises(MessageTooLarge):
        client.connection.send(bytes(Flow.MAX_MESSAGE + 1))


@pytest.mark.parametrize("seed", range(1, 6))
def test_everything_arrives_in_order_whatever_is_lost(seed: int) -> None:
    room = Room(echo=False, seed=seed)
    room.network.datagrams.conditions = LinkConditions(
        loss=0.3, duplicate=0.05, reorder=0.1, delay_s=0.05, jitter_s=0.02
    )
    client = room.connect(timeout_s=60)
    sent = [b"%d " % number * 100 for number in range(60)]
    client.connection.send(b"hello")
    room.pass_time(30)
    server = room.accepted[0]
    for number, body in enumerate(sent):
        client.connection.send(body)
        server.connection.send(body, number % 3)
    room.pass_time(60)
    assert server.chunks == [b"hello", *sent]
    for order in range(3):
        assert [body for body in client.chunks if body in sent[order::3]] == sent[order::3]
    assert sorted(client.chunks) == sorted(sent)
    assert len(room.accepted) == 1
    client.connection.close(0)
    assert room.network.datagrams.counts.lost > 0


def test_an_accept_that_was_overtaken() -> None:
    """The Welcome came first: it is kept, and need not be sent again."""
    room = Room()

    def conditions(source: Any, destination: Any) -> LinkConditions:
        slow = source == SERVER and len(room.network.datagrams.captured or ()) == 4
        return LinkConditions(delay_s=0.1 if slow else 0.01)

    room.network.datagrams.conditions = conditions
    client = room.login()
    room.pass_time(0.2)
    kinds = [one.data[0] for one in room.network.datagrams.captured or ()]
    assert kinds[:4] == [0xF1, 0xF2, 0xF1, 0xF3]
    assert client.chunks == [b"re:hello"]


def test_nobody_talks_to_a_client_that_has_not_greeted(room: Room) -> None:
    """It has no keys yet, so nothing is there to tell friend from foe."""
    client = room.connect()
    place = room.port_of(client).place
    for cid in (bytes(8), b"\0" * 7 + b"\1"):
        room.network.datagrams.spoof(cid + bytes(4) + data_head(0, 0, 0, 1) + b"x", SERVER, place)
        room.network.datagrams.spoof(Reset(cid, bytes(16)).built(), SERVER, place)
    room.network.settle()
    assert client.events == ["opened"]
    assert client.chunks == []
    client.connection.send(b"hello")
    room.network.settle()
    assert client.chunks == [b"re:hello"]


def test_garbage_for_a_client(room: Room) -> None:
    client = room.login()
    place = room.port_of(client).place
    cid = client.connection.cid
    for size in (0, 1, 11, 12, 1201, 8000):
        room.network.datagrams.spoof((cid + bytes(8000))[:size], ("192.0.2.66", 6), place)
    for packet in (cid + bytes(30), b"\1" * 40, b"\xf1" * 1200, Refused(bytes(8), 1).built()):
        room.network.datagrams.spoof(packet, SERVER, place)
    room.network.settle()
    assert client.reason is None
    assert client.chunks == [b"re:hello"]


def test_wakeups_do_not_pile_up(room: Room) -> None:
    """A busy connection has a few entries on its wheel, however long it is busy."""
    client = room.login()
    room.network.datagrams.conditions = LinkConditions(delay_s=0.05)
    most = 0
    for _ in range(2_000):
        client.connection.send(b"x")
        room.network.advance(1 / 64)
        most = max(most, room.listener.wakeups._asleep, client.connection._port.wakeups._asleep)
    assert most <= 30


def test_early_datagrams_are_few_and_must_be_ours(room: Room) -> None:
    client = room.connect()
    client.connection.send(b"hello")
    place = room.port_of(client).place
    for _ in range(10):
        room.network.datagrams.spoof(bytes(50), SERVER, place)
    room.network.settle()
    assert client.chunks == [b"re:hello"]


# ----------------------------------------------------------------------------------------------- the greeting


def test_nobody_is_there() -> None:
    room = Room()
    room.kill()
    room.network.datagrams.captured = []
    client = room.connect()
    client.connection.send(b"hello")
    room.pass_time(9.9)
    assert client.reason is None
    room.pass_time(0.2)
    assert client.reason == (
        "no answer from udp://127.0.0.1:7901 within 10 s: is it there, and its UDP port open to us?"
    )
    assert client.code == CloseCode.LOST
    when = [one.when for one in room.network.datagrams.captured]
    gaps = [later - earlier for earlier, later in itertools.pairwise(when)]
    assert gaps == pytest.approx([0.5, 0.75, 1.125, 1.6875, 2.0, 2.0], abs=0.02)
    assert len({one.data for one in room.network.datagrams.captured}) == 1  # the same bytes each time
    assert client.connection.unsent() == client.connection.unacked() == 0
    room.pass_time(5)
    assert len(when) == len(room.network.datagrams.captured)


def test_a_gateway_that_only_asks(room: Room) -> None:
    room.network.datagrams.conditions = lambda source, destination: LinkConditions(
        loss=1.0 if len(room.network.datagrams.captured or ()) > 2 else 0.0
    )
    client = room.login(timeout_s=3)
    room.pass_time(4)
    assert client.reason == (
        "no answer from udp://127.0.0.1:7901 within 3 s: it asked where we are, and then no more"
    )


def test_a_paused_listener_is_asked_again(room: Room) -> None:
    room.listener.pause()
    client = room.login()
    assert room.accepted == []
    room.listener.resume()
    room.pass_time(1)
    assert client.chunks == [b"re:hello"]


def test_a_greeting_that_does_not_fit(room: Room) -> None:
    client = room.connect()
    client.connection.send(bytes(1200))
    room.network.settle()
    assert client.reason == (
        "the greeting has 1205 bytes, and over UDP at most 1106: take a shorter token, or one of the other "
        "transports"
    )
    fits = room.connect()
    fits.connection.send(bytes(1101))
    room.network.settle()
    assert room.accepted[0].chunks == [bytes(1101)]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Reason.VERSION, "another version"),
        (Reason.UNSEALED, "imgateway token USER --udp"),
        (Reason.KEY, "does not know the UDP key"),
        (77, "refused for reason 77"),
    ],
)
def test_a_refusal_says_what_to_do(room: Room, reason: int, words: str) -> None:
    room.kill()
    client = room.login()
    hello_id = client.connection._port._greeting.hello_id
    place = room.port_of(client).place
    room.network.datagrams.spoof(Refused(b"somebody", reason).built(), SERVER, place)
    room.network.settle()
    assert client.reason is None
    room.network.datagrams.spoof(Refused(hello_id, reason).built(), SERVER, place)
    room.network.settle()
    assert client.reason is not None
    assert words in client.reason


def test_a_real_refusal(room: Room) -> None:
    client = room.login(udp=(b"i" * 16, b"x" * 16))
    assert client.reason is not None
    assert "does not know the UDP key" in client.reason
    assert room.accepted == []


@pytest.mark.parametrize("how", ["close", "abort"])
def test_leaving_during_the_greeting(room: Room, how: str) -> None:
    room.listener.pause()
    client = room.login()
    if how == "close":
        client.connection.close(0)
    else:
        client.connection.abort()
    client.connection.send(b"too late")
    room.network.settle()
    assert client.events == ["opened", "lost"]
    assert client.connection.unsent() == 0
    room.listener.resume()
    room.pass_time(5)
    assert room.accepted == []
    room.pass_time(15)
    assert room.network.getDelayedCalls() == []


def test_forged_answers_to_the_greeting(room: Room) -> None:
    """From the right address even: nothing is believed that has no seal or not our hello id."""
    room.network.datagrams.conditions = LinkConditions(delay_s=0.5)
    client = room.login()
    place = room.port_of(client).place
    hello_id = client.connection._port._greeting.hello_id
    captured = room.network.datagrams.captured or []
    accept = b"\xf3\x01" + hello_id + bytes(8) + bytes([9]) * 32 + bytes(4) + bytes(50)
    zeros = b"\xf3\x01" + hello_id + bytes(8) + bytes(32) + bytes(4) + bytes(50)
    for forged in (
        accept,
        zeros,
        accept[:2] + b"somebody" + accept[10:],
        accept[:60],
        b"",
        b"\xf3",
        b"\xf2" * 34,
    ):
        room.network.datagrams.spoof(forged, SERVER, place)
    for _ in range(10):
        room.network.datagrams.spoof(b"\xf2\x01" + hello_id + bytes(24), SERVER, place)
    room.network.settle()
    assert len(captured) == 5  # the HELLO, and one more for each RETRY that may be
    room.pass_time(6)
    assert client.reason is None


def test_an_accept_that_breaks_the_grammar(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    from imgateway.transports.datagram import server

    monkeypatch.setattr(server, "reset_token", lambda token: b"\x77")
    client = room.login()
    assert client.reason is not None
    assert client.reason.startswith("the gateway's greeting is wrong")


def test_reading_may_be_paused_before_the_greeting(room: Room) -> None:
    client = room.connect()
    client.connection.pause_reading()
    client.connection.send(b"hello")
    room.pass_time(1)
    assert client.chunks == []
    client.connection.resume_reading()
    room.network.settle()
    assert client.chunks == [b"re:hello"]


# ------------------------------------------------------------------------------------------------ the end


def test_close_flushes_and_says_so(room: Room) -> None:
    client = room.login()
    room.accepted[0].connection.send(b"x" * 3000)
    room.accepted[0].connection.close(CloseCode.KICKED)
    room.accepted[0].connection.send(b"not any more")
    room.accepted[0].connection.close(CloseCode.NORMAL)
    room.pass_time(1)
    assert client.chunks == [b"re:hello", b"x" * 3000]
    assert client.reason == "closed by the peer with code 200"
    assert room.accepted[0].reason == "closed with code 200"
    assert not room.listener._connections
    room.pass_time(20)
    assert room.network.getDelayedCalls() == []


def test_close_waits_no_longer_than_it_must(room: Room) -> None:
    room.echo = False
    client = room.login()
    room.pass_time(1)
    room.network.datagrams.conditions = LinkConditions(delay_s=0.05)
    client.connection.send(b"1")
    client.connection.send(b"2")
    client.connection.close(0)
    room.pass_time(0.18)
    assert client.reason == "closed with code 0"
    room.pass_time(1)


def test_close_does_not_wait_for_ever(room: Room) -> None:
    client = room.login()
    room.pass_time(1)
    room.network.datagrams.conditions = LinkConditions(loss=1.0)
    client.connection.send(b"never")
    client.connection.close(0, 1.0)
    room.pass_time(0.9)
    assert client.reason is None
    room.pass_time(0.2)
    assert client.reason == "closed with code 0"


def test_what_comes_while_closing_is_not_held(room: Room) -> None:
    """Nobody reads it any more, so it is as if it had not arrived; what is acknowledged with it counts."""
    room.echo = False
    client = room.login()
    server = room.accepted[0]
    room.pass_time(1)
    room.network.datagrams.conditions = LinkConditions(delay_s=0.05)
    server.connection.send(b"bye")
    client.connection.pause_reading()
    server.connection.close(CloseCode.KICKED)
    flow = server.connection._flow
    largest = flow.largest
    for _ in range(10):
        client.connection.send(b"late" * 250)
    room.pass_time(0.07)
    assert server.connection.is_closing
    assert flow.largest == largest
    room.pass_time(0.1)
    assert (server.reason, server.chunks) == ("closed with code 200", [b"hello"])


def test_a_close_that_crosses_a_close_ends_both(room: Room) -> None:
    room.echo = False
    client = room.login()
    server = room.accepted[0]
    room.pass_time(1)
    room.network.datagrams.conditions = LinkConditions(delay_s=0.05)
    server.connection.send(b"bye")
    server.connection.close(CloseCode.KICKED)
    client.connection.abort()
    room.pass_time(0.07)
    assert server.reason == "closed by the peer with code 1"


def test_what_comes_while_closing_does_not_count(room: Room) -> None:
    client = room.login()
    room.pass_time(1)
    room.network.datagrams.conditions = LinkConditions(delay_s=0.1)
    client.connection.send(b"last")
    client.connection.close(0)
    room.accepted[0].connection.send(b"unheard")
    room.pass_time(1)
    assert client.chunks == [b"re:hello"]
    assert room.accepted[0].chunks == [b"hello", b"last"]
    assert client.reason == "closed with code 0"


def test_abort_is_at_once(room: Room) -> None:
    client = room.login()
    client.connection.send(b"never sent")
    client.connection.abort()
    client.connection.abort()
    assert client.reason is None  # told in the next turn, not from within
    room.network.settle()
    assert client.reason == "aborted"
    assert room.accepted[0].chunks == [b"hello"]
    assert room.accepted[0].reason == "closed by the peer with code 1"


def test_a_goodbye_that_was_lost(room: Room) -> None:
    client = room.login()
    room.pass_time(1)
    room.network.datagrams.conditions = LinkConditions(loss=1.0)
    room.accepted[0].connection.close(0, 0)
    room.pass_time(1)
    room.network.datagrams.conditions = LinkConditions()
    assert client.reason is None
    client.connection.send(b"x")
    room.network.settle()
    assert client.reason == "the gateway does not know this connection any more"


def test_a_restart_is_told_at_once(room: Room) -> None:
    client = room.login()
    room.pass_time(1)
    room.kill()
    room.listener = room.listen()
    client.connection.send(b"anybody?")
    room.network.settle()
    assert client.reason == "the gateway does not know this connection any more"
    assert room.login().chunks == [b"re:hello"]


def test_only_the_gateway_resets(room: Room) -> None:
    client = room.login()
    place = room.port_of(client).place
    cid = client.connection.cid
    token = client.connection._token
    for reset in (Reset(cid, bytes(16)), Reset(bytes(8), token), Reset(cid, token[:-1] + b"?")):
        room.network.datagrams.spoof(reset.built(), SERVER, place)
    room.network.settle()
    assert client.reason is None
    room.network.datagrams.spoof(Reset(cid, token).built(), SERVER, place)
    room.network.settle()
    assert client.reason is not None


def test_no_reset_without_a_token(room: Room) -> None:
    client = room.login()
    client.connection._token = b""
    client.connection.reset(b"")
    room.network.settle()
    assert client.reason is None


def test_a_message_above_the_limit(room: Room) -> None:
    client = room.login()
    room.accepted[0].connection.max_message_bytes = 100
    client.connection.send(bytes(100))
    client.connection.send(bytes(101))
    client.connection.send(b"after")
    room.network.settle()
    assert room.accepted[0].chunks == [b"hello", bytes(100)]
    assert room.accepted[0].code == CloseCode.FRAME_TOO_LARGE
    assert client.reason == "closed by the peer with code 209"


def test_the_wire_has_a_limit_too() -> None:
    room = Room(wire=BareWire(carriage=Carriage(max_frame_bytes=50)))
    client = room.login()
    room.accepted[0].connection.max_message_bytes = 1000
    client.connection.send(bytes(51))
    room.network.settle()
    assert room.accepted[0].code == CloseCode.FRAME_TOO_LARGE


def test_a_receiver_that_fails(room: Room, flush_logged_errors: Any) -> None:
    client = room.login()

    def fail(data: bytes) -> None:
        raise ZeroDivisionError

    room.accepted[0].on_received = fail
    client.connection.send(b"x")
    room.network.settle()
    assert room.accepted[0].reason == "a message could not be dealt with"
    assert client.reason == "closed by the peer with code 5"
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_numbers_are_used_once(room: Room) -> None:
    client = room.login()
    room.pass_time(1)
    flow = client.connection._flow
    client.connection._flow = Last(flow)
    client.connection.send(b"one too many")
    room.network.settle()
    assert client.reason == "too many datagrams for one connection"


class Last:
    """A flow whose numbers are used up."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def __getattr__(self, name: str) -> Any:
        return getattr(self.flow, name)

    def datagrams(self, now: float, judged: float) -> Any:
        return ((number + 2**32, payload) for number, payload in self.flow.datagrams(now, judged))


# ------------------------------------------------------------------------------------------ reading, clogging


def test_pausing_holds_and_resuming_hands_over(room: Room) -> None:
    room.echo = False
    client = room.login()
    server = room.accepted[0].connection
    server.pause_reading()
    for number in range(5):
        client.connection.send(b"%d" % number)
        room.pass_time(0.1)
    assert room.accepted[0].chunks == [b"hello"]
    server.resume_reading()
    server.resume_reading()
    assert room.accepted[0].chunks == [b"hello"]  # not from within
    room.network.settle()
    assert room.accepted[0].chunks == [b"hello", b"0", b"1", b"2", b"3", b"4"]


def test_pausing_again_before_it_was_read(room: Room) -> None:
    room.echo = False
    client = room.login()
    server = room.accepted[0].connection
    server.pause_reading()
    client.connection.send(b"x")
    room.pass_time(0.1)
    server.resume_reading()
    server.pause_reading()
    room.network.settle()
    assert room.accepted[0].chunks == [b"hello"]
    server.resume_reading()
    server.abort()
    room.network.settle()
    server.pause_reading()
    assert room.accepted[0].chunks == [b"hello"]


def test_what_is_held_is_handed_over_at_the_end(room: Room) -> None:
    room.echo = False
    client = room.login()
    room.accepted[0].connection.pause_reading()
    client.connection.send(b"last words")
    client.connection.close(0)
    room.pass_time(1)
    assert room.accepted[0].chunks == [b"hello", b"last words"]
    assert room.accepted[0].reason is not None


def test_clogged_and_free_again(room: Room) -> None:
    room.echo = False
    client = room.login()
    room.pass_time(1)
    server = room.accepted[0]
    room.network.datagrams.conditions = LinkConditions(delay_s=0.2)
    for _ in range(50):
        server.connection.send(bytes(1000))
    room.network.settle()
    assert server.clogged
    assert 0 < server.connection.unsent() < (server.connection.unacked() or 0) <= 51_000
    room.pass_time(10)
    assert not server.clogged
    assert server.events == ["opened", "pause_sending", "resume_sending"]
    assert len(client.chunks) == 50
    assert server.connection.unsent() == server.connection.unacked() == 0


def test_clogged_while_closing_is_nobodys_business(room: Room) -> None:
    room.echo = False
    room.login()
    server = room.accepted[0]
    for _ in range(50):
        server.connection.send(bytes(1000))
    server.connection.close(0)
    room.pass_time(3)
    assert server.events == ["opened", "lost"]


def test_aborting_when_clogged(room: Room) -> None:
    room.echo = False
    room.login()
    server = room.accepted[0]
    server.pause_sending = server.connection.abort  # type: ignore[method-assign]
    for _ in range(50):
        server.connection.send(bytes(1000))
    room.network.settle()
    assert server.reason == "aborted"


# ---------------------------------------------------------------------------------------- a NAT, and stopping


def test_a_nat_gives_another_port(room: Room) -> None:
    client = room.login()
    room.network.datagrams.conditions = LinkConditions(delay_s=0.02)
    room.pass_time(1)
    before = room.accepted[0].connection.peer
    _, port = room.network.datagrams.rebind(room.port_of(client))
    for number in range(5):
        client.connection.send(b"%d" % number)
        room.pass_time(1)
    assert room.accepted[0].connection.peer == f"127.0.0.1:{port}" != before
    assert client.chunks == [b"re:hello", *(b"re:%d" % number for number in range(5))]
    assert len(room.accepted) == 1


def test_a_nat_gives_another_port_during_the_greeting(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has nothing more to say: what it is told must find it all the same."""
    datagrams = room.network.datagrams
    send, accepts = datagrams.send, []

    def lose_the_first(sender: Any, data: bytes, destination: Any) -> bool:
        if data[0] == 0xF3:  # ACCEPT
            accepts.append(destination)
            if len(accepts) == 1:
                datagrams.rebind(room.port_of(client))
                return True
        return bool(send(sender, data, destination))

    monkeypatch.setattr(datagrams, "send", lose_the_first)
    client = room.connect()
    client.connection.send(b"hello")
    room.pass_time(2)
    assert len(set(accepts)) == 2
    assert client.chunks == [b"re:hello"]
    assert len(room.accepted) == 1


def test_an_answer_is_as_large_as_its_question(room: Room) -> None:
    client = room.login()
    room.pass_time(1)
    captured = room.network.datagrams.captured = []
    connection = room.accepted[0].connection
    connection._write(connection._flow.next_number(), challenge(b"12345678") + padding(500), connection.place)
    room.network.settle()
    sizes = [len(one.data) for one in captured if one.destination == SERVER]
    assert sizes == [12 + 9 + 500 + 16]
    assert client.reason is None


def test_a_captured_datagram_sent_from_elsewhere(room: Room) -> None:
    client = room.login()
    client.connection.send(b"two")
    room.network.settle()
    captured = [one.data for one in room.network.datagrams.captured or () if one.destination == SERVER]
    sent = len(room.network.datagrams.captured or ())
    for data in captured * 10:
        room.network.datagrams.spoof(data, ("198.51.100.9", 9), SERVER)
    room.network.settle()
    answers = (room.network.datagrams.captured or [])[sent:]
    # Only HELLOs are answered, for their sender is asked where he is; each with a RETRY of 34 bytes.
    assert len(answers) <= 20
    assert all(one.data[0] == 0xF2 for one in answers)
    assert room.accepted[0].chunks == [b"hello", b"two"]
    assert room.accepted[0].connection.source == ""


def test_stopping_leaves_connections_alone(room: Room) -> None:
    client = room.login()
    room.network.result(room.listener.stop())
    client.connection.send(b"still")
    room.network.settle()
    assert client.chunks[-1] == b"re:still"
    late = room.login(timeout_s=2)
    room.pass_time(3)
    assert late.reason is not None
    client.connection.close(0)
    room.network.settle()
    assert room.network.datagrams.at(SERVER) is None
    room.network.result(room.listener.stop())


def test_stopping_an_empty_one(room: Room) -> None:
    room.network.result(room.listener.stop())
    assert room.network.datagrams.at(SERVER) is None


@pytest.mark.parametrize("error", [OSError(101, "unreachable"), BlockingIOError(11, "later")])
def test_what_cannot_be_sent_is_lost(room: Room, error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    client = room.login()
    room.pass_time(1)
    transport = client.connection._port.transport
    with monkeypatch.context() as patch:
        patch.setattr(transport, "write", lambda *_: (_ for _ in ()).throw(error))
        client.connection.send(b"x")
        room.network.settle()
    room.pass_time(3)
    assert client.chunks[-1] == b"re:x"
    assert client.reason is None


def test_max_resends_reaches_the_flow(room: Room) -> None:
    room.network.result(room.listener.stop())
    room.endpoint = "127.0.0.1:7902"
    room.listener = room.listen(max_resends=3)
    room.login(url="udp://127.0.0.1:7902")
    room.pass_time(1)
    room.network.datagrams.conditions = LinkConditions(loss=1.0)
    connection = room.accepted[0].connection
    connection.send(b"in vain")
    room.pass_time(20)
    assert connection._flow.given_up == 1


def test_a_close_among_data_comes_last(room: Room) -> None:
    client = room.login()
    connection = client.connection
    connection._flow.send(b"last")
    connection._flow.say(close(0))
    connection._collect()
    room.network.settle()
    assert room.accepted[0].chunks == [b"hello", b"last"]
    assert room.accepted[0].reason == "closed by the peer with code 0"
