from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.network.nodes import Node, holding_ports


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """``make_node(**Node's arguments)``: a node in its own directory, not started, ended with the test."""
    made: list[Node] = []
    with holding_ports() as ports:

        def make(**arguments: Any) -> Node:
            directory = tmp_path / f"node{len(made)}"
            directory.mkdir()
            made.append(Node(directory, ports, **arguments))
            return made[-1]

        yield make
        for node in made:
            node.end()
