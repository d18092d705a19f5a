"""``imgateway link``: the command, and both relays on a network in memory."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from twisted.internet.defer import ensureDeferred, fail, succeed
from twisted.internet.error import CannotListenError, ConnectionAborted, ConnectionDone, DNSLookupError
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from zope.interface.verify import verifyObject

from imgateway.cli import bridge, main, nat
from imgateway.cli.world import World
from imgateway.testing.network import Network
from imgateway.testing.wires import RawPeer

UDP = ("link", "--listen", "udp:7000", "--to", "udp:127.0.0.1:7901")
TCP = ("link", "--listen", "tcp:7001", "--to", "tcp:127.0.0.1:7902")
LINE = ("127.0.0.1", 7000)


class Ear(DatagramProtocol):
    def __init__(self, echo: bool = False) -> None:
        self.echo = echo
        self.heard: list[bytes] = []
        self.sources: list[Any] = []

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.heard.append(datagram)
        self.sources.append(addr)
        if self.echo:
            assert self.transport is not None
            self.transport.write(datagram, addr)


class Speaker(Protocol):
    """The gateway's end of a stream."""

    transport: Any

    def __init__(self) -> None:
        self.data = b""
        self.chunks: list[bytes] = []
        self.closed: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self.chunks.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.closed = reason


class House:
    """A network on which the command runs; `during` is what happens meanwhile."""

    def __init__(self) -> None:
        self.network = Network()
        self.gateway: Any = None
        self.speakers: list[Speaker] = []
        self.error: Exception | None = None

    def datagrams(self, echo: bool = True) -> Ear:
        ear = Ear(echo)
        self.network.listenUDP(7901, ear, "127.0.0.1")
        return ear

    def streams(self) -> list[Speaker]:
        factory = Factory()
        factory.noisy = False

        def build(addr: Any) -> Speaker:
            self.speakers.append(Speaker())
            return self.speakers[-1]

        factory.buildProtocol = build  # type: ignore[method-assign]
        self.gateway = self.network.listenTCP(7902, factory, interface="127.0.0.1")
        return self.speakers

    def client(self) -> tuple[Any, Ear]:
        ear = Ear()
        return self.network.listenUDP(0, ear, "127.0.0.1"), ear

    def invoke(self, *args: str, during: Callable[[], None] = lambda: None) -> Result:
        def run(main: Callable[[Any], Coroutine[Any, Any, int]]) -> int:
            task = ensureDeferred(main(self.network))
            self.network.settle()
            if not task.called:
                during()
            task.cancel()  # as a signal does
            self.network.settle()
            return int(self.network.result(task))

        return CliRunner().invoke(main, [*args], obj=World(run=run), catch_exceptions=False)

    def summary(self, *args: str, during: Callable[[], None] = lambda: None) -> dict[str, Any]:
        result = self.invoke(*args, during=during)
        assert result.exit_code == 0, result.output
        assert result.stdout.count("\n") == 1
        found: dict[str, Any] = json.loads(result.stdout)
        self.network.advance(100)
        assert self.network.getDelayedCalls() == [], "the command leaves nothing behind"
        return found


@pytest.fixture
def house() -> House:
    return House()


