"""The scenes: a good client passes, and each bad one fails on the line that says what it does wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, ensureDeferred
from zope.interface.verify import verifyObject

from imgateway.client import Client
from imgateway.client.adapters import protocol_named, transport_for
from imgateway.frames import (
    Acked,
    Bye,
    DeliverAck,
    Hello,
    Keep,
    Pong,
    Publish,
    Request,
    Response,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    parse_address,
)
from imgateway.interfaces import Carriage, IReceiver, Traits
from imgateway.protocols.mqtt.adapter import MqttAdapter
from imgateway.protocols.native import NativeAdapter
from imgateway.testing.conformance.abilities import Ability, abilities
from imgateway.testing.conformance.playing import play_all
from imgateway.testing.conformance.report import Report, Verdict
from imgateway.testing.conformance.scenes import SCENES
from imgateway.testing.conformance.stage import Stage
from imgateway.testing.conformance.visit import Visit
from imgateway.testing.network import Network
from imgateway.testing.wires import BareWire

from .scripted_client import ScriptedClient

ECHO_TO = "user:conformance"
MANNERS = "sends nothing that a gateway does not take"


class Trial:
    """A stage on a network in memory, and the programs that were started on it."""

    def __init__(self, protocol: Any = "native", scheme: str = "tcp") -> None:
        self.network = Network()
        self.wire = protocol_named(protocol) if isinstance(protocol, str) else protocol
        self.url = f"{scheme}://127.0.0.1:7901"
        self.stage = Stage(self.network, self.wire, "client", "token", self.wall_ms)
        self.report = Report()
        self.programs: list[Any] = []
        transport = transport_for(self.url)
        listening = transport.listen("127.0.0.1:7901", [self.wire], self.stage.accept, self.network, {})
        self.network.result(listening)

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self.network.seconds() * 1000)

    def sdk(self) -> None:
        def echo(received: Any) -> None:
            client.publish(ECHO_TO, received.message.body).addErrback(lambda failure: None)

        client = Client(
            self.url,
            token=lambda: "token",
            device="sdk",
            protocol=self.wire,
            reactor=self.network,
            wait=True,
            on_message=echo,
        )
        client.start().addErrback(lambda failure: None)
        self.programs.append(client)

    def scripted(self, *faults: str) -> ScriptedClient:
        client = ScriptedClient(self.network, frozenset(faults))
        client.start()
        self.programs.append(client)
        return client

    def play(self, *names: str, start: Callable[[], Any] | None = None) -> None:
        """To the end; `start`: how the program is started, and again where a scene wants that."""

        async def restart() -> None:
            assert start is not None
            start()

        if start is not None:
            start()
        ended: list[Any] = []
        ensureDeferred(play_all(self.stage, self.report, names, restart if start else None)).addBoth(
            ended.append
        )
        while not ended:
            assert self.network.seconds() < 1_000
            self.network.elapse(1.0)
        assert ended == [None]

    def lines(self, verdict: Verdict) -> list[tuple[str, str]]:
        return [(line.scene, line.check) for line in self.report.lines if line.verdict is verdict]

    @property
    def wrong(self) -> list[tuple[str, str]]:
        return self.lines(Verdict.WRONG)


@pytest.mark.parametrize(("protocol", "scheme"), [("native", "tcp"), ("native", "ws"), ("json", "ws")])
def test_our_sdk_passes(protocol: str, scheme: str) -> None:
    trial = Trial(protocol, scheme)
    trial.play(start=trial.sdk)
    assert trial.wrong == []
    assert trial.lines(Verdict.NOT_APPLICABLE) == []
    assert {line.scene for line in trial.report.lines} == {scene.name for scene in SCENES} | {"all"}


def test_the_scripted_client_passes() -> None:
    trial = Trial()
    trial.play(start=trial.scripted)
    assert trial.wrong == []
    assert trial.lines(Verdict.NOT_APPLICABLE) == []


def test_who_comes_again_at_a_hole_passes() -> None:
    trial = Trial()
    trial.play("gap", start=lambda: trial.scripted("comes again"))
    assert trial.wrong == []


BAD = {
    "no token": [("greeting", "shows its token")],
    "no acks": [("ack", "acknowledges a message in time")],
    "no empty acks": [("ack", "acknowledges a range without messages")],
    "acks ahead": [("ack", MANNERS)],
    "disorder": [("order", "shows them in their order, each once")],
    "other device": [("resume", "is the same device as before")],
    "no position": [("resume", "says how far it is")],
    "false position": [("resume", MANNERS)],
    "never again": [("resume", "it goes on after a break")],
    "no second acks": [("repeat", "acknowledges again what it is sent again")],
    "shows twice": [("repeat", "shows nothing twice")],
    "one epoch": [
        ("epoch", "goes on in a new log, whose numbers begin anew"),
        ("epoch", "shows what stands in it"),
    ],
    "skips": [
        ("gap", "asks for what is missing, or comes again"),
        ("gap", "acknowledges nothing behind a hole"),
    ],
    "waits for ever": [("gap", "asks for what is missing, or comes again")],
    "strict": [("unknown", "passes over fields that it does not know")],
    "impatient": [("publish", "repeats nothing on a living connection")],
    "new ids": [("publish", "repeats what has no answer on the next, with the same ids in the same order")],
    "forgets": [("publish", "repeats what has no answer on the next, with the same ids in the same order")],
    "not resent": [("publish", "says that they may have been sent before")],
    "floods": [("window", "keeps to the number that may wait for an answer")],
    "too large": [("oversize", "publishes nothing larger than it may")],
    "silent": [("heartbeat", "gives a sign of life every 2 s if it is told to")],
    "no nonce": [("heartbeat", "answers a ping with a pong of the same nonce")],
    "no answers": [("request", "answers a request, if only with a code")],
    "no renewal": [("renew", "renews its token before that ends")],
    "hasty": [("pace", "comes again when it is told to, and not before")],
    "steady": [("pace", "waits longer each time"), ("pace", "rolls dice for its waits")],
    "storms": [("pace", "does not come again at once, again and again")],
    "stubborn": [("kick", "stays away when it is told to")],
    "babbles": [("ack", MANNERS)],
    "greets twice": [("ack", MANNERS)],
    "talks first": [("greeting", MANNERS), ("greeting", "it logs in")],
    "impatient, deaf": [("publish", "is content with an answer")],
    "shows again later": [("order", "shows them in their order, each once")],
    "acks answers": [("gap", MANNERS)],
    "acks a hole": [("gap", "acknowledges nothing behind a hole")],
    "stale renewal": [("renew", "renews its token before that ends")],
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_client_fails_on_its_line(fault: str) -> None:
    trial = Trial()
    trial.scripted(*fault.split(", "))
    scene = BAD[fault][0][0]
    trial.play(scene)
    assert set(BAD[fault]) <= set(trial.wrong)
    assert {name for name, _ in trial.wrong} <= {scene, "ack"}


def test_a_program_that_does_not_echo() -> None:
    trial = Trial()
    trial.scripted("no echo")
    trial.play()
    assert trial.wrong == []
    left_out = trial.lines(Verdict.NOT_APPLICABLE)
    assert {name for name, _ in left_out} >= {"ack", "order", "publish", "window", "oversize", "refuse"}
    (refuse,) = [line for line in trial.report.lines if line.scene == "refuse"]
    assert "--run" in refuse.detail


def test_nobody_comes() -> None:
    trial = Trial()
    trial.play()
    assert trial.wrong == [("greeting", "it logs in")]
    rest = {line.scene: line.detail for line in trial.report.lines if line.scene != "greeting"}
    assert rest.pop("refuse") == "the program must be started anew: let --run do it"
    assert set(rest.values()) == {"the client is gone"}
    assert "all" not in rest  # nobody was there whose manners could be good


def test_a_program_that_never_comes_is_not_started_for_each_scene() -> None:
    trial = Trial()
    started: list[int] = []
    trial.play(start=lambda: started.append(1))
    assert trial.wrong == [("greeting", "it logs in")]
    assert trial.lines(Verdict.RIGHT) == []
    assert len(started) == 1
    assert trial.network.seconds() < 65


def test_who_connects_and_says_nothing() -> None:
    trial = Trial()
    trial.scripted("says nothing")
    trial.play()
    (line,) = [line for line in trial.report.lines if line.scene == "greeting"]
    assert line.detail == "no client was welcome within 60 s; 1 connection came"


def test_nobody_who_could_be_refused() -> None:
    trial = Trial()

    def start() -> None:
        if trial.programs:
            trial.programs[0].is_over = True
            trial.programs[0].end(0.0)
        else:
            trial.scripted()

    trial.play("refuse", start=start)
    assert ("refuse", "it is not let in") in trial.wrong
    assert ("refuse", "stays away when its login is refused") not in trial.lines(Verdict.RIGHT)


def test_the_connections_of_a_program_end_with_it() -> None:
    """A transport such as UDP does not say that somebody was killed."""
    trial = Trial()
    trial.scripted("never again")
    begun: list[bool] = []

    async def restart() -> None:
        begun.append(trial.stage.visits[0].over)

    ensureDeferred(play_all(trial.stage, trial.report, ("refuse",), restart))
    trial.network.elapse(30.0)
    assert begun == [False]
    assert trial.stage.visits[0].over


def test_one_publish_at_a_time_is_good_enough() -> None:
    trial = Trial()
    trial.scripted("one at a time")
    trial.play("publish", "window")
    assert trial.wrong == []


def test_dice_may_say_at_once_for_once() -> None:
    trial = Trial()
    trial.scripted("once at once")
    trial.play("pace")
    assert trial.wrong == []


def test_a_program_that_has_ended_is_not_waited_for() -> None:
    trial = Trial()
    trial.stage.program_ended("the program has ended, with status 3")
    trial.play(start=lambda: None)
    (line,) = [line for line in trial.report.lines if line.verdict is Verdict.WRONG]
    assert line.detail == "the program has ended, with status 3"
    assert trial.network.seconds() <= 1


def test_each_scene_is_announced() -> None:
    trial = Trial()
    trial.scripted()
    begun: list[str] = []
    ensureDeferred(
        play_all(trial.stage, trial.report, ("kick",), None, lambda scene: begun.append(scene.name))
    )
    trial.network.elapse(60.0)
    assert begun == ["greeting", "ack", "kick"]


def test_who_is_gone_is_started_anew() -> None:
    trial = Trial()
    trial.play("resume", "order", "gap", start=lambda: trial.scripted("never again"))
    assert trial.wrong == [("resume", "it goes on after a break")]
    assert len(trial.programs) == 2
    assert ("gap", "takes both when it has them") in trial.lines(Verdict.RIGHT)


def test_refused_and_stubborn() -> None:
    trial = Trial()
    trial.play("refuse", start=lambda: trial.scripted("stubborn"))
    assert trial.wrong == [("refuse", "stays away when its login is refused")]


def test_a_wire_that_nobody_knows_can_little() -> None:
    assert abilities(BareWire()) == frozenset()
    assert abilities(protocol_named("native")) == frozenset(Ability)


@pytest.mark.parametrize(("level", "told"), [(4, False), (5, True)])
def test_what_a_wire_can_say_depends_on_its_version(level: int, told: bool) -> None:
    wire = MqttAdapter(0, lambda: 1)
    codec = wire.codec(True, 1 << 20)
    assert Ability.WINDOW not in abilities(wire, codec)  # nobody has greeted yet
    properties = b"\x00" if level == 5 else b""
    connect = b"\x00\x04MQTT" + bytes((level, 0x82, 0, 60)) + properties + b"\x00\x01a\x00\x01u"
    list(codec.receive(bytes((0x10, len(connect))) + connect))
    assert codec.version == level  # type: ignore[attr-defined]
    assert (Ability.WINDOW in abilities(wire, codec)) is told


def test_a_visit_is_a_receiver() -> None:
    trial = Trial()
    trial.scripted()
    trial.network.settle()
    (visit,) = trial.stage.visits
    assert verifyObject(IReceiver, visit)
    visit.pause_sending()
    visit.resume_sending()


class PoorCodec:
    """Another's codec, for clients that know no more than messages: with answers of its own and a memory."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.restored: list[bytes] = []

    def receive(self, data: bytes) -> Any:
        for frame in self._inner.receive(data):
            yield frame
            if isinstance(frame, Hello):
                yield Keep(b"remember")
                yield self._inner.encode(Pong(3))

    def encode(self, frame: Any) -> bytes | None:
        data: bytes | None = self._inner.encode(frame)
        return data

    def restore(self, record: bytes) -> tuple[Any, ...]:
        self.restored.append(record)
        return (Subscribe(parse_address("topic:1")),) if record else ()


