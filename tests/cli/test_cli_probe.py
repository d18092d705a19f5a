"""``imgateway probe`` against whole nodes in memory, over every kind of transport."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.internet.error import CannotListenError
from zope.interface.verify import verifyObject

from imgateway.cli import main
from imgateway.cli.probe import table
from imgateway.cli.probing import Found, Line, Times
from imgateway.cli.progress import Progress
from imgateway.cli.world import World
from imgateway.errors import CloseCode, ConnectRefused, LinkLost
from imgateway.frames import Address, Bye, Notify, Ping, Pong
from imgateway.interfaces import IMeasured, IReceiver
from imgateway.protocols.native import NativeAdapter
from imgateway.testing.conditions import LinkConditions
from imgateway.testing.wires import BareWire, Recorder
from imgateway.transports.tcp import TCPTransport
from imgateway.transports.udp import UDPTransport
from tests.node.udp_place import URL as UDP_URL
from tests.node.udp_place import Place

TRANSPORTS = {
    "tcp://127.0.0.1:7901": "native+tcp:tcp:7901",
    "ws://127.0.0.1:7901": "native+websocket:tcp:7901",
}

Probe = Callable[..., Result]


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(*arguments: Any, **options: Any) -> Place:
        made.append(Place(str(tmp_path), *arguments, **options))
        return made[-1]

    yield make
    for place in made:
        place.end()


def probe(place: Place, url: str, *args: str, token: str = "") -> Result:
    """The command, on the place's network."""

    def run(main: Any) -> int:
        running: Deferred[int] = ensureDeferred(main(place.network))
        status: int = place.result(running, 200)
        return status

    arguments = ["probe", url, "--token", token or place.token("probe"), *args]
    return CliRunner().invoke(
        main, arguments, obj=World(run=run, refuses=lambda host, port: True), catch_exceptions=False
    )