# ---------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("link",), "Missing option '--listen'"),
        (("link", "--listen", "udp:x", "--to", "udp:1.1.1.1:1"), "--listen 'udp:x': write udp:PORT"),
        (("link", "--listen", "udp:70000", "--to", "udp:1.1.1.1:1"), "--listen 'udp:70000'"),
        (("link", "--listen", "ws:1", "--to", "ws:h:1"), "--listen 'ws:1'"),
        (("link", "--listen", "udp:1", "--to", "tcp:h:1"), "--listen is udp and --to is tcp"),
        (("link", "--listen", "udp:1", "--to", "udp:7901"), "--to 'udp:7901': write udp:HOST:PORT"),
        (("link", "--listen", "udp:1", "--to", "udp:h:0"), "--to 'udp:h:0'"),
        ((*UDP, "--loss", "20"), "--loss '20': '20' is no share; write 0% to 100%"),
        ((*UDP, "--delay", "1s~2s"), "a delay cannot vary by more than itself"),
        ((*UDP, "--chunk", "1"), "--chunk is for tcp"),
        ((*TCP, "--loss", "5%"), "--loss is for udp"),
        ((*UDP, "--seed", "-1"), "--seed"),
        ((*UDP, "--duration", "0"), "--duration"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(house: House, args: tuple[str, ...], said: str) -> None:
    result = house.invoke(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"at 5s loss 40%\nat 6s cut\n", "line 2: cut is for tcp"),
        (b"in 5s loss 40%\n", "line 1: a line is: at TIME WHAT"),
        (b"\xff\xfe", "this is no text"),
        (None, "No such file or directory"),
    ],
)
def test_a_wrong_script_is_one_line(house: House, tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "tunnel.txt"
    if content is not None:
        file.write_bytes(content)
    result = house.invoke(*UDP, "--script", str(file))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert str(file) in result.stderr
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("args", "port"), [(UDP, "udp:7000"), (TCP, "tcp:7001")])
def test_a_port_that_is_taken(house: House, args: tuple[str, ...], port: str) -> None:
    house.network.listenUDP(7000, Ear(), "127.0.0.1")
    house.network.listenTCP(7001, Factory(), interface="127.0.0.1")
    result = house.invoke(*args)
    kind, _, number = port.partition(":")
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: --listen: cannot listen on {kind}:127.0.0.1:{number}: Address already in use\n",
    )


def test_names_are_looked_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = {"gateway.example": "127.0.0.1"}

    def resolve(name: str) -> Any:
        return succeed(hosts[name]) if name in hosts else fail(DNSLookupError("nobody knows"))

    monkeypatch.setattr(house.network, "resolve", resolve, raising=False)
    ear = house.datagrams()

    def during() -> None:
        port, _ = house.client()
        port.write(b"x", LINE)
        house.network.settle()

    assert house.summary(*UDP[:4], "udp:gateway.example:7901", during=during)["clients"] == 1
    assert ear.heard == [b"x"]
    result = house.invoke(*UDP[:4], "udp:elsewhere.example:7901")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "elsewhere.example: no such host" in result.stderr


def test_it_says_where_it_listens_and_with_which_seed(house: House) -> None:
    result = house.invoke(*UDP, "--seed", "7")
    assert result.stderr == "udp:127.0.0.1:7000 → udp:127.0.0.1:7901, seed 7\n"
    result = house.invoke("link", "--listen", "tcp:[::1]:7003", "--to", "tcp:[::1]:7902")
    assert result.stderr.startswith("tcp:[::1]:7003 → tcp:[::1]:7902, seed ")
    assert json.loads(result.stdout)["seed"] == int(result.stderr.split()[-1])


def test_it_listens_elsewhere_only_when_told(house: House) -> None:
    result = house.invoke("link", "--listen", "udp:0.0.0.0:7000", "--to", "udp:127.0.0.1:7901")
    assert result.stderr.startswith("udp:0.0.0.0:7000 → ")


def test_it_ends_by_itself(house: House) -> None:
    ended: list[float] = []

    def during() -> None:
        house.network.advance(90)
        ended.append(house.network.seconds())

    found = house.summary(*UDP, "--duration", "1m30s", during=during)
    assert found["seconds"] == 90
    assert ended == [90]


def test_a_signal_comes_before_its_time(house: House) -> None:
    assert house.summary(*TCP, "--duration", "1h", during=lambda: house.network.advance(3))["seconds"] == 3


