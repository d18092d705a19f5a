"""Which registry the settings name, and under which addresses a node stands in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock, deferLater
from zope.interface.verify import verifyObject

from imgateway.config import BrokerSettings, ListenSettings, NodeSettings, RegistrySettings, Settings
from imgateway.errors import ConfigError
from imgateway.interfaces import IRegistry, NodeState, Served
from imgateway.node.service import Node
from imgateway.ops.health import Health
from imgateway.tap.check import check
from imgateway.tap.options import Options
from imgateway.tap.registries import check_registry, make_registry, served
from imgateway.tap.service import compose
from tests.brokers.redis_server import RedisServer


def test_the_option() -> None:
    options = Options()
    options.parseOptions(["--registry", "redis://h:1/2"])
    assert options.settings.registry.url == "redis://h:1/2"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("", "memory"),
        ("redis://h:1", "redis h:1"),
        ("rediss://:secret@h", "redis h:6379"),
        ("redis://a:1,redis://b:2/3", "redis a:1, b:2"),
        ("redis+sentinel://a:1,b:2/nodes,redis://c", "redis nodes, c:6379"),
        ("zookeeper://a:1,b:2/x", "zookeeper a:1,b:2"),
    ],
)
def test_each_kind(url: str, name: str) -> None:
    registry = make_registry(RegistrySettings(url=url), Clock())
    assert verifyObject(IRegistry, registry)
    assert registry.name == name


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("etcd://h", "'etcd://' is no registry; allowed: redis://"),
        ("h:6379", "'h:6379' is no registry"),
        ("redis://", "is not a Redis URL"),
        ("redis://:secret@h:1/x", "is not a Redis URL"),
        ("redis://a:1,redis://a:1", "the same server twice"),
        ("zookeeper://", "is not zookeeper://HOST:PORT"),
    ],
)
def test_a_wrong_url_names_its_setting(url: str, why: str) -> None:
    for refuse in (check_registry, lambda settings: make_registry(settings, Clock())):
        with pytest.raises(ConfigError) as refused:
            refuse(RegistrySettings(url=url))
        assert str(refused.value).startswith("registry.url: ")
        assert why in str(refused.value)
        assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError):
        check(Settings(registry=RegistrySettings(url=url)))


def test_the_password_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("geheim\n")
    registry: Any = make_registry(RegistrySettings("redis://h", str(file)), Clock())
    assert registry._servers[0]._line._password == "geheim"
    own: Any = make_registry(RegistrySettings("redis://:own@h", str(file)), Clock())
    assert own._servers[0]._line._password == "own"
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"^registry\.password_file: .*UTF-8"):
        make_registry(RegistrySettings("redis://h", str(file)), Clock())
    with pytest.raises(ConfigError, match=r"^registry\.password_file: .*No such file"):
        make_registry(RegistrySettings("redis://h", str(tmp_path / "none")), Clock())


def test_netty_chats_path_is_for_zookeeper() -> None:
    registry: Any = make_registry(RegistrySettings("zookeeper://h", chat_path="Chat/NettyServer/"), Clock())
    assert registry._chat_path == "/Chat/NettyServer"
    with pytest.raises(ConfigError, match=r"^registry\.chat_path: "):
        check_registry(RegistrySettings("redis://h", chat_path="/Chat/NettyServer"))


class Listener:
    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port


def test_addresses_are_those_of_the_listeners() -> None:
    listen = ListenSettings(
        (
            "native+tcp:tcp:7901",
            "native,json+websocket:ssl:7902",
            "native+udp:0.0.0.0:7901",
            "mqtt+tcp:tcp:1883:interface=127.0.0.1",
            "native+tcp:unix:/run/x",
            "native+tcp:haproxy:tcp:1",
            "chat+tcp:tcp:8081:interface=\\:\\:",
        )
    )
    listeners: list[Any] = [
        Listener("tcp:0.0.0.0:7901", 7901),
        Listener("ssl:0.0.0.0:7902", 7902),
        Listener("udp:0.0.0.0:7901", 7901),
        Listener("tcp:127.0.0.1:1883", 1883),
        Listener("unix:/run/x", 0),
        Listener("haproxy:tcp:0.0.0.0:1", 0),
        Listener("tcp6:[::]:8081", 8081),
    ]
    assert served(Settings(listen=listen), listeners, "gw1") == (
        Served("native", "tcp", "tcp://gw1:7901"),
        Served("native", "websocket", "wss://gw1:7902"),
        Served("json", "websocket", "wss://gw1:7902"),
        Served("native", "udp", "udp://gw1:7901"),
        Served("mqtt", "tcp", "tcp://127.0.0.1:1883"),
        Served("chat", "tcp", "tcp://gw1:8081"),
    )


def test_what_is_advertised_replaces_them_while_it_listens() -> None:
    settings = Settings(
        registry=RegistrySettings(
            advertise=("native,json+websocket=wss://gw1.example.org/", "native+tcp=tls://[2001:db8::1]:7901")
        )
    )
    check_registry(settings.registry)
    assert served(settings, [], "gw1") == ()
    assert served(settings, [Listener("tcp:127.0.0.1:1", 1)], "gw1") == (  # type: ignore[list-item]
        Served("native", "websocket", "wss://gw1.example.org/"),
        Served("json", "websocket", "wss://gw1.example.org/"),
        Served("native", "tcp", "tls://[2001:db8::1]:7901"),
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "native", "native+tcp", "native+tcp=", "native+tcp=gw1:7901", "native+tcp=tcp://"),
        *("+tcp=tcp://h:1", "native,+tcp=tcp://h:1", "native+tcp:tcp:7901", "native+tcp=tcp://:"),
    ],
)
def test_what_is_no_advertisement_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^registry\.advertise: .* PROTOCOL\[,PROTOCOL\]\+TRANSPORT=URL"):
        check_registry(RegistrySettings(advertise=(text,)))


# --------------------------------------------------------------------------------------- a node that is there


def composed(tmp_path: Path, reactor: Any, health: Health, url: str) -> Node:
    settings = Settings(
        node=NodeSettings("gw1", str(tmp_path / "data"), drain_s=1.0),
        listen=ListenSettings(("native,json+websocket:tcp:0:interface=127.0.0.1",), ""),
        broker=BrokerSettings("memory:"),
        registry=RegistrySettings(url, region="north", zone="a", weight=7),
    )
    return compose(settings, reactor, health)


@pytest.mark.network
@pytest_twisted.ensureDeferred
async def test_a_node_without_a_registry_knows_itself(tmp_path: Path) -> None:
    from twisted.internet import reactor

    health = Health()
    node = composed(tmp_path, reactor, health, "")
    assert node.nodes() == {}
    await node.start()
    (info,) = node.nodes().values()
    assert (info.node, info.incarnation, info.state) == ("gw1", node.incarnation, NodeState.READY)
    assert (info.region, info.zone, info.weight) == ("north", "a", 7)
    url = f"ws://127.0.0.1:{node.listeners[0].port}"
    assert info.served == (Served("native", "websocket", url), Served("json", "websocket", url))
    assert health.notes() == {"registry": ""}
    await node.stop()
    assert node.nodes() == {}


@pytest.mark.server
@pytest_twisted.ensureDeferred
async def test_a_node_is_found_by_others_until_it_stops(tmp_path: Path) -> None:
    from twisted.internet import reactor

    server = RedisServer(tmp_path / "redis")
    told: list[Any] = []
    other: Any = make_registry(RegistrySettings(server.url), reactor)
    try:
        await other.start(told.append, lambda ok, why: None)
        # By its name, too: a thread looks that up.
        node = composed(tmp_path, reactor, Health(), server.url.replace("127.0.0.1", "localhost"))
        await node.start()
        while not told[-1]:
            await deferLater(reactor, 0.01)
        assert [info.node for info in told[-1].values()] == ["gw1"]
        await node.stop()
        assert [[info.state for info in nodes.values()] for nodes in told[-2:]] in (
            [[NodeState.DRAINING], []],
            [[NodeState.READY], []],  # it had nobody to wait for: both came at once
            [[NodeState.READY], [NodeState.DRAINING]],
        )
        while told[-1]:
            await deferLater(reactor, 0.01)
    finally:
        await other.stop()
        server.stop()


@pytest.mark.server
@pytest_twisted.ensureDeferred
async def test_a_registry_that_refuses_ends_the_start(tmp_path: Path) -> None:
    from twisted.internet import reactor

    server = RedisServer(tmp_path / "redis", "--requirepass", "geheim")
    try:
        node = composed(tmp_path, reactor, Health(), server.url)
        with pytest.raises(ConfigError, match=r"^registry\.url: redis .*NOAUTH"):
            await node.start()
    finally:
        server.stop()