def found(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said


@pytest.mark.parametrize("url", TRANSPORTS)
def test_streams(url: str, places: Callable[..., Place]) -> None:
    place = places(TRANSPORTS[url])
    said = found(probe(place, url, "--json", "--count", "3", "--interval", "0.1"))
    assert (said["user"], said["pings"], said["pongs"]) == ("probe", 3, 3)
    assert set(said["rtt_ms"]) == {"min", "p50", "p90", "p99", "max"}
    assert said["resume_ms"] is not None
    assert "udp" not in said
    assert place.node.counters.logins == 2
    people = probe(place, url, "--count", "1").stdout
    assert "1 of 1 answered" in people
    assert "reconnect" in people
    assert not place.node.exchange.links


def test_udp_on_a_good_line(places: Callable[..., Place]) -> None:
    place = places()
    place.network.datagrams.conditions = LinkConditions(delay_s=0.05)
    said = found(probe(place, UDP_URL, "--json", "--count", "4"))
    assert 100 <= said["rtt_ms"]["min"] <= said["rtt_ms"]["max"] < 150
    assert 200 <= said["welcome_ms"] < 300  # asked where we are, connected, let in
    udp = said["udp"]
    assert (udp["lost_up"], udp["lost_down"], udp["resent"]) == (0, 0, 0)
    assert min(udp["sent"], udp["received"]) >= 5
    assert (udp["largest_up"], udp["largest_down"]) == (8_972, 8_972)
    assert 200 <= said["resume_ms"] < 300  # challenged, and then answered
    assert place.node.counters.logins == 1
    people = probe(place, UDP_URL, "--count", "1").stdout
    assert "largest datagram  up 8,972 B   down 8,972 B" in people
    assert "new address       traffic again after" in people


def test_a_person_sees_how_far_it_is(places: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("imgateway.cli.probing.Progress", lambda what, now: Progress(what, now, screen))  # type: ignore[arg-type]
    place = places()
    place.network.datagrams.conditions = LinkConditions(delay_s=0.3)
    result = probe(place, UDP_URL, "--count", "4", "--interval", "0.6")
    assert result.exit_code == 0, result.stderr
    shown = screen.text.split("\r\x1b[K")
    assert "2/4 (50 %) Pings" in shown
    assert any(line.endswith("sizes of datagrams") for line in shown)
    assert shown[-1] == ""


class Screen:
    """A terminal."""

    text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


def test_udp_on_a_lossy_line(places: Callable[..., Place]) -> None:
    place = places(seed=5)
    up = LinkConditions(loss=0.3, delay_s=0.02, reorder=0.1, duplicate=0.1)
    down = LinkConditions(loss=0.1, delay_s=0.02, reorder=0.1, duplicate=0.1)
    place.network.datagrams.conditions = lambda source, to: up if to[1] == 7901 else down
    said = found(probe(place, UDP_URL, "--json", "--count", "300", "--interval", "0.1"))
    udp = said["udp"]
    assert udp["loss_up"] == pytest.approx(0.3, abs=0.06)
    assert udp["loss_down"] == pytest.approx(0.1, abs=0.05)
    assert udp["resent"] > 20
    assert said["pongs"] == 300
    assert (udp["largest_up"], udp["largest_down"]) == (8_972, 8_972)


def test_a_path_that_carries_little(places: Callable[..., Place]) -> None:
    """What is too large for the path is lost, as it is with routers that may not cut it up."""
    place = places()
    send = place.network.datagrams.send

    def narrow(sender: Any, data: bytes, destination: Any) -> bool:
        limit = 1_472 if destination[1] == 7901 else 1_400
        return len(data) > limit or send(sender, data, destination)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.network.datagrams, "send", narrow)
        udp = found(probe(place, UDP_URL, "--json", "--count", "1"))["udp"]
    assert (udp["largest_up"], udp["largest_down"]) == (1_472, 1_400)
    assert udp["lost_up"] == udp["lost_down"] == 0


def test_a_nat_that_nobody_gets_through_again(places: Callable[..., Place]) -> None:
    place = places()
    seen: set[int] = set()

    def first_port_only(source: Any, to: Any) -> LinkConditions:
        seen.update({source[1], to[1]} - {7901} if len(seen) < 1 else ())
        return LinkConditions(silent=not {source[1], to[1]} & seen)

    place.network.datagrams.conditions = first_port_only
    result = probe(place, UDP_URL, "--count", "1", "--timeout", "2")
    assert "new address       nothing came" in result.stdout
    assert result.exit_code == 0


# -------------------------------------------------------------------------------------------- what goes wrong


def failed(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_nobody_there(places: Callable[..., Place]) -> None:
    place = places()
    assert "Connection" in failed(probe(place, "tcp://127.0.0.1:7"))
    nobody = (
        "nothing listens at udp://127.0.0.1:7; is the node running, with --listen native+udp:127.0.0.1:7?"
    )
    assert nobody in failed(probe(place, "udp://127.0.0.1:7", "--timeout", "1"))


def test_not_let_in(places: Callable[..., Place]) -> None:
    place = places("native+tcp:tcp:7901")
    assert "BAD_TOKEN" in failed(probe(place, "tcp://127.0.0.1:7901", token="nonsense"))


def test_a_udp_key_that_was_cut_off(places: Callable[..., Place]) -> None:
    place = places("native+tcp:tcp:7901")
    said = failed(probe(place, UDP_URL, token="a.b.c~xx"))
    assert said.endswith("~ is not a key (16 bytes in base64url): was it cut off?\n")
    url = "tcp://127.0.0.1:7901"
    assert (
        found(probe(place, url, "--json", "--count", "1", token=place.token("probe") + "~xx"))["pongs"] == 1
    )


@pytest.mark.parametrize("scheme", ["ws", "tls", "udp"])
def test_imports_are_not_the_lines_time(scheme: str) -> None:
    program = f"""
import sys
from types import SimpleNamespace
from twisted.internet.defer import fail
from imgateway.cli.probing import Plan, _Probe
from imgateway.errors import LinkLost

class Reactor:
    def __init__(self):
        self.modules = None
    def seconds(self):
        self.modules = set(sys.modules)
        return 0.0

reactor = Reactor()
login = SimpleNamespace(url="{scheme}://[", token="t", protocol="native", tls=None)
try:
    _Probe(reactor, login, Plan(1, 1.0, 1.0))._connect().send(None)
except LinkLost:
    print(sorted(set(sys.modules) - reactor.modules))
print(*[one for one in ("autobahn", "OpenSSL", "imgateway.transports.udp") if one in reactor.modules])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    expected = {"ws": "autobahn", "tls": "OpenSSL", "udp": "imgateway.transports.udp"}[scheme]
    assert run.stdout.splitlines()[0] == "[]", run.stderr
    assert expected in run.stdout.splitlines()[1].split()


def test_waiting_for_the_gateway(places: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    place = places("native+tcp:tcp:7901")
    connect, tried = TCPTransport.connect, []

    def later(*arguments: Any) -> Any:
        tried.append(place.network.seconds())
        return connect(*arguments) if len(tried) > 2 else fail(LinkLost("Connection refused"))

    monkeypatch.setattr(TCPTransport, "connect", later)
    url = "tcp://127.0.0.1:7901"
    assert "nothing listens" in failed(probe(place, url, "--count", "1"))
    assert found(probe(place, url, "--wait", "--json", "--count", "1"))["pongs"] == 1


def test_no_answer_to_any_ping(places: Callable[..., Place]) -> None:
    place = places()
    silent = LinkConditions(silent_after_bytes=2_450)
    place.network.datagrams.conditions = lambda source, to: silent if to[1] == 7901 else LinkConditions()
    assert "no answer to any of 2 Pings" in failed(probe(place, UDP_URL, "--count", "2", "--timeout", "1"))


def test_no_welcome(places: Callable[..., Place]) -> None:
    place = places()
    place.network.listenTCP(7950, _Mute())
    assert "no Welcome within 2 s" in failed(probe(place, "tcp://127.0.0.1:7950", "--timeout", "2"))


class _Mute:
    noisy = False

    def doStart(self) -> None: ...

    def doStop(self) -> None: ...

    def buildProtocol(self, addr: Any) -> Any:
        from twisted.internet.protocol import Protocol

        return Protocol()


def test_percentiles() -> None:
    times = Times(12, tuple(float(number) for number in range(1, 11)))
    assert [times.percentile(share) for share in (0.0, 0.5, 0.9, 0.99, 1.0)] == [1, 5, 9, 10, 10]
    assert Times(1, (3.0,)).percentile(0.99) == 3.0


def test_a_path_of_which_nothing_is_known() -> None:
    recorder = Recorder()
    connection: Any = None

    def connected(made: Any) -> None:
        nonlocal connection
        connection = made

    from imgateway.testing.network import Network

    network = Network()
    UDPTransport().connect(
        "udp://127.0.0.1:7", BareWire(), recorder, network, {"measured": True}
    ).addCallback(connected)
    assert verifyObject(IMeasured, connection)
    connection.challenge(1_200)
    statistics = connection.statistics()
    assert (statistics.sent, statistics.received, statistics.largest_up) == (0, 0, 0)
    found = Found("n", "u", 0.0, 0.0, Times(1, (0.1,)), statistics, statistics, None)
    assert "up below 1,200 B" in "\n".join(table("udp://x:1", found))
    connection.send(b"hello")
    connection.abort()
    network.settle()
    rebinding: list[Any] = []
    connection.rebind().addBoth(rebinding.append)
    network.settle()
    assert rebinding == [None]  # it is over: no socket is left behind
    connection.challenge(1_200)
    assert connection.statistics() == statistics


# --------------------------------------------------------------------------------------------- one connection


class _Wire:
    """A connection that writes down what is sent."""

    stream = True

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.ended = ""

    def send(self, data: bytes) -> None:
        self.sent += NativeAdapter().codec(True, 10_000).receive(data)

    def close(self, code: int) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


@pytest.fixture
def line() -> Line:
    from twisted.internet.task import Clock

    line = Line(Clock(), NativeAdapter())
    assert verifyObject(IReceiver, line)
    line.attach(_Wire())
    return line


def hear(line: Line, *frames: Any) -> None:
    codec = NativeAdapter().codec(True, 10_000)
    for frame in frames:
        line.received(codec.encode(frame) or b"")


def test_a_gateway_that_asks(line: Line) -> None:
    line.opened(NativeAdapter())
    line.pause_sending()
    line.resume_sending()
    hear(line, Ping(7, 8), Pong(99, 0))
    assert line.connection.sent == [Pong(7, 8)]


def test_a_wire_that_answers_by_itself(line: Line) -> None:
    """What else comes, messages for instance, is not for a probe."""
    answer = NativeAdapter().codec(True, 10_000).encode(Ping(1, 2)) or b""
    line._codec = SimpleNamespace(receive=lambda data: [answer, Notify(Address("room", "7"))])
    line.received(b"anything")
    assert line.connection.sent == [Ping(1, 2)]


def test_a_goodbye(line: Line) -> None:
    failures: list[Any] = []
    line.ping().addErrback(failures.append)
    hear(line, Bye(int(CloseCode.GOING_AWAY), "drain"))
    line.ping().addErrback(failures.append)
    line.close()
    assert [one.type for one in failures] == [LinkLost, LinkLost]
    assert line.connection.ended == ""


def test_a_refusal(line: Line) -> None:
    failures: list[Any] = []
    line.ping().addErrback(failures.append)
    hear(line, Bye(int(CloseCode.KICKED), "out"))
    assert failures[0].type is ConnectRefused


def test_bytes_that_are_wrong(line: Line) -> None:
    failures: list[Any] = []
    line.ping().addErrback(failures.append)
    line.received(b"\x04\xff\xff\xff\xff")
    assert "the gateway's bytes are wrong" in failures[0].getErrorMessage()


def test_no_port_left(places: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    place = places()
    listen = place.network.listenUDP
    calls: list[int] = []

    def once(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise CannotListenError("", 0, OSError(24, "Too many open files"))
        return listen(*arguments, **more)

    monkeypatch.setattr(place.network, "listenUDP", once)
    assert "Too many open files" in failed(probe(place, UDP_URL, "--count", "1"))