def test_a_line_on_a_terminal_and_none_elsewhere(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from imgateway.cli import carrying

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    house.datagrams()
    house.streams()

    def udp() -> None:
        port, _ = house.client()
        port.write(b"x", LINE)
        house.network.elapse(1.2)

    def tcp() -> None:
        RawPeer.on(house.network, 7001).send(b"hello")
        house.network.elapse(1.2)

    assert "\r" not in house.invoke(*UDP, during=udp).stderr
    monkeypatch.setattr(carrying, "sys", SimpleNamespace(stderr=screen))
    house.invoke(*UDP, during=udp)
    assert "\r\x1b[K1 s, 1 open, up 1 → 1 datagrams, down 1 → 1 datagrams" in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K")
    house.invoke(*TCP, during=tcp)
    assert "1 open, up 5 → 5 bytes, down 0 → 0 bytes" in screen.getvalue()
    assert sys.stderr is not screen


# ------------------------------------------------------------------------------------------------ datagrams


def test_datagrams_go_and_come_back_from_a_socket_of_each_client(house: House) -> None:
    ear = house.datagrams()
    ears = []

    def during() -> None:
        for name in (b"one", b"two"):
            port, own = house.client()
            ears.append(own)
            port.write(name, LINE)
            port.write(name, LINE)
            house.network.settle()

    found = house.summary(*UDP, "--seed", "7", during=during)
    assert [own.heard for own in ears] == [[b"one"] * 2, [b"two"] * 2]
    assert ears[0].sources == [LINE] * 2
    assert len(set(ear.sources)) == 2
    clean = dict.fromkeys(("lost", "overflowed", "silenced", "duplicated", "reordered", "delayed"), 0)
    way = {"datagrams_in": 4, "bytes_in": 12, "datagrams_out": 4, "bytes_out": 12, **clean}
    assert found == {
        "kind": "udp",
        "seed": 7,
        "seconds": 0.0,
        "clients": 2,
        "turned_away": 0,
        "rebinds": 0,
        "unsendable": 0,
        "up": way,
        "down": way,
    }


def test_it_is_as_bad_as_told_and_the_same_for_a_seed() -> None:
    def carried() -> tuple[dict[str, Any], list[bytes]]:
        house = House()
        house.datagrams()
        heard: list[bytes] = []

        def during() -> None:
            port, own = house.client()
            for number in range(1_000):
                port.write(b"%d" % number, LINE)
                house.network.elapse(0.01)
            house.network.elapse(1)
            heard.extend(own.heard)

        args = "--loss 20%/5% --duplicate 5% --reorder 10% --delay 80ms~40ms --rate 64kbit --seed 7".split()
        return house.summary(*UDP, *args, during=during), heard

    found, heard = carried()
    up, down = found["up"], found["down"]
    assert abs(up["lost"] - 200) < 4 * 13
    assert abs(down["lost"] - down["datagrams_in"] * 0.05) < 4 * 7
    assert min(up["duplicated"], up["reordered"]) > 0
    assert up["delayed"] == up["datagrams_out"]
    assert (found, heard) == carried()


def test_a_script_is_played(house: House, tmp_path: Path) -> None:
    file = tmp_path / "tunnel.txt"
    file.write_text("at 10s silent\nat 20s heal rebind\nat 30s loss 100%/0%\n")
    ear = house.datagrams()

    def during() -> None:
        port, own = house.client()
        for second in range(40):
            port.write(b"%d" % second, LINE)
            house.network.elapse(1)
        assert own.heard == [b"%d" % second for second in (*range(10), *range(20, 30))]

    found = house.summary(*UDP, "--script", str(file), during=during)
    assert found["rebinds"] == 1
    assert (found["up"]["silenced"], found["up"]["lost"]) == (10, 10)
    assert ear.sources[0] != ear.sources[10] == ear.sources[-1]


def test_a_script_may_begin_at_once(house: House, tmp_path: Path) -> None:
    file = tmp_path / "rebind.txt"
    file.write_text("at 0s rebind loss 100%\n")
    house.datagrams()
    found = house.summary(*UDP, "--script", str(file), during=lambda: house.network.elapse(1))
    assert found["rebinds"] == 1


def test_what_comes_for_a_mapping_that_is_gone_is_lost(house: House, tmp_path: Path) -> None:
    file = tmp_path / "rebind.txt"
    file.write_text("at 1s rebind\n")
    ear = house.datagrams(echo=False)

    def during() -> None:
        port, own = house.client()
        port.write(b"x", LINE)
        house.network.elapse(2)
        assert ear.transport is not None
        ear.transport.write(b"late", ear.sources[0])
        house.network.elapse(1)
        assert own.heard == []
        port.write(b"y", LINE)
        house.network.elapse(1)
        ear.transport.write(b"found", ear.sources[1])
        house.network.elapse(1)
        assert own.heard == [b"found"]

    house.summary(*UDP, "--script", str(file), during=during)


def test_an_idle_client_is_forgotten_and_a_busy_one_is_not(house: House) -> None:
    ear = house.datagrams()

    def during() -> None:
        idle, _ = house.client()
        busy, _ = house.client()
        idle.write(b"idle", LINE)
        for _ in range(10):
            busy.write(b"busy", LINE)
            house.network.elapse(5)
        idle.write(b"idle", LINE)
        house.network.elapse(1)

    found = house.summary(*UDP, "--idle", "30s", during=during)
    assert found["clients"] == 3
    assert len(set(ear.sources)) == 3


def test_the_last_client_is_forgotten_too(house: House) -> None:
    house.datagrams()

    def during() -> None:
        port, _ = house.client()
        for _ in range(2):
            port.write(b"x", LINE)
            house.network.elapse(100)

    assert house.summary(*UDP, during=during)["clients"] == 2


def test_a_gateway_that_speaks_keeps_a_client(house: House) -> None:
    ear = house.datagrams(echo=False)

    def during() -> None:
        port, own = house.client()
        port.write(b"hello", LINE)
        for _ in range(10):
            house.network.elapse(5)
            assert ear.transport is not None
            ear.transport.write(b"news", ear.sources[0])
        house.network.elapse(1)
        assert len(own.heard) == 10

    house.summary(*UDP, "--idle", "30s", during=during)


def test_clients_are_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nat, "MOST_CLIENTS", 2)
    ear = house.datagrams()

    def during() -> None:
        for _ in range(3):
            house.client()[0].write(b"x", LINE)
        house.network.settle()

    found = house.summary(*UDP, during=during)
    assert (found["clients"], found["turned_away"], len(ear.heard)) == (2, 1, 2)


