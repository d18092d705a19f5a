from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conformance.house import House
from tests.conformance.wires import WIRES, Wire


@pytest.fixture(params=WIRES, ids=lambda wire: wire.name)
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each row in turn."""
    row: Wire = request.param
    return row


@pytest.fixture
def build() -> Iterator[Callable[..., House]]:
    """``build(**House's arguments)``: a node that is stopped when the test is over."""
    made: list[House] = []

    def build(*arguments: Any, **more: Any) -> House:
        made.append(House(*arguments, **more))
        return made[-1]

    yield build
    for house in made:
        house.close()


@pytest.fixture
def house(build: Callable[..., House]) -> House:
    return build()
