"""Links: greeting, refusals, reconnects, tokens, heartbeats, requests, ends."""

from __future__ import annotations

import random
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from imgateway.client import Client, State, connect
from imgateway.client.adapters import alternatives, protocol_named, transport_for
from imgateway.client.client import default_backoff
from imgateway.client.link import Link
from imgateway.client.pace import MAX_PAIRS, Pace, Steady
from imgateway.core.retry import backoff
from imgateway.errors import ClientError, CloseCode, ConnectRefused, FrameRefused, LinkLost, RequestFailed
from imgateway.frames import (
    Bye,
    Hello,
    Limits,
    Ping,
    Pong,
    Publish,
    Refused,
    RefusedCode,
    Renew,
    Renewed,
    Request,
    Response,
    ResponseCode,
    Start,
    Subscribed,
    Welcome,
    parse_address,
)
from imgateway.interfaces import IConnection, IReceiver, ITransportAdapter
from tests.client.fake_gateway import ME, Pipe, World, begin, deliver, done

# ------------------------------------------------------------------------------------------------ beginning


def test_the_fakes_and_the_link_provide_what_they_say(world: World) -> None:
    world.up()
    assert verifyObject(ITransportAdapter, world.gateway)
    assert verifyObject(IConnection, world.gateway.pipe)
    assert verifyObject(IReceiver, world.gateway.pipe.receiver)
    assert isinstance(world.gateway.pipe, Pipe)
    assert isinstance(world.gateway.pipe.receiver, Link)


def test_connect_gives_a_client_that_is_logged_in(world: World) -> None:
    connecting = begin(
        connect("memory://gw", token="t", transport=world.gateway, reactor=world.clock, start=Start.OLDEST)
    )
    world.turn()
    client = done(connecting)
    world.clients.append(client)
    assert client.connected
    assert client.user == "me"
    assert client.welcome.node == "node"
    assert world.gateway.pipe.of(Hello)[0].start == Start.OLDEST
    with pytest.raises(RuntimeError):
        client.start()


@pytest.mark.parametrize("code", [CloseCode.BAD_TOKEN, CloseCode.TOKEN_EXPIRED, 299])
def test_a_refusal_for_good_ends_it(world: World, code: int) -> None:
    world.gateway.welcomes = False
    client = world.client(wait=True)
    started = client.start()
    sent = client.publish("user:bob", b"x")
    asked = client.request("s", "m")
    world.gateway.pipe.say(Bye(code, "no"))
    with pytest.raises(ConnectRefused) as refused:
        done(started)
    assert refused.value.code == code
    assert client.state is State.CLOSED
    for failed in (sent, asked, client.when_closed()):
        with pytest.raises(ClientError):
            done(failed)
    with pytest.raises(ConnectRefused):
        client.publish("user:bob", b"x")
    world.wait(100)
    assert len(world.gateway.pipes) == 1


def test_without_wait_every_url_is_tried_once(world: World) -> None:
    world.gateway.reachable = False
    client = world.client(url=["memory://a", "memory://b"])
    started = client.start()
    world.wait(1)
    with pytest.raises(LinkLost, match="nobody"):
        done(started)
    assert world.gateway.dialled == ["memory://a", "memory://b"]


def test_without_wait_a_busy_gateway_is_told(world: World) -> None:
    world.gateway.welcomes = False
    started = world.client().start()
    world.gateway.pipe.say(Bye(CloseCode.OVERLOADED, "busy", 3_000))
    with pytest.raises(LinkLost) as lost:
        done(started)
    assert (lost.value.code, lost.value.retry_after_s) == (CloseCode.OVERLOADED, 3.0)


def test_a_code_of_a_later_version_counts_by_its_range(world: World) -> None:
    world.gateway.welcomes = False
    started = world.client().start()
    world.gateway.pipe.say(Bye(77))
    with pytest.raises(LinkLost) as lost:
        done(started)
    assert lost.value.code == CloseCode.LOST


