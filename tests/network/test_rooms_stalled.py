"""A member of a flooded room that stops reading, over a real socket with a small buffer."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from bench.stalled import GIFT_S, stalled
from tests.network.nodes import Node

WINDOW = 262_144
"""limits.deliver_window_bytes: what may wait for a link, besides the frames of the turn that filled it."""


pytestmark = pytest.mark.network


def test_a_member_that_stops_reading_is_told_a_gap_and_gets_every_gift(
    make_node: Callable[..., Node],
) -> None:
    size = 16_000
    found: Any = None
    gaps = 0.0
    for _ in range(3):
        node = make_node(options=["--broker", "memory:"]).start()
        asked_s: list[float] = []

        def held(node: Node = node, asked_s: list[float] = asked_s) -> float:
            asked_s.append(time.monotonic())
            bytes_held = node.measure("imgateway_held_unsent_bytes")
            asked_s.append(time.monotonic())
            return bytes_held

        found = stalled(
            node.tcp,
            lambda user, service, node=node: node.token(user, service=service),
            held,
            seconds=4.0,
            size=size,
            rate=200.0,
        )
        gaps = node.measure("imgateway_gaps_told_total")
        # Where the machine stood still more came at once than a tick's; then once more.
        if max(then - before for before, then in pairwise(asked_s)) < 3 * GIFT_S:
            break
        node.end()
    well, slow = found.well, found.slow
    assert well.shown[0] == [f"m{number + 1}" for number in range(found.messages)]
    assert well.gaps == [0, 0]
    assert slow.shown[1] == well.shown[1] == found.gifts
    assert slow.gaps[1] == 0
    assert 1 <= slow.gaps[0] <= gaps
    kept = slow.shown[0]
    assert kept == sorted(set(kept), key=lambda one: int(one[1:]))
    assert len(kept) < found.messages
    assert kept[-1] == f"m{found.messages}"
    assert 0 < found.held <= WINDOW + 20 * (size + 200)  # a tick's messages are what a turn sends
