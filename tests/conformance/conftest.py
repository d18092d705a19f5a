from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.redis_server import RedisServer
from tests.conformance.house import House
from tests.conformance.redis_house import RedisHouse
from tests.conformance.wires import REDIS, WIRES, Wire


@pytest.fixture(params=[*WIRES, pytest.param(REDIS, marks=pytest.mark.server)], ids=lambda wire: wire.name)
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each row in turn."""
    row: Wire = request.param
    return row


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(
        tmp_path_factory.mktemp("redis"), "--appendonly", "no"
    )  # its disk is not the matter here
    yield server
    server.kill9()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[RedisServer]:
    """A second one, of the test's own."""
    server = RedisServer(tmp_path / "other", "--appendonly", "no")
    yield server
    server.kill9()


@pytest.fixture
def build(request: pytest.FixtureRequest) -> Iterator[Callable[..., House]]:
    """``build(**House's arguments)``: a node that is stopped when the test is over."""
    made: list[House] = []
    wire = request.getfixturevalue("wire") if "wire" in request.fixturenames else WIRES[0]
    kind = partial(RedisHouse, request.getfixturevalue("redis")) if wire.on_redis else House

    def build(*arguments: Any, **more: Any) -> House:
        made.append(kind(*arguments, **more))
        return made[-1]

    yield build
    for house in made:
        house.close()


@pytest.fixture
def house(build: Callable[..., House]) -> House:
    return build()
