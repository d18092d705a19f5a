"""The listening grammar and what it opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Factory
from twisted.plugin import IPlugin
from zope.interface import implementer
from zope.interface.verify import verifyObject

from imgateway.config import ListenSettings, Settings
from imgateway.errors import ConfigError, OperatorError
from imgateway.interfaces import (
    IBackend,
    IListener,
    IProtocolAdapter,
    IProtocolMaker,
    ITransportAdapter,
    Traits,
)
from imgateway.ops.health import Health
from imgateway.tap.doors import Listen, door, http_door, open_http, parse_listen, unproven
from imgateway.tap.plugins import Wires, find, find_all
from imgateway.testing.network import Network
from imgateway.testing.wires import BareWire, Recorder, accepting
from imgateway.transports.places import host_port
from imgateway.transports.tcp import TCPTransport
from imgateway.transports.tls import BoundedTLS
from tests.certificate import write_certificate


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("native+tcp:tcp:7901", Listen(("native",), "tcp", "tcp:7901")),
        (
            "native,json+websocket:ssl:7902:privateKey=k.pem",
            Listen(("native", "json"), "websocket", "ssl:7902:privateKey=k.pem"),
        ),
        ("native+udp:0.0.0.0:7901", Listen(("native",), "udp", "0.0.0.0:7901")),
        ("native+tcp:unix:/run/a+b,c:mode=660", Listen(("native",), "tcp", "unix:/run/a+b,c:mode=660")),
    ],
)
def test_the_grammar(text: str, meaning: Listen) -> None:
    assert parse_listen(text) == meaning


@pytest.mark.parametrize(
    "text", ["", "native", "native+tcp", "native+tcp:", "+tcp:1", "native+:1", "native,+tcp:1", "tcp:7901"]
)
def test_what_is_not(text: str) -> None:
    with pytest.raises(ConfigError, match=r"listen\.clients: .*an example: native\+tcp:tcp:7901"):
        parse_listen(text)


def test_a_door_opens_its_endpoint() -> None:
    network = Network()
    made: list[Recorder] = []
    opened: Deferred[IListener] = door("native+tcp:tcp:0:interface=127.0.0.1", network, {})(accepting(made))
    listener = network.result(opened)
    assert verifyObject(IListener, listener)
    assert listener.port


def test_a_door_that_cannot_be_opened_fails_when_it_is_tried() -> None:
    network = Network()
    closed = door("json+tcp:tcp:0", network, {})(accepting([]))
    with pytest.raises(OperatorError, match="json does not ride on tcp"):
        network.result(closed)


@pytest.mark.parametrize("text", ["native+tcp:7901", "native+udp:7901", "native+tcp:nonsense:1"])
def test_a_place_that_cannot_be_listened_on_is_told_with_its_setting(text: str) -> None:
    network = Network()
    options = {"udp_key": lambda key_id: b"", "udp_reset_key": b""}
    for at in ("native+tcp:7901", "native+udp:7901"):
        network.result(door(at, network, options)(accepting([])))
    with pytest.raises(OperatorError, match=r"listen\.clients: cannot listen on (udp:)?[a-z0-9:]+: "):
        network.result(door(text, network, options)(accepting([])))


@pytest.mark.parametrize("error", [ConfigError("websocket.origins: no"), ZeroDivisionError("no")])
def test_what_is_wrong_with_something_else_is_told_as_it_is(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network()
    monkeypatch.setattr(TCPTransport, "listen", lambda *_: fail(error))
    with pytest.raises(type(error)) as raised:
        network.result(door("native+tcp:7901", network, {})(accepting([])))
    assert raised.value is error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("smoke+tcp:tcp:1", "'smoke'.*json, .*native"),
        ("native+pigeon:1", "'pigeon'.*tcp, udp, websocket"),
    ],
)
def test_what_is_not_installed_is_named_with_what_is(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"listen\.clients: .*{words}"):
        door(text, Network(), {})


def test_plugins_are_found_by_interface_and_name() -> None:
    for name in ("native", "json"):
        assert verifyObject(IProtocolAdapter, find(IProtocolAdapter, name, "x.y"))
    for name in ("tcp", "websocket"):
        assert verifyObject(ITransportAdapter, find(ITransportAdapter, name, "x.y"))
    found = find_all(IProtocolAdapter, ("json", "native"), "x.y")
    assert [plugin.name for plugin in found] == ["json", "native"]
    assert find_all(IBackend, (), "x.y") == ()


@implementer(IPlugin, IProtocolMaker)
class Maker:
    """Makes adapters that know what they were made with."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.made: list[tuple[Any, ...]] = []

    def make(self, settings: Any, now: Any, wall_ms: Any) -> Any:
        self.made.append((settings, now(), wall_ms()))
        wire = BareWire(self.name)
        wire.traits = Traits(authenticates=False)
        return wire