def test_a_gateway_that_never_welcomes_is_left(world: World) -> None:
    world.gateway.welcomes = False
    started = world.client().start()
    world.wait(20)
    with pytest.raises(LinkLost, match="in time"):
        done(started)


def test_a_start_can_be_cancelled(world: World) -> None:
    world.gateway.hangs = True
    client = world.client(wait=True)
    started = client.start()
    started.addErrback(lambda reason: None)
    started.cancel()
    assert client.state is State.CLOSED


def test_close_before_and_during_the_first_attempt(world: World) -> None:
    assert done(world.client().close()) is None
    for hangs in (True, False):
        world.gateway.hangs, world.gateway.reachable = hangs, False
        client = world.client(wait=True)
        started = client.start()
        closing = client.close()
        world.turn()
        done(closing)
        with pytest.raises(ClientError):
            done(started)
        assert done(client.when_closed()) is None


def test_what_comes_before_the_connection_is_handed_over_is_not_lost(world: World) -> None:
    waiting: Deferred[Any] = Deferred()
    real = world.gateway.connect

    def early(*arguments: Any) -> Deferred[Any]:
        real(*arguments)
        world.gateway.pipe.say(Bye(CloseCode.TOO_MANY_LINKS, "full", 1_000))
        return waiting

    world.gateway.connect = early  # type: ignore[method-assign]
    started = world.client().start()
    waiting.callback(world.gateway.pipe)
    with pytest.raises(LinkLost, match="full"):
        done(started)


def test_a_connection_that_comes_too_late_is_dropped(world: World) -> None:
    waiting: Deferred[Any] = Deferred()
    real = world.gateway.connect

    def late(*arguments: Any) -> Deferred[Any]:
        real(*arguments)
        return waiting

    world.gateway.connect = late  # type: ignore[method-assign]
    started = world.client().start()
    world.wait(20)
    waiting.callback(world.gateway.pipe)
    assert world.gateway.pipe.aborted
    with pytest.raises(LinkLost):
        done(started)


# ------------------------------------------------------------------------------------------ coming again


def test_the_backoff_grows_is_jittered_and_capped(world: World) -> None:
    policy = backoff(random.Random(3).random)
    expected = backoff(random.Random(3).random)
    world.up(backoff=policy)
    world.gateway.reachable = False
    world.gateway.pipe.cut()
    for attempt in range(9):
        wait = expected(attempt)
        before = len(world.gateway.dialled)
        world.wait(wait - 0.001)
        assert len(world.gateway.dialled) == before
        world.wait(0.001)
        assert len(world.gateway.dialled) == before + 1
    assert 15 <= wait <= 30
    assert 0.25 <= default_backoff()(0) <= 0.5


def test_a_link_that_dies_young_does_not_reset_the_backoff(world: World) -> None:
    waits: list[int] = []
    world.up(backoff=lambda attempt: waits.append(attempt) or 1.0)
    for lived in (1, 1, 20, 1):
        world.wait(lived)
        world.gateway.pipe.cut()
        world.wait(1)
    assert waits == [0, 1, 0, 1]


@pytest.mark.parametrize("code", [1, 3, 7, 99])
def test_low_codes_come_again_with_backoff(world: World, code: int) -> None:
    client = world.up()
    world.gateway.pipe.say(Bye(code, "bye", 60_000))
    assert client.state is State.WAITING
    world.wait(1)
    assert client.connected


def test_a_drain_is_obeyed_and_its_endpoints_come_first(world: World) -> None:
    told: list[Any] = []
    client = world.up(url="memory://a")
    client.on_down = lambda code, reason: told.append((code, reason))
    assert client.on_down is not None
    sent = client.publish("user:bob", b"x")
    world.turn()
    done(sent)
    world.gateway.pipe.say(Bye(CloseCode.GOING_AWAY, "drain", 7_000, ("wss://other", "nonsense")))
    assert told == [(CloseCode.GOING_AWAY, "drain")]
    world.wait(6.9)
    assert not client.connected
    world.wait(0.1)
    assert client.connected
    assert world.gateway.dialled == ["memory://a", "wss://other"]
    world.gateway.reachable = False
    world.gateway.pipe.cut()
    world.wait(1)
    world.wait(1)
    assert world.gateway.dialled[2:] == ["wss://other", "memory://a"]


