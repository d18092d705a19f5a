"""What two threads see of the seats at a mailbox."""

from __future__ import annotations

from typing import Any

import pytest

from imgateway.brokers.tails import Seat, Tail

ONE, TWO = Seat("phone"), Seat("laptop")


@pytest.mark.parametrize(
    ("before", "after"),
    [((ONE, TWO), ONE), (ONE, (ONE, TWO)), ((), ONE), (ONE, ())],
    ids=["one left", "one came", "the first came", "the last left"],
)
def test_the_seats_may_change_while_the_writer_looks(before: Any, after: Any) -> None:
    """A device comes or goes between any two steps of the other thread: it sees who sat there before or
    after, and never something else."""

    class Changing:
        looks = 0

        @property
        def sitting(self) -> Any:
            self.looks += 1
            return before if self.looks == 1 else after

    def seats(sitting: Any) -> tuple[Seat, ...]:
        tail = Tail("alice")
        tail.sitting = sitting
        return tail.seats

    look: Any = Tail.__dict__["seats"].fget
    assert look(Changing()) in (seats(before), seats(after))
