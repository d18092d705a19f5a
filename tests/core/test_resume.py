"""Every row of the table that says who is right about a position."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgateway.core import resume as module
from imgateway.core.resume import Resumption, resume_durable, resume_ring
from imgateway.frames import Address, ResumePoint
from tests.tables import rows

ALICE = Address("user", "alice")
EPOCH, ACKED, HEAD = 7, 40, 90

POINTS: dict[str, list[ResumePoint | None]] = {
    "no position": [None, ResumePoint(ALICE), ResumePoint(ALICE, epoch=0, seq=50)],
    "same epoch, seq at or below the head": [
        ResumePoint(ALICE, epoch=EPOCH, seq=0),
        ResumePoint(ALICE, epoch=EPOCH, seq=ACKED - 1),
        ResumePoint(ALICE, epoch=EPOCH, seq=ACKED),
        ResumePoint(ALICE, epoch=EPOCH, seq=HEAD),
    ],
    "same epoch, seq beyond the head": [ResumePoint(ALICE, epoch=EPOCH, seq=HEAD + 1)],
    "another epoch": [
        ResumePoint(ALICE, epoch=EPOCH - 1, seq=50),
        ResumePoint(ALICE, epoch=EPOCH + 1, seq=HEAD + 1),
    ],
}

TABLE = rows(module.__doc__)


def test_every_row_is_tried() -> None:
    assert [row[0] for row in TABLE] == list(POINTS)


def meaning(cell: str, point: ResumePoint | None) -> Resumption:
    """What a cell of the table says: ``POSITION[, gap][, ROLLED BACK]``."""
    where, *marks = cell.split(", ")
    position = {
        "the gateway's `acked`": ACKED,
        "`acked`": ACKED,
        "the head": HEAD,
        "the client's seq": point.seq if point is not None else -1,
    }[where]
    assert set(marks) <= {"gap", "ROLLED BACK"}
    return Resumption(position, "gap" in marks, "ROLLED BACK" in marks)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_the_table_is_what_happens(row: tuple[str, ...]) -> None:
    says, durable, ring = row
    for point in POINTS[says]:
        assert resume_durable(point, EPOCH, ACKED, HEAD) == meaning(durable, point)
        assert resume_ring(point, EPOCH, HEAD) == meaning(ring, point)


@settings(max_examples=200, derandomize=True)
@given(
    known=st.integers(1, 3),
    seq=st.integers(0, 50),
    epoch=st.integers(1, 3),
    head=st.integers(0, 50),
    data=st.data(),
)
def test_nobody_is_put_beyond_the_head_or_moved_without_being_told(
    known: int, seq: int, epoch: int, head: int, data: st.DataObject
) -> None:
    acked = data.draw(st.integers(0, head))
    point = ResumePoint(ALICE, epoch=known, seq=seq)
    for resumption in (resume_durable(point, epoch, acked, head), resume_ring(point, epoch, head)):
        assert 0 <= resumption.position <= head
        assert resumption.gap or resumption.position == seq
        assert resumption.gap or not resumption.rolled_back
    # Once the log has its new epoch, the same client is not taken for a proof again.
    if resume_durable(point, epoch, acked, head).rolled_back:
        assert resume_durable(point, epoch + 1, acked, head) == Resumption(acked, gap=True)


def test_an_empty_log() -> None:
    assert resume_durable(None, EPOCH, 0, 0) == Resumption(0)
    assert resume_durable(ResumePoint(ALICE, epoch=EPOCH, seq=0), EPOCH, 0, 0) == Resumption(0)
    assert resume_durable(ResumePoint(ALICE, epoch=EPOCH, seq=1), EPOCH, 0, 0).rolled_back
    assert resume_ring(ResumePoint(ALICE, epoch=EPOCH, seq=1), EPOCH, 0) == Resumption(0, gap=True)