class PoorAdapter(NativeAdapter):
    name = "poor"
    carriage = Carriage(max_frame_bytes=4_000)
    traits = Traits(batches=False)

    def codec(self, stream: bool, max_frame_bytes: int) -> Any:
        return PoorCodec(super().codec(stream, max_frame_bytes))


def test_a_poor_wire() -> None:
    trial = Trial(PoorAdapter())
    trial.play(start=trial.scripted)
    assert trial.wrong == []
    left_out = {name for name, _ in trial.lines(Verdict.NOT_APPLICABLE)}
    played = {name for name, _ in trial.lines(Verdict.RIGHT)}
    assert left_out >= {"epoch", "gap", "unknown", "window", "heartbeat", "request", "renew", "kick"}
    assert played >= {"greeting", "ack", "order", "resume", "repeat", "publish", "pace"}
    assert ("ack", "takes a body of 65,536 bytes") in trial.lines(Verdict.NOT_APPLICABLE)
    first, second = trial.stage.visits[:2]
    assert (first.codec.restored, second.codec.restored) == ([b""], [b"remember"])


def test_what_else_a_gateway_answers() -> None:
    trial = Trial()
    client = trial.scripted("silent")
    answers: list[Any] = []
    client.on_response = client.on_subscribed = client.on_unsubscribed = answers.append  # type: ignore[attr-defined]
    trial.network.settle()
    room = parse_address("room:7")
    for frame in (Request(1, "weather", "now"), Subscribe(room), Unsubscribe(room)):
        client.say(frame)
        trial.network.settle()
    assert answers == [Response(1, 1), Subscribed(room), Unsubscribed(room)]
    client.say(Publish("q", (room,), body=b"now or never", qos=0))
    client.say(Bye(0))
    trial.network.settle()
    (visit,) = trial.stage.visits
    assert (visit.left, visit.over) == (True, True)
    visit.bye(200)  # nobody is there
    assert trial.stage.unanswered() == trial.stage.published


