"""What the tests of the Redis broker stand on: servers, a reactor that the test turns, nodes at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.broker_desk import BrokerDesk
from tests.brokers.redis_server import Loop, RedisServer
from tests.brokers.session_desk import SessionDesk


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all tests of a module; what makes the nodes empties it first."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """``start(*options, port=0)``: a server of the test's own."""
    made: list[RedisServer] = []

    def start(*options: str, port: int = 0) -> RedisServer:
        made.append(RedisServer(tmp_path / f"redis{len(made)}", *options, port=port))
        return made[-1]

    yield start
    for server in made:
        server.kill9()


@pytest.fixture
def server(start: Callable[..., RedisServer]) -> RedisServer:
    return start()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def desk_type() -> type[Any]:
    """What `sit` makes: of the whole broker, unless a module says otherwise."""
    return BrokerDesk


@pytest.fixture
def sit(loop: Loop, desk_type: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """``sit(*servers, **more)``: a node that is not started, n.1, n.2 and so on; all share the loop."""
    made: list[Any] = []

    def sit(*servers: RedisServer, **more: Any) -> Any:
        made.append(desk_type(*servers, loop=loop, incarnation=f"n.{len(made) + 1}", seed=len(made), **more))
        return made[-1]

    yield sit
    for desk in made:
        desk.stop()


@pytest.fixture
def desk(sit: Callable[..., Any], server: RedisServer) -> Any:
    """One that is started."""
    return sit(server).start()


@pytest.fixture
def desks(redis: RedisServer, loop: Loop) -> Iterator[Callable[..., Any]]:
    """``desks(*names)``: the sessions of nodes that share the loop and the module's server."""
    redis.cli("FLUSHALL")
    made: list[SessionDesk] = []

    def make(*nodes: str, **more: Any) -> Any:
        found = [SessionDesk(redis, loop=loop, node=node, **more).start() for node in nodes]
        made.extend(found)
        return found if len(found) > 1 else found[0]

    yield make
    for desk in made:
        if not desk.primary._line._stopped:
            desk.stop()
