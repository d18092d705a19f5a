"""What is ZooKeeper's own: sessions, znodes of an earlier one, netty-chat's place, refusals."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kazoo.protocol.states import KazooState
from msgspec.structs import replace
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.protocols.portforward import ProxyFactory

from imgateway.errors import ConfigError
from imgateway.interfaces import NodeInfo, NodeState, Served
from imgateway.registries.stored import write
from imgateway.registries.zookeeper import DEFAULT_PATH, LOOK_S, ZooKeeperRegistry, parse_zookeeper_url
from tests.brokers.redis_server import Loop
from tests.registries.desks import Watcher, ZooKeeperDesk, node
from tests.registries.zookeeper_server import ZooKeeperServer

ONE, TWO = node("one"), node("two")


@pytest.fixture(scope="module")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    server = ZooKeeperServer(tmp_path_factory.mktemp("zookeeper"))
    yield server
    server.stop()


@pytest.fixture
def desk(zookeeper: ZooKeeperServer, request: pytest.FixtureRequest) -> Iterator[Any]:
    desk = ZooKeeperDesk(zookeeper, f"/tests/{request.node.name}")
    yield desk
    zookeeper.again()
    desk.close()


def client_of(watcher: Watcher) -> Any:
    return watcher.registry._keeper._client


def end_session(desk: ZooKeeperDesk, watcher: Watcher) -> None:
    """As when it was cut off for too long: another connection takes the session and closes it."""
    from kazoo.client import KazooClient

    thief = KazooClient(desk.server.hosts, client_id=client_of(watcher).client_id)
    thief.start()
    thief.stop()
    thief.close()


@pytest.mark.server
class TestServer:
    def test_after_a_lost_session_the_node_is_there_again_and_was_not_missed(self, desk: Any) -> None:
        desk.is_patient()
        first, other = desk.new(), desk.new()
        first.announces(ONE)
        other.announces(TWO)
        for watcher in (first, other):
            watcher.sees("one", "two")
            watcher.told = watcher.told[-1:]
        before = client_of(first).client_id
        end_session(desk, first)
        first.until(lambda: not first.is_well)
        first.until(lambda: first.is_well)
        assert client_of(first).client_id != before
        path = f"{desk.path}/nodes/{ONE.incarnation}"
        owner = client_of(first).client_id[0]
        first.until(lambda: (stat := desk.do("exists", path)) and stat.ephemeralOwner == owner)
        desk.loop.spin(0.7)
        for watcher in (first, other):
            # Nor is anybody patient with it any more.
            watcher.until(lambda watcher=watcher: not watcher.registry._known._missing)
            assert all(len(nodes) == 2 for nodes in watcher.told)

    def test_a_znode_of_an_earlier_session_is_replaced(self, desk: Any) -> None:
        path = f"{desk.path}/nodes/{ONE.incarnation}"
        desk.put(ONE.incarnation, b"{}")
        first = desk.new()
        first.announces(ONE)
        first.sees("one")
        first.until(lambda: desk.do("get", path)[1].ephemeralOwner == client_of(first).client_id[0])

    def test_a_znode_that_was_deleted_before_a_change_is_made_anew(self, desk: Any) -> None:
        first = desk.new()
        first.announces(ONE)
        first.sees("one")
        client = client_of(first)
        removed = client.delete_async(f"{desk.path}/nodes/{ONE.incarnation}")
        first.announces(replace(ONE, sessions=99))
        removed.get(timeout=5)
        first.sees_info(replace(ONE, sessions=99))

    def test_a_directory_that_was_deleted_is_made_anew(self, desk: Any) -> None:
        first, other = desk.new(), desk.new()
        first.announces(ONE)
        other.sees("one")
        desk.do("delete", f"{desk.path}/nodes", recursive=True)
        other.sees("one")
        late = desk.new()
        late.sees("one")
        other.announces(TWO)
        first.sees("one", "two")

    def test_what_it_may_not_write_is_told_until_it_may(self, desk: Any) -> None:
        from kazoo.security import OPEN_ACL_UNSAFE, READ_ACL_UNSAFE

        desk.do("ensure_path", f"{desk.path}/nodes")
        desk.do("set_acls", f"{desk.path}/nodes", READ_ACL_UNSAFE + admin_acl())
        first = desk.new()
        announced: list[object] = []
        first.registry.announce(ONE).addCallback(announced.append)
        first.until(lambda: "NoAuthError" in first.states[-1][1])
        states = len(first.states)
        first.registry._look()
        desk.loop.spin(0.3)
        assert len(first.states) == states
        as_admin(desk, "set_acls", f"{desk.path}/nodes", OPEN_ACL_UNSAFE)
        first.registry._look()
        first.until(lambda: announced)
        first.registry._look()
        first.until(lambda: first.is_well)
        first.sees("one")

    def test_netty_chats_clients_find_a_node_while_it_is_ready(self, desk: Any) -> None:
        chat = f"{desk.path}/Chat/NettyServer"
        registry = desk.make(chat_path=chat)
        first = Watcher(registry, desk.loop)
        desk.watchers.append(first)
        served = (
            Served("native", "tcp", "tcp://10.0.0.1:7901"),
            Served("chat", "tcp", "tcp://10.0.0.1:8081"),
            Served("chat", "tcp", "tls://10.0.0.1:8082"),
        )
        first.announces(replace(ONE, served=served))
        assert desk.do("get_children", chat) == ["10.0.0.1:8081"]
        data, stat = desk.do("get", f"{chat}/10.0.0.1:8081")
        assert data == b"10.0.0.1:8081"
        assert stat.ephemeralOwner == client_of(first).client_id[0]
        first.announces(replace(ONE, served=served, state=NodeState.DRAINING))
        assert desk.do("get_children", chat) == []
        first.announces(replace(ONE, served=served))
        assert desk.do("get_children", chat) == ["10.0.0.1:8081"]
        first.withdraws()
        assert desk.do("get_children", chat) == []

    def test_a_server_that_takes_a_connection_and_forgets_it_is_asked_again(self, desk: Any) -> None:
        """As one does that is just starting; the session's time is not waited for."""
        session_s, renew_s = 24.0, 6.0
        forgetful = Forgetful("127.0.0.1", desk.server.port, desk.loop)
        port = desk.loop.listenTCP(0, forgetful, interface="127.0.0.1")
        hosts, began = f"127.0.0.1:{port.getHost().port}", time.monotonic()
        registry = ZooKeeperRegistry(hosts, desk.path, desk.loop, session_s=session_s, renew_s=renew_s)
        first = Watcher(registry, desk.loop)
        desk.watchers.append(first)
        first.until(lambda: first.started)
        assert time.monotonic() - began < renew_s
        assert forgetful.connections in (2, 3)  # on a busy machine the second may take too long as well
        desk.ends(first)
        desk.loop.run(port.stopListening())
        desk.loop.spin(0.05)

    def test_a_client_that_gets_no_connection_is_replaced_and_its_threads_end(self, desk: Any) -> None:
        first = desk.new()
        first.announces(ONE)
        first.sees("one")
        before = client_of(first)
        desk.server.kill9()
        first.until(lambda: client_of(first) is not before)
        first.until(lambda: client_of(first) is not before and not alive(before))
        desk.server.start()
        first.until(lambda: first.is_well)
        first.sees("one")