def test_when_no_socket_is_left_a_client_is_turned_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.datagrams()

    def during() -> None:
        port, _ = house.client()

        def full(*args: Any) -> Any:
            raise CannotListenError("", 0, OSError(24, "Too many open files"))

        with monkeypatch.context() as patch:
            patch.setattr(house.network, "listenUDP", full)
            port.write(b"x", LINE)
            house.network.settle()
        port.write(b"x", LINE)
        house.network.settle()

    found = house.summary(*UDP, during=during)
    assert (found["clients"], found["turned_away"]) == (1, 1)


def test_a_client_for_whom_there_is_no_other_socket_stays(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rebind.txt"
    file.write_text("at 1s rebind\n")
    ear = house.datagrams()

    def during() -> None:
        port, _ = house.client()
        port.write(b"x", LINE)
        house.network.settle()

        def full(*args: Any) -> Any:
            raise CannotListenError("", 0, OSError(24, "Too many open files"))

        with monkeypatch.context() as patch:
            patch.setattr(house.network, "listenUDP", full)
            house.network.elapse(2)
        port.write(b"y", LINE)
        house.network.settle()

    house.summary(*UDP, "--script", str(file), during=during)
    assert ear.heard == [b"x", b"y"]
    assert ear.sources[0] == ear.sources[1]


def test_what_the_system_does_not_take_is_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.datagrams()
    from imgateway.testing.datagrams import DatagramPort

    def during() -> None:
        port, _ = house.client()
        write = DatagramPort.write

        def full(self: DatagramPort, packet: bytes, addr: Any = None) -> None:
            if self is port:
                write(self, packet, addr)
            else:
                raise OSError(105, "No buffer space available")

        with monkeypatch.context() as patch:
            patch.setattr(DatagramPort, "write", full)
            port.write(b"x", LINE)
            house.network.settle()

    assert house.summary(*UDP, during=during)["unsendable"] == 1


def test_a_gateway_with_an_ipv6_address(house: House) -> None:
    ear = Ear(echo=True)
    house.network.listenUDP(7901, ear, "::1")

    def during() -> None:
        port, own = house.client()
        port.write(b"x", LINE)
        house.network.settle()
        assert own.heard == [b"x"]

    assert house.summary(*UDP[:4], "udp:[::1]:7901", during=during)["up"]["datagrams_out"] == 1


# -------------------------------------------------------------------------------------------------- streams


def test_providers() -> None:
    bank: Any = bridge._Bank(None)  # type: ignore[arg-type]
    assert verifyObject(IHalfCloseableProtocol, bank)
    assert verifyObject(IPushProducer, bank)
    bank.stopProducing()
    bank.writeConnectionLost()


def test_a_stream_goes_both_ways_and_ends(house: House) -> None:
    speakers = house.streams()

    def during() -> None:
        peer = RawPeer.on(house.network, 7001)
        peer.send(b"hello")
        assert speakers[0].data == b"hello"
        speakers[0].transport.write(b"and you")
        house.network.settle()
        assert peer.data == b"and you"
        assert peer.transport is not None
        peer.transport.loseConnection()
        house.network.settle()
        assert speakers[0].closed.check(ConnectionDone)

    found = house.summary(*TCP, "--seed", "7", during=during)
    assert found == {
        "kind": "tcp",
        "seed": 7,
        "seconds": 0.0,
        "connections": 1,
        "turned_away": 0,
        "unreachable": 0,
        "cut": 0,
        "up": {"bytes_in": 5, "bytes_out": 5, "chunks_out": 1, "dropped_bytes": 0},
        "down": {"bytes_in": 7, "bytes_out": 7, "chunks_out": 1, "dropped_bytes": 0},
    }


def test_what_was_sent_before_the_end_arrives_late_but_arrives(house: House) -> None:
    speakers = house.streams()

    def during() -> None:
        peer = RawPeer.on(house.network, 7001)
        assert peer.transport is not None
        peer.transport.write(b"last words")
        peer.transport.loseConnection()
        house.network.elapse(0.5)
        assert (speakers[0].data, speakers[0].closed) == (b"", None)
        house.network.elapse(1)
        assert speakers[0].data == b"last words"
        assert speakers[0].closed.check(ConnectionDone)

    house.summary(*TCP, "--delay", "1s", during=during)


def test_the_gateways_end_is_told_to_the_client(house: House) -> None:
    speakers = house.streams()

    def during() -> None:
        peer = RawPeer.on(house.network, 7001)
        speakers[0].transport.write(b"bye")
        speakers[0].transport.loseConnection()
        house.network.settle()
        assert peer.data == b"bye"
        assert peer.closed is not None
        assert peer.closed.check(ConnectionDone)

    house.summary(*TCP, during=during)


def test_a_connection_that_breaks_breaks_the_other(house: House) -> None:
    speakers = house.streams()

    def during() -> None:
        transport: Any = RawPeer.on(house.network, 7001).transport
        transport.abortConnection()
        house.network.settle()
        assert not speakers[0].closed.check(ConnectionDone)

    assert house.summary(*TCP, during=during)["cut"] == 0


def test_byte_by_byte(house: House) -> None:
    speakers = house.streams()

    def during() -> None:
        RawPeer.on(house.network, 7001).send(b"hello")
        house.network.elapse(0.1)
        assert speakers[0].chunks == [b"h", b"e", b"l", b"l", b"o"]

    assert house.summary(*TCP, "--chunk", "1/off", during=during)["up"]["chunks_out"] == 5


def test_cut_after_so_many_bytes_which_arrive(house: House) -> None:
    speakers = house.streams()

    def during() -> None:
        peer = RawPeer.on(house.network, 7001)
        peer.send(b"0123456789abc")
        peer.send(b"more")
        house.network.elapse(1)
        assert speakers[0].data == b"0123456789"
        assert not speakers[0].closed.check(ConnectionDone)
        assert peer.closed is not None
        RawPeer.on(house.network, 7001).send(b"again")
        assert speakers[1].data == b"again"

    found = house.summary(*TCP, "--cut-after", "10", during=during)
    assert (found["cut"], found["connections"], found["up"]["dropped_bytes"]) == (1, 2, 7)


def test_cut_after_a_time_with_nothing_said(house: House) -> None:
    speakers = house.streams()

    def during() -> None:
        peer = RawPeer.on(house.network, 7001)
        house.network.elapse(4.9)
        assert (peer.closed, speakers[0].closed) == (None, None)
        house.network.elapse(0.2)
        assert None not in (peer.closed, speakers[0].closed)

    assert house.summary(*TCP, "--cut-after", "5s", during=during)["cut"] == 1


def test_a_script_cuts_and_heals(house: House, tmp_path: Path) -> None:
    file = tmp_path / "cut.txt"
    file.write_text("at 1s silent\nat 2s heal\nat 3s cut\n")
    speakers = house.streams()

    def during() -> None:
        peer = RawPeer.on(house.network, 7001)
        house.network.elapse(1.5)
        peer.send(b"hello")
        assert speakers[0].data == b""
        house.network.elapse(1)
        assert speakers[0].data == b"hello"
        assert peer.closed is None
        house.network.elapse(1)
        assert peer.closed is not None

    found = house.summary(*TCP, "--script", str(file), during=during)
    assert found["cut"] == 1


def test_a_half_open_connection(house: House) -> None:
    speakers = house.streams()

    def during() -> None:
        peer = RawPeer.on(house.network, 7001)
        peer.send(b"hello, is anybody there?")
        speakers[0].transport.write(b"yes")
        assert peer.transport is not None
        peer.transport.loseConnection()
        house.network.elapse(3_600)
        assert (speakers[0].data, speakers[0].closed) == (b"hello", None)

    found = house.summary(*TCP, "--silent-after", "5/off", during=during)
    assert found["up"]["dropped_bytes"] == 19


def test_a_slow_line_holds_the_sender_up(house: House) -> None:
    speakers = house.streams()

    def during() -> None:
        peer = RawPeer.on(house.network, 7001)
        assert peer.transport is not None
        peer.transport.write(bytes(3_000_000))
        house.network.elapse(10)
        # 10,000 bytes a second, and a queue of one second before the relay stops reading
        assert 90_000 <= len(speakers[0].data) <= 100_000
        house.network.elapse(20)
        assert 290_000 <= len(speakers[0].data) <= 300_000

    found = house.summary(*TCP, "--rate", "80kbit", during=during)
    assert found["up"]["bytes_in"] < 500_000


def test_a_gateway_that_does_not_read_holds_the_client_up(house: House) -> None:
    speakers = house.streams()

    def during() -> None:
        peer = RawPeer.on(house.network, 7001)
        speakers[0].transport.pauseProducing()
        assert peer.transport is not None
        peer.transport.write(bytes(8_000_000))
        house.network.settle()
        speakers[0].transport.resumeProducing()
        house.network.settle()
        assert len(speakers[0].data) == 8_000_000

    assert house.summary(*TCP, during=during)["up"]["bytes_out"] == 8_000_000


def test_a_gateway_that_is_not_there(house: House) -> None:
    def during() -> None:
        peer = RawPeer.on(house.network, 7001)
        house.network.settle()
        assert peer.closed is not None

    found = house.summary(*TCP, during=during)
    assert (found["connections"], found["unreachable"]) == (1, 1)


def test_connections_are_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "MOST_CONNECTIONS", 1)
    house.streams()

    def during() -> None:
        first = RawPeer.on(house.network, 7001)
        second = RawPeer.on(house.network, 7001)
        assert first.closed is None
        assert second.closed is not None
        assert second.closed.check(ConnectionAborted) is None

    found = house.summary(*TCP, during=during)
    assert (found["connections"], found["turned_away"]) == (1, 1)


