"""What every registry must do, wherever it keeps the nodes.

A registry joins by a subclass of `RegistryContract`, or of `ServerContract` if it has a server, with a
`desk`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from zope.interface.verify import verifyObject

from imgateway.interfaces import IRegistry, NodeState, Served
from imgateway.registries.memory import MemoryRegistry
from imgateway.registries.redis import Pace
from imgateway.registries.stored import write
from tests.registries.desks import Desk, MemoryDesk, RedisDesk, Watcher, ZooKeeperDesk, node
from tests.registries.zookeeper_server import ZooKeeperServer

ONE, TWO = node("one"), node("two", region="south")
ROOT = Path(__file__).resolve().parents[2]


class RegistryContract:
    """Override `desk`."""

    @pytest.fixture
    def desk(self, tmp_path: Path) -> Any:
        raise NotImplementedError

    def test_provides_the_interface(self, desk: Desk) -> None:
        registry = desk.new().registry
        assert verifyObject(IRegistry, registry)
        assert registry.name

    def test_nobody_is_there_at_first_and_that_is_told(self, desk: Desk) -> None:
        first = desk.new()
        assert first.told == [{}]
        assert first.is_well

    def test_a_node_is_seen_by_itself_by_others_and_by_who_comes_later(self, desk: Desk) -> None:
        first, other = desk.new(), desk.new()
        first.announces(ONE)
        for watcher in (first, other, desk.new()):
            watcher.sees("one")
            assert watcher.nodes == {ONE.incarnation: ONE}

    def test_what_changes_is_seen(self, desk: Desk) -> None:
        first, other = desk.new(), desk.new()
        first.announces(ONE)
        other.sees_info(ONE)
        for changed in (
            replace(ONE, sessions=8),
            replace(ONE, state=NodeState.DRAINING, leaving=5),
            replace(ONE, served=(Served("mqtt", "tcp", "tcp://x:1883"),)),
        ):
            first.announces(changed)
            other.sees_info(changed)
            first.sees_info(changed)

    def test_a_node_leaves_and_comes_back(self, desk: Desk) -> None:
        first, other = desk.new(), desk.new()
        first.announces(ONE)
        other.announces(TWO)
        for _ in range(2):
            other.sees("one", "two")
            first.sees("one", "two")
            first.withdraws()
            other.sees("two")
            first.sees("two")
            first.announces(ONE)
        other.sees("one", "two")

    def test_to_withdraw_twice_or_without_having_come_is_nothing(self, desk: Desk) -> None:
        first, other = desk.new(), desk.new()
        first.withdraws()
        first.announces(ONE)
        other.sees("one")
        first.withdraws()
        first.withdraws()
        other.sees()

    def test_a_stopped_one_is_gone_and_hears_nothing_more(self, desk: Desk) -> None:
        first, other = desk.new(), desk.new()
        first.announces(ONE)
        other.sees("one")
        first.sees("one")
        told = len(first.told)
        desk.ends(first)
        other.sees()
        other.announces(TWO)
        other.sees("two")
        assert len(first.told) == told

    def test_the_last_of_several_announcements_counts(self, desk: Desk) -> None:
        first, other = desk.new(), desk.new()
        said = [first.registry.announce(replace(ONE, sessions=n)) for n in range(20)]
        for done in said:
            desk.loop.run(done)
        other.sees_info(replace(ONE, sessions=19))


class TestMemory(RegistryContract):
    @pytest.fixture
    def desk(self) -> Iterator[Any]:
        desk = MemoryDesk()
        yield desk
        desk.close()

    def test_without_a_board_a_node_sees_itself_alone(self, desk: Desk) -> None:
        alone, other = Watcher(MemoryRegistry(), desk.loop), desk.new()
        alone.announces(ONE)
        assert alone.names == ["one"]
        assert other.names == []

    def test_another_incarnation_takes_the_place_of_the_one_before(self, desk: Desk) -> None:
        first = desk.new()
        first.announces(ONE)
        first.announces(TWO)
        assert first.names == ["two"]


@pytest.mark.server
class ServerContract(RegistryContract):
    """With a server that may be away. `desk` has `server`, `put`, `remove` and `empty` as well."""

    def test_a_server_that_is_away_at_the_start_is_waited_for(self, desk: Any) -> None:
        desk.server.kill9()
        first = desk.begin()
        first.until(lambda: first.states)
        assert not first.is_well
        assert str(desk.server.port) in first.states[-1][1]
        announced: list[object] = []
        first.registry.announce(ONE).addCallback(announced.append)
        desk.loop.spin(0.3)
        assert not first.started
        assert not announced
        desk.server.start()
        first.until(lambda: first.started and announced)
        first.sees("one")
        first.until(lambda: first.is_well)
        desk.new().sees("one")

    def test_killed_and_restarted_it_has_all_nodes_and_nobody_misses_one_meanwhile(self, desk: Any) -> None:
        desk.is_patient()
        first, other = desk.new(), desk.new()
        first.announces(ONE)
        other.announces(TWO)
        for watcher in (first, other):
            watcher.sees("one", "two")
            watcher.told = watcher.told[-1:]
        for kill in range(2):
            desk.server.kill9()
            other.until(lambda: not other.is_well)
            announced: list[object] = []
            first.registry.announce(replace(ONE, sessions=kill)).addCallback(announced.append)
            desk.loop.spin(0.3)
            assert not announced
            desk.server.start()
            for watcher in (first, other):
                watcher.until(lambda watcher=watcher: watcher.is_well)
            first.until(lambda: announced)  # noqa: B023
            other.sees_info(replace(ONE, sessions=kill))
        for watcher in (first, other):
            assert all(len(nodes) == 2 for nodes in watcher.told)
        desk.new().sees("one", "two")

    def test_a_server_that_lost_everything_gets_it_back(self, desk: Any) -> None:
        desk.is_patient()
        first, other = desk.new(), desk.new()
        first.announces(ONE)
        other.announces(TWO)
        for watcher in (first, other):
            watcher.sees("one", "two")
            watcher.told = watcher.told[-1:]
        desk.empty()
        late = desk.new()
        late.sees("one", "two")
        for watcher in (first, other):
            watcher.until(lambda watcher=watcher: watcher.is_well)
            assert all(len(nodes) == 2 for nodes in watcher.told)

    def test_what_somebody_else_took_out_is_put_back(self, desk: Any) -> None:
        first, other = desk.new(), desk.new()
        first.announces(ONE)
        other.sees("one")
        desk.remove(ONE.incarnation)
        desk.new().sees("one")

    def test_who_left_while_the_server_was_away_does_not_come_back(self, desk: Any) -> None:
        first, other = desk.new(), desk.new()
        first.announces(ONE)
        other.announces(TWO)
        other.sees("one", "two")
        desk.server.kill9()
        first.until(lambda: not first.is_well)
        first.withdraws()
        desk.server.start()
        other.sees("two")
        first.until(lambda: first.is_well)

    def test_to_stop_does_not_wait_for_a_server_that_is_away_or_hangs(self, desk: Any) -> None:
        desk.is_hasty()
        first, other = desk.new(), desk.new()
        first.announces(ONE)
        desk.server.freeze()
        began = time.monotonic()
        desk.ends(first)
        desk.server.kill9()
        desk.ends(other)
        assert time.monotonic() - began < 9
        desk.server.start()

    def test_a_server_that_hangs_is_noticed(self, desk: Any) -> None:
        desk.is_hasty()
        desk.is_patient()
        first = desk.new()
        first.announces(ONE)
        first.sees("one")
        desk.server.freeze()
        first.until(lambda: not first.is_well)
        assert first.names == ["one"]
        desk.server.thaw()
        first.until(lambda: first.is_well)
        desk.loop.spin(0.1)
        assert first.names == ["one"]

    def test_garbage_is_left_out_and_newer_versions_are_understood(self, desk: Any) -> None:
        newer = json.loads(write(TWO)) | {"state": "hibernating", "colour": "green"}
        desk.put(TWO.incarnation, json.dumps(newer).encode())
        desk.put("three.00000001", b"\xff\x00 not JSON")
        desk.put("four.00000001", write(ONE))  # another node's name
        first = desk.new()
        first.announces(ONE)
        first.sees("one", "two")
        assert first.nodes[TWO.incarnation] == replace(TWO, state=NodeState.BUSY)
        first.until(lambda: first.is_well)

    def test_flapping_connections_lose_nobody(self, desk: Any) -> None:
        desk.is_patient()
        first, other = desk.new(), desk.new()
        first.announces(ONE)
        other.announces(TWO)
        for watcher in (first, other):
            watcher.sees("one", "two")
            watcher.told = watcher.told[-1:]
        for n in range(4):
            desk.server.kill9()
            desk.loop.spin(0.05 * n)
            desk.server.start()
            desk.loop.spin(0.05 * (4 - n))
        for watcher in (first, other):
            watcher.until(lambda watcher=watcher: watcher.is_well)
            watcher.sees("one", "two")
            assert all(len(nodes) == 2 for nodes in watcher.told)


class TestRedis(ServerContract):
    @pytest.fixture
    def desk(self, tmp_path: Path) -> Iterator[Any]:
        desk = RedisDesk(tmp_path)
        yield desk
        desk.close()


@pytest.fixture(scope="module")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    """One for all: it takes a second to start. Each test has a path of its own in it."""
    server = ZooKeeperServer(tmp_path_factory.mktemp("zookeeper"))
    yield server
    server.stop()


class TestZooKeeper(ServerContract):
    @pytest.fixture
    def desk(self, zookeeper: ZooKeeperServer, request: pytest.FixtureRequest) -> Iterator[Any]:
        desk = ZooKeeperDesk(zookeeper, f"/tests/{request.node.name}")
        yield desk
        zookeeper.again()
        desk.close()


@pytest.mark.server
def test_a_node_that_is_killed_is_gone_within_15_s_everywhere(
    tmp_path: Path, zookeeper: ZooKeeperServer
) -> None:
    # It may take 14 s. Where anything stands still meanwhile it takes as much longer; then once more.
    for attempt in range(3):
        after_s = killed_is_gone_after_s(tmp_path / str(attempt), zookeeper, f"/killed{attempt}")
        if after_s < 15:
            break
    assert 1 < after_s < 15


def killed_is_gone_after_s(folder: Path, zookeeper: ZooKeeperServer, path: str) -> float:
    """After how many seconds it is gone from both kinds of registry, at the pace that they have."""
    redis = RedisDesk(folder)
    redis.pace, redis.line = Pace(), {}
    keeper = ZooKeeperDesk(zookeeper, path)
    keeper.pace = {}
    desks: list[Any] = [redis, keeper]
    urls = [desks[0].server.url, f"zookeeper://{zookeeper.hosts}{path}"]
    process = subprocess.Popen([sys.executable, "-m", "tests.registries.announcing", *urls], cwd=ROOT)
    try:
        watchers: list[Watcher] = [desk.new() for desk in desks]
        for watcher in watchers:
            watcher.sees("child")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    killed = time.monotonic()
    while any(watcher.names for watcher in watchers) and time.monotonic() - killed < 20:
        for desk in desks:
            desk.loop.iterate(0.05)
    after_s = time.monotonic() - killed
    for desk in desks:
        desk.close()
    return after_s