def test_what_waits_for_a_record_is_said_at_once() -> None:
    trial = Trial()
    sent: list[bytes] = []
    visit = Visit(trial.stage, SimpleNamespace(send=sent.append))  # type: ignore[arg-type]
    kept = [Keep(b"1", reply=b"one"), Keep(b"2", reply=lambda: b"two"), Keep(b"3", reply=bytes), Keep(b"4")]
    visit.codec = SimpleNamespace(receive=lambda data: kept)
    visit.received(b"")
    assert (sent, trial.stage.record) == ([b"one", b"two"], b"4")


def test_acknowledging_somebody_elses_log() -> None:
    trial = Trial()
    client = trial.scripted()
    trial.network.settle()
    client.say(DeliverAck((Acked(parse_address("user:bob"), 1, 1),)))
    trial.network.settle()
    assert trial.stage.faults == ["acknowledges a log that it was sent nothing of"]


def test_a_stage_that_fails_is_no_end(flush_logged_errors: Callable[..., Any]) -> None:
    trial = Trial()
    trial.stage.greet = lambda visit: 1 / 0  # type: ignore[assignment]
    trial.scripted("never again")
    trial.network.settle()
    assert trial.stage.faults == ["sends what makes this gateway fail; its log says how"]
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_waiting_that_is_cancelled_leaves_nothing() -> None:
    trial = Trial()
    waiting = ensureDeferred(trial.stage.until(lambda: False, 5.0))
    waiting.addErrback(lambda failure: failure.trap(CancelledError) and None)
    waiting.cancel()
    assert trial.network.getDelayedCalls() == []
    trial.stage.changed()


def test_the_page_has_every_scene() -> None:
    page = (Path(__file__).parents[2] / "docs" / "extend" / "conformance.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", page, re.M) == [scene.name for scene in SCENES]