class Forgetful(ProxyFactory):
    """The first connection is taken, and nothing comes of it; those after it go to the server."""

    def __init__(self, host: str, port: int, loop: Loop) -> None:
        super().__init__(host, port)
        self.connections = 0
        self._loop = loop

    def buildProtocol(self, address: Any) -> Any:
        self.connections += 1
        if self.connections == 1:
            return Protocol()
        protocol: Any = super().buildProtocol(address)
        protocol.reactor = self._loop
        return protocol


def alive(client: Any) -> bool:
    routine = client._connection._connection_routine
    return routine is not None and routine in threading.enumerate()


def admin_acl() -> list[Any]:
    from kazoo.security import make_digest_acl

    return [make_digest_acl("admin", "pass", all=True)]


def as_admin(desk: Any, what: str, *arguments: Any) -> None:
    from kazoo.client import KazooClient

    client = KazooClient(desk.server.hosts, auth_data=[("digest", "admin:pass")])
    client.start()
    getattr(client, what)(*arguments)
    client.stop()
    client.close()


class Turn(Clock):
    """What threads ask it to call is called at once."""

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        call(*arguments)


class Asked:
    """kazoo's result, with the value that the server gave; the test says when its thread runs."""

    exception = None

    def __init__(self, value: Any) -> None:
        self.value = value

    def rawlink(self, done: Any) -> None:
        self.arrives = lambda: done(self)