def test_a_wire_that_needs_settings_is_made_once_a_node_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    smoke, log = Maker("smoke"), Maker("log")
    assert verifyObject(IProtocolMaker, smoke)
    installed = {IProtocolMaker: [smoke, log], IProtocolAdapter: [BareWire("plain")]}
    monkeypatch.setattr("imgateway.tap.plugins.getPlugins", lambda interface: installed.get(interface, []))
    settings = Settings(listen=ListenSettings(clients=("plain,smoke+tcp:1", "log,smoke+websocket:2")))
    wires = Wires(settings, lambda: 1.5, lambda: 7)
    found = wires.find("smoke")
    assert (found.name, wires.find("smoke")) == ("smoke", found)
    assert wires.find("plain") is installed[IProtocolAdapter][0]
    assert wires.find("log").name == "log"
    assert (smoke.made, log.made) == ([(None, 1.5, 7)], [(settings.log, 1.5, 7)])
    assert Wires(settings, lambda: 2.0, lambda: 8).find("smoke") is not found
    lines = list(unproven(settings, wires))
    assert [line.split(": ")[1] for line in lines] == ["plain,smoke+tcp:1"] + ["log,smoke+websocket:2"] * 2
    assert "smoke has no way to prove who one is" in lines[0]
    with pytest.raises(ConfigError, match="no plugin has the name 'fire'; there are log, plain, smoke"):
        wires.find("fire")


def test_no_plugin_of_a_kind_at_all() -> None:
    with pytest.raises(ConfigError, match=r"plugins\.backends: .*'shop'.*none"):
        find(IBackend, "shop", "plugins.backends")


def http(endpoint: str, network: Network) -> object:
    return network.result(http_door(endpoint, Health(), CollectorRegistry(), network))


def test_the_http_port_may_be_short_and_tells_who_has_it() -> None:
    network = Network()
    assert http("127.0.0.1:7980", network).address == "http://127.0.0.1:7980"  # type: ignore[attr-defined]
    with pytest.raises(OperatorError) as caught:
        http("7980", network)
    assert str(caught.value) == (
        "listen.http: 7980: the address is in use; see by whom with:  ss -ltnp 'sport = :7980'"
    )


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [("7980", "127.0.0.1:7980"), ("tcp:7980", "0.0.0.0:7980"), ("0.0.0.0:7980", "0.0.0.0:7980")],
)
def test_a_bare_port_of_a_nodes_http_is_on_loopback(endpoint: str, address: str) -> None:
    """Health, metrics and the API have no business with other machines unless one says so."""
    assert http(endpoint, Network()).address == f"http://{address}"  # type: ignore[attr-defined]
    network = Network()
    port = network.result(open_http(endpoint, "listen.api", Factory(), network))
    assert host_port(port.getHost().host, port.getHost().port) == address


@pytest.mark.parametrize("setting", ["listen.http", "router.public"])
def test_http_ports_have_the_same_care_taken_of_their_tls(setting: str, tmp_path: Path) -> None:
    network, certificate = Network(), write_certificate(tmp_path)
    endpoint = f"ssl:7990:privateKey={certificate}/key.pem:certKey={certificate}/cert.pem"
    if setting == "listen.http":
        http(endpoint, network)
    else:
        network.result(open_http(endpoint, setting, Factory(), network))
    assert network._ports[7990].factory.protocol is BoundedTLS


def test_a_bare_port_of_a_router_is_everywhere() -> None:
    network = Network()
    port = network.result(open_http("7990", "router.public", Factory(), network))
    assert port.getHost().host == "0.0.0.0"


@pytest.mark.parametrize(
    "endpoint", ["nonsense", "tcp:notaport", "tcp:", "carrier-pigeon:7", "tcp:1:oops=2", ""]
)
def test_an_http_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(OperatorError, match=f"listen.http: {endpoint}: not a valid endpoint description"):
        http(endpoint, Network())