class Undecided(Network):
    """Nobody answers who connects to the gateway."""

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Any:
        connector = super().connectTCP(host, port, factory, timeout, bindAddress)
        if port == 7902:
            connector._call.cancel()
            connector._call = self.callLater(timeout, connector.stopConnecting)
        return connector


def test_it_ends_while_a_connection_is_being_made(house: House) -> None:
    house.network = Undecided()
    peers = []

    def during() -> None:
        peers.append(RawPeer.on(house.network, 7001))

    found = house.summary(*TCP, during=during)
    assert (found["connections"], found["unreachable"]) == (1, 0)
    assert peers[0].closed is not None


def test_a_client_that_leaves_before_the_gateway_answers(house: House) -> None:
    house.network = Undecided()

    def during() -> None:
        peer = RawPeer.on(house.network, 7001)
        assert peer.transport is not None
        peer.transport.loseConnection()
        house.network.elapse(5)

    assert house.summary(*TCP, during=during)["connections"] == 1


# --------------------------------------------------------------- what a network in memory does not do: halves


class Half:
    """A transport that notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.asked.append(name)


@pytest.mark.parametrize("read_first", [True, False])
def test_when_both_halves_are_closed_all_is(read_first: bool) -> None:
    class Deaf:
        def finished(self, bank: Any) -> None: ...

    bank = bridge._Bank(Deaf())  # type: ignore[arg-type]
    half = bank.transport = Half()
    if read_first:
        bank.readConnectionLost()
        assert half.asked == []
        bank.end(False, False)
        assert half.asked == ["unregisterProducer", "loseConnection"]
    else:
        bank.end(False, False)
        bank.end(False, False)
        assert half.asked == ["unregisterProducer", "loseWriteConnection"]
        bank.readConnectionLost()
        assert half.asked[2:] == ["loseConnection"]