class FakeClient:
    """A client of a directory with one znode. Answers wait in `asked`; events of watches come at once."""

    def __init__(self) -> None:
        self.client_id = (5, b"")
        self.asked: list[Asked] = []
        self.watch: Any = None
        self.data = write(TWO)

    def add_listener(self, listener: Any) -> None:
        self.listener = listener

    def start_async(self) -> None: ...

    def get_children_async(self, path: str, watch: Any) -> Asked:
        return self._ask([TWO.incarnation])

    def get_async(self, path: str, watch: Any) -> Asked:
        self.watch = watch
        return self._ask((self.data, None))

    def _ask(self, value: Any) -> Asked:
        self.asked.append(Asked(value))
        return self.asked[-1]

    def set(self, info: NodeInfo) -> None:
        self.data = write(info)
        watch, self.watch = self.watch, None
        if watch is not None:
            watch(type("Event", (), {"path": f"/n/nodes/{info.incarnation}"}))

    def answers(self, most: int = 100) -> None:
        """What was asked, in its order, and what is asked because of that."""
        while self.asked and most:
            self.asked.pop(0).arrives()
            most -= 1


def test_an_event_that_comes_before_the_answer_that_set_its_watch() -> None:
    """kazoo gives the one and the other in threads of their own, which may come in any order."""
    reactor, client = Turn(), FakeClient()
    registry = ZooKeeperRegistry("h:1", "/n", reactor, make=lambda *how: client)
    told: list[Any] = []
    registry.start(lambda nodes: told.append(dict(nodes)), lambda ok, why: None)
    client.listener(KazooState.CONNECTED)
    client.answers(1)  # who is there; what stands there is on its way
    drains = replace(TWO, state=NodeState.DRAINING)
    client.set(drains)
    client.answers()
    assert told[-1] == {TWO.incarnation: drains}
    last = replace(drains, sessions=0)
    client.set(last)
    client.answers()
    assert told[-1] == {TWO.incarnation: last}
    reactor.advance(LOOK_S)
    assert len(client.asked) == 1, "what is known is not read again"


@pytest.mark.parametrize(
    ("url", "hosts", "path"),
    [
        ("zookeeper://h", "h", DEFAULT_PATH),
        ("zookeeper://h:2181/", "h:2181", DEFAULT_PATH),
        ("zookeeper://h1:1,h2:2,[::1]:3/a/b/", "h1:1,h2:2,[::1]:3", "/a/b"),
        ("zookeeper://[::1]/x", "[::1]", "/x"),
    ],
)
def test_urls(url: str, hosts: str, path: str) -> None:
    assert parse_zookeeper_url(url, "registry.url") == (hosts, path)


@pytest.mark.parametrize(
    "url",
    "h:1 zookeeper:// zookeeper:///x zookeeper://h:0 zookeeper://h:70000 zookeeper://h:x zookeeper://u:p@h:1 "
    "zookeeper://::1:2181 zookeeper://h:1/a//b zookeeper://h:1/../b zookeeper://h:1,,g:2".split(),
)
def test_wrong_urls(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^registry\.url: .*zookeeper://HOST:PORT"):
        parse_zookeeper_url(url, "registry.url")