def test_nobody_talks_us_out_of_encryption() -> None:
    told = ("tcp://b:1", "tls://c:1", "ws://d", "wss://a", "nonsense", "gopher://x")
    assert alternatives(told, ["wss://a"]) == ["tls://c:1", "wss://a"]
    assert alternatives(told, ["tcp://a:1"]) == ["tcp://b:1", "tls://c:1", "ws://d", "wss://a", "tcp://a:1"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"token": None},
        {"on_message": 5},
        {"on_gap": "print"},
        {"on_outcome": []},
        {"backoff": 3},
        {"outbox_messages": -1},
        {"outbox_messages": 0},
        {"outbox_bytes": 1.5},
        {"compressions": "zstd"},
    ],
    ids=repr,
)
def test_an_option_that_would_fail_later_fails_at_once(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises(ValueError, match=name):
        Client("tcp://h:1", **{"token": "t", **wrong})


def test_a_body_may_be_any_bytes(world: World) -> None:
    client = world.up()
    for body in (b"one", bytearray(b"one"), memoryview(b"one"), "one"):
        client.publish("user:bob", body)  # type: ignore[arg-type]
    assert [publish.body for publish in world.gateway.pipe.of(Publish)] == [b"one"] * 4


def test_adapters_are_found_and_errors_name_what_there_is() -> None:
    assert transport_for("tcp://h:1").name == "tcp"
    assert protocol_named("json").name == "json"
    with pytest.raises(ValueError, match="tcp://"):
        transport_for("localhost:7901")
    with pytest.raises(ValueError, match="native"):
        protocol_named("morse")
    with pytest.raises(ValueError, match="wss://"):
        Client("gopher://h", token="t")
    from twisted.internet import reactor

    client = Client("tcp://h:1", token="t")
    assert client._session._reactor is reactor


@pytest.mark.parametrize(
    "code", [CloseCode.KICKED, CloseCode.REPLACED, CloseCode.DISPLACED, CloseCode.REVOKED]
)
def test_a_kick_is_final(world: World, code: int) -> None:
    client = world.up()
    closed = client.when_closed()
    asked = client.when_closed()
    asked.addErrback(lambda reason: None).cancel()
    world.gateway.pipe.say(Bye(code, "elsewhere"))
    with pytest.raises(ConnectRefused) as refused:
        done(closed)
    assert (refused.value.code, refused.value.reason) == (code, "elsewhere")
    world.wait(100)
    assert len(world.gateway.pipes) == 1


def test_who_hears_of_the_end_cancels_another_who_waits_for_it(world: World) -> None:
    client = world.up()
    heard: list[Any] = []
    first, other, last = (client.when_closed() for _ in range(3))
    first.addCallback(lambda _: other.cancel()).addBoth(heard.append)
    other.addErrback(lambda reason: heard.append(reason.type))
    last.addCallback(lambda _: heard.append("last"))
    client.close()
    world.wait(10)
    assert heard == [CancelledError, None, "last"]


def test_garbage_from_the_gateway_is_no_refusal(world: World) -> None:
    client = world.up()
    world.gateway.pipe.receiver.received(b"\xff" * 20)
    assert world.gateway.pipe.closed in (CloseCode.BAD_FRAME, CloseCode.FRAME_TOO_LARGE)
    world.wait(1)
    assert client.connected


def test_frames_at_the_wrong_time_end_the_link(world: World) -> None:
    client = world.up()
    world.gateway.pipe.say(world.gateway.welcome())
    assert world.gateway.pipe.closed == CloseCode.UNEXPECTED_FRAME
    world.gateway.welcomes = False
    world.wait(1)
    world.gateway.pipe.say(deliver(0, 1))
    assert world.gateway.pipe.closed == CloseCode.UNEXPECTED_FRAME
    world.gateway.welcomes = True
    world.wait(1)
    assert client.connected


def test_an_error_of_our_own_ends_the_link_and_not_the_client(
    world: World, monkeypatch: Any, flush_logged_errors: Any
) -> None:
    client = world.up()
    monkeypatch.setattr(client._sending, "acked", lambda ack: 1 / 0)
    client.publish("user:bob", b"x").addErrback(lambda reason: None)
    world.turn()
    assert world.gateway.pipe.closed == CloseCode.INTERNAL_ERROR
    assert flush_logged_errors(ZeroDivisionError)
    monkeypatch.undo()
    world.wait(1)
    assert client.connected


def test_a_backoff_that_fails_is_replaced(world: World, flush_logged_errors: Any) -> None:
    client = world.up(backoff=lambda attempt: (1.0, 2.0)[attempt])
    world.gateway.reachable = False
    world.gateway.pipe.cut()
    world.wait(1)
    world.wait(2)
    assert (client.state, len(world.gateway.dialled)) == (State.WAITING, 3)
    assert len(flush_logged_errors(IndexError)) == 1
    world.gateway.reachable = True
    world.wait(2)  # the default's third is no longer
    assert client.connected


@pytest.mark.parametrize("wait", [-1.0, float("inf"), float("nan"), None, "soon"])
def test_a_backoff_that_gives_no_wait_is_replaced(
    world: World, flush_logged_errors: Any, wait: object
) -> None:
    client = world.up(backoff=lambda attempt: wait)
    world.gateway.pipe.cut()
    world.wait(0.5)  # the default's first is no longer
    assert client.connected
    assert len(flush_logged_errors(ValueError, TypeError)) == 1


def test_an_error_in_the_loop_stops_the_client(world: World, flush_logged_errors: Any) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("transport")

    client = world.up()
    world.gateway.connect = broken  # type: ignore[assignment]
    world.gateway.pipe.cut()
    world.wait(1)
    with pytest.raises(ClientError, match="transport"):
        done(client.when_closed())
    assert flush_logged_errors(KeyError)


def test_what_the_application_does_when_told_may_fail_or_close(
    world: World, flush_logged_errors: Any
) -> None:
    client = world.client()
    client.on_up = lambda welcome: 1 / 0
    assert client.on_up is not None
    started = client.start()
    world.turn()
    done(started)
    assert flush_logged_errors(ZeroDivisionError)
    client.on_down = lambda code, reason: client.close()
    world.gateway.pipe.cut()
    world.wait(5)
    assert client.state is State.CLOSED
    closer = world.client()
    closer.on_up = lambda welcome: closer.close() and None
    closer.start().addErrback(lambda reason: None)
    world.wait(5)
    assert closer.state is State.CLOSED
    assert len(world.gateway.pipes) == 2


# ------------------------------------------------------------------------------------------------ heartbeat


def test_a_ping_goes_out_when_nothing_was_said(world: World) -> None:
    world.up()
    world.wait(26)
    assert world.gateway.pipe.of(Ping) == []
    world.wait(1)
    assert len(world.gateway.pipe.of(Ping)) == 1
    world.gateway.pipe.say(Pong())
    world.gateway.pipe.say(Ping(5, 6))
    assert world.gateway.pipe.of(Pong) == [Pong(5, 6)]


def test_whoever_only_sends_asks_for_a_sign_of_life(world: World) -> None:
    client = world.up()
    for _ in range(40):
        world.wait(1)
        client.publish("user:bob", b"x", qos=0)
    assert len(world.gateway.pipe.of(Ping)) == 1


def test_a_silent_gateway_is_dead(world: World) -> None:
    client = world.up()
    for _ in range(74):
        world.wait(1)
    assert not world.gateway.pipe.aborted
    world.wait(1)
    assert world.gateway.pipe.aborted
    world.wait(1)
    assert client.connected
    assert len(world.gateway.pipes) == 2


def test_no_heartbeat_named_none_sent(world: World) -> None:
    world.gateway.heartbeat_s = 0
    world.up()
    world.wait(1_000)
    assert world.gateway.pipe.of(Ping) == []


def test_a_clock_that_runs_back_stops_nothing() -> None:
    times = [100.0, 110.0, 50.0, 60.0]
    clock = Steady(iter([*times]).__next__)
    assert [clock() for _ in range(3)] == [110.0, 110.0, 120.0]


# --------------------------------------------------------------------------------------------------- tokens


def test_a_token_function_is_asked_when_it_must_be(world: World) -> None:
    asked: list[int] = []

    async def token() -> str:
        asked.append(1)
        return f"t{len(asked)}"

    client = world.up(token=token)
    world.gateway.pipe.cut()
    world.wait(1)
    assert [pipe.of(Hello)[0].token for pipe in world.gateway.pipes] == ["t1", "t1"]
    world.gateway.pipe.say(Bye(CloseCode.TOKEN_EXPIRED))
    world.wait(0.1)
    assert world.gateway.pipe.of(Hello)[0].token == "t2"
    assert client.connected


def test_a_fresh_token_that_is_expired_too_waits_its_turn(world: World) -> None:
    world.gateway.welcomes = False
    client = world.client(token=lambda: "old", wait=True)
    client.start().addErrback(lambda reason: None)
    world.gateway.pipe.say(Bye(CloseCode.TOKEN_EXPIRED))
    world.wait(0.5)
    assert len(world.gateway.pipes) == 1
    world.wait(0.5)
    assert len(world.gateway.pipes) == 2
    impatient = world.client(token=lambda: "old")
    started = impatient.start()
    world.gateway.pipe.say(Bye(CloseCode.TOKEN_EXPIRED))
    with pytest.raises(ConnectRefused):
        done(started)


def test_a_token_function_that_fails(world: World, flush_logged_errors: Any) -> None:
    def fails() -> str:
        raise KeyError("no login server")

    with pytest.raises(KeyError):
        done(world.client(token=fails).start())
    patient = world.client(token=fails, wait=True)
    patient.start().addErrback(lambda reason: None)
    for _ in range(3):
        world.wait(1)
    assert patient.state is State.WAITING
    patient.close()
    world.turn()
    assert len(flush_logged_errors(KeyError)) == 4


def test_a_token_function_whose_own_request_is_cancelled_has_failed_as_others_do(
    world: World, flush_logged_errors: Any
) -> None:
    asked: list[Any] = [Deferred(), Deferred(), "t"]
    slow, slower, _ = asked
    started = world.client(token=lambda: slow).start()
    slow.cancel()  # as HTTP clients do with what takes too long
    with pytest.raises(LinkLost, match="cancelled"):
        done(started)
    del asked[0]
    client = world.client(token=lambda: asked.pop(0), wait=True)
    client.start()
    slower.cancel()
    assert client.state is State.WAITING
    assert len(flush_logged_errors(LinkLost)) == 1
    world.wait(1)
    assert client.connected


def test_a_client_that_is_closed_while_it_gets_a_token_tells_nothing_but_that(world: World) -> None:
    asked: Deferred[str] = Deferred()
    client = world.client(token=lambda: asked, wait=True)
    started = client.start()
    done(client.close())
    with pytest.raises(ClientError, match="closed"):
        done(started)
    assert done(client.when_closed()) is None


@pytest.mark.parametrize("wait", [False, True])
def test_a_udp_key_that_was_cut_off_ends_it(world: World, wait: bool) -> None:
    client = world.client(url="udp://gateway:1", token="a.b.c~xx", wait=wait)
    with pytest.raises(ConnectRefused, match=r"16 bytes in base64url\): was it cut off"):
        done(client.start())
    assert client.state is State.CLOSED
    assert world.gateway.pipes == []


def test_over_other_transports_the_udp_key_does_not_matter(world: World) -> None:
    world.up(url="tcp://gateway:1", token="a.b.c~xx")
    assert world.gateway.pipe.of(Hello)[0].token == "a.b.c"


def test_a_token_is_renewed_before_it_expires(world: World) -> None:
    tokens = iter("abc")
    world.gateway.token_expires_ms = int((world.clock.seconds() + 600) * 1000)
    world.up(token=lambda: next(tokens))
    world.live(539)
    assert world.gateway.pipe.of(Renew) == []
    world.wait(1)
    assert world.gateway.pipe.of(Renew) == [Renew("b")]
    world.gateway.pipe.say(Renewed(int((world.clock.seconds() + 100) * 1000)))
    world.live(75)
    assert world.gateway.pipe.of(Renew) == [Renew("b"), Renew("c")]
    world.gateway.pipe.say(Renewed(0), Refused("renew", "", RefusedCode.INVALID, "late"))


def test_a_plain_token_is_not_renewed(world: World) -> None:
    world.gateway.token_expires_ms = int((world.clock.seconds() + 10) * 1000)
    world.up()
    world.wait(20)
    assert world.gateway.pipe.of(Renew) == []


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_renewal_that_fails_is_tried_again(world: World, flush_logged_errors: Any, cancelled: bool) -> None:
    world.gateway.token_expires_ms = int((world.clock.seconds() + 100) * 1000)
    asking: Deferred[str] = Deferred()
    answers: list[Any] = ["first", asking, "second"]
    world.up(token=lambda: answers.pop(0))
    world.live(75)
    if cancelled:
        asking.cancel()  # as HTTP clients do with what takes too long
    else:
        asking.errback(KeyError("down"))
    assert flush_logged_errors(CancelledError, KeyError)
    assert world.gateway.pipe.of(Renew) == []
    world.wait(10)
    assert world.gateway.pipe.of(Renew) == [Renew("second")]


def test_a_renewal_under_way_ends_with_its_link(world: World) -> None:
    world.gateway.token_expires_ms = int((world.clock.seconds() + 100) * 1000)
    waiting: list[Any] = ["first", Deferred()]
    world.up(token=lambda: waiting.pop(0))
    world.live(75)
    world.gateway.pipe.cut()
    world.wait(1)
    assert world.gateway.pipe.of(Renew) == []


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_renewal_that_is_cancelled_is_not_tried_again(world: World, closes: bool, at_once: bool) -> None:
    asked: list[float] = []
    cleared_up: Deferred[None] = Deferred()

    async def token() -> str:
        asked.append(world.clock.seconds())
        if len(asked) > 1:
            try:
                await Deferred()
            except CancelledError:
                if not at_once:
                    await cleared_up
                raise ConnectionError("the request was cancelled") from None  # as HTTP clients say it
        return "t"

    world.gateway.token_expires_ms = int((world.clock.seconds() + 100) * 1000)
    client = world.up(token=token)
    world.live(75)
    assert len(asked) == 2
    world.gateway.token_expires_ms = 0
    if closes:
        client.close()
    else:
        world.gateway.pipe.cut()
    world.wait(5)
    cleared_up.callback(None)
    world.wait(10)
    world.wait(10)
    assert len(asked) == 2


# ------------------------------------------------------------------------------------------------- requests


def test_a_service_answers(world: World) -> None:
    client = world.up()
    asked = [client.request("weather", "today", "here"), client.request("weather", "today")]
    requests = world.gateway.pipe.of(Request)
    assert [(one.service, one.method, one.body, one.deadline_ms) for one in requests] == [
        ("weather", "today", b"here", 10_000),
        ("weather", "today", b"", 10_000),
    ]
    world.gateway.pipe.say(Response(requests[1].id, 0, b"rain"), Response(requests[0].id, 117, b"why"))
    assert done(asked[1]) == b"rain"
    with pytest.raises(RequestFailed) as failed:
        done(asked[0])
    assert (failed.value.code, failed.value.body) == (117, b"why")
    unknown = client.request("elsewhere", "x")
    world.gateway.pipe.say(Response(world.gateway.pipe.of(Request)[-1].id, ResponseCode.NO_SUCH_SERVICE))
    with pytest.raises(RequestFailed, match="NO_SUCH_SERVICE"):
        done(unknown)
    world.gateway.pipe.say(Response(requests[0].id, 0, b"again"))


def test_a_request_has_a_deadline_with_and_without_a_link(world: World) -> None:
    client = world.up()
    asked = [client.request("s", "m", deadline_s=2)]
    world.wait(1)
    world.gateway.reachable = False
    world.gateway.pipe.cut()
    with pytest.raises(LinkLost):
        done(asked[0])
    unsent = client.request("s", "m", deadline_s=2)
    later = client.request("s", "n", deadline_s=60)
    world.wait(2)
    with pytest.raises(RequestFailed) as failed:
        done(unsent)
    assert failed.value.code == ResponseCode.DEADLINE
    world.gateway.reachable = True
    world.wait(1)
    [request] = world.gateway.pipe.of(Request)
    assert request.method == "n"
    assert request.deadline_ms < 60_000
    world.gateway.pipe.say(Response(request.id, 0, b""))
    assert done(later) == b""


def test_requests_refused_cancelled_and_unsayable(world: World) -> None:
    client = world.up()
    asked = client.request("s", "m")
    ident = world.gateway.pipe.of(Request)[0].id
    world.gateway.pipe.say(
        Refused("request", "nonsense", 1), Refused("request", str(ident), RefusedCode.RATE)
    )
    with pytest.raises(FrameRefused):
        done(asked)
    cancelled = client.request("s", "m")
    cancelled.addErrback(lambda reason: None).cancel()
    with pytest.raises(ValueError, match="connection"):
        done(client.request("s", "m", bytes(1 << 20)))


def test_requests_keep_to_the_rate(world: World) -> None:
    world.gateway.limits = Limits(request_rate=2)
    client = world.up()
    for _ in range(5):
        client.request("s", "m", deadline_s=100).addErrback(lambda reason: None)
    assert len(world.gateway.pipe.of(Request)) == 1
    world.wait(0.53)
    assert len(world.gateway.pipe.of(Request)) >= 2
    world.wait(0.1)
    world.gateway.pipe.cut()  # with one waiting for its turn
    world.wait(1)
    world.wait(5)
    world.wait(5)
    assert sum(len(pipe.of(Request)) for pipe in world.gateway.pipes) == 5


def test_the_gateway_asks(world: World, flush_logged_errors: Any) -> None:
    client = world.up()
    pipe = world.gateway.pipe
    pipe.say(Request(1, "client", "who"))
    slow: Deferred[bytes] = Deferred()

    def answer(request: Request) -> Any:
        if request.method == "plain":
            return b"now"
        if request.method == "slow":
            return slow
        if request.method == "hangs":
            return Deferred()
        if request.method == "refuses":
            raise RequestFailed(120, b"busy")
        if request.method == "wrong":
            return "text"
        raise KeyError("mine")

    client.on_request = answer
    assert client.on_request is not None
    pipe.say(Request(2, "client", "plain"), Request(3, "client", "slow"), Request(4, "client", "refuses"))
    pipe.say(Request(5, "client", "fails"), Request(6, "client", "hangs", b"", 500))
    pipe.say(Request(7, "client", "wrong"))
    slow.callback(b"later")
    world.wait(0.5)
    assert sorted((one.id, one.code, one.body) for one in pipe.of(Response)) == [
        (1, ResponseCode.NO_SUCH_SERVICE, b""),
        (2, 0, b"now"),
        (3, 0, b"later"),
        (4, 120, b"busy"),
        (5, ResponseCode.FAILED, b""),
        (6, ResponseCode.DEADLINE, b""),
        (7, ResponseCode.FAILED, b""),
    ]
    assert flush_logged_errors(KeyError)
    assert flush_logged_errors(TypeError)


@pytest.mark.parametrize("code", [ResponseCode.OK, 120])
def test_an_answer_that_the_connection_cannot_carry_is_a_failure(world: World, code: int) -> None:
    client = world.up()

    def answer(request: Request) -> bytes:
        if code:
            raise RequestFailed(code, bytes(1_000))
        return bytes(1_000)

    client.on_request = answer
    world.gateway.pipe.max_send_bytes = 500
    world.gateway.pipe.say(Request(1, "client", "m"))
    assert world.gateway.pipe.of(Response) == [Response(1, ResponseCode.FAILED)]


def test_answers_are_bounded_and_die_with_their_link(world: World) -> None:
    client = world.up()
    waiting: list[Deferred[bytes]] = []

    async def answer(request: Request) -> bytes:
        waiting.append(Deferred())
        return await waiting[-1]

    client.on_request = answer
    pipe = world.gateway.pipe
    pipe.say(*(Request(n, "client", "m", b"", 60_000) for n in range(1, 66)))
    assert [(one.id, one.code) for one in pipe.of(Response)] == [(65, ResponseCode.RATE)]
    pipe.cut()
    waiting[0].callback(b"too late")
    world.wait(1)
    assert world.gateway.pipe.of(Response) == []
    client._asking.down()
    client._asking.serve(Request(1, "client", "m"))


def test_frames_of_later_features_are_ignored(world: World) -> None:
    client = world.up()
    world.gateway.pipe.say(Subscribed(ME, 0))
    assert client.connected


# --------------------------------------------------------------------------------------------------- pace


def test_pairs_have_a_pace_of_their_own_and_are_bounded() -> None:
    pace = Pace(0.0)
    pace.update(Limits(pair_rate=1, pair_burst=2), 0.0)

    def to(name: str) -> Publish:
        return Publish("m", (parse_address(f"user:{name}"),))

    for n in range(MAX_PAIRS):
        pace.take(to(f"u{n}"), 0.0)
    assert pace.wait_s(to("u0"), 0.0) > 0
    pace.take(to("new"), 0.0)  # the oldest makes room: all are spent
    assert pace.wait_s(to("u0"), 0.0) == 0
    assert pace.wait_s(to("u1"), 0.0) > 0
    pace.take(to("newer"), 100.0)  # and now none is
    assert len(pace._pairs) == 1


def test_a_step_of_the_clock_holds_nothing_up(world: World) -> None:
    world.gateway.heartbeat_s = 0
    client = world.up()
    client.publish("user:bob", b"x", qos=0)
    world.wait(3_600)
    client.publish("user:bob", b"x", qos=0)
    world.clock.rightNow -= 3_500  # seen by those who ask the time before and after
    client.publish("user:bob", b"x", qos=0)
    world.gateway.limits = Limits(publish_rate=10, request_rate=20, subscribe_rate=10)
    world.gateway.pipe.cut()
    world.wait(1)
    subscribed = client.subscribe("room:7")
    asked = client.request("weather", "today")
    world.turn()
    assert done(subscribed).active
    [request] = world.gateway.pipe.of(Request)
    world.gateway.pipe.say(Response(request.id, 0, b"rain"))
    assert done(asked) == b"rain"


def test_bytes_have_a_pace_too() -> None:
    pace = Pace(0.0)
    pace.update(Limits(publish_bytes_rate=1_000), 0.0)
    large = Publish("m", (ME,), body=bytes(5_000))
    assert pace.wait_s(large, 0.0) == 0  # a full bucket lets anything pass
    pace.take(large, 0.0)
    assert 4 < pace.wait_s(large, 0.0) < 6
    assert isinstance(Welcome, type)
