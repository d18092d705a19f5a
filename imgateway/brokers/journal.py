"""Commits in order of arrival: one row each, until their messages are moved to their logs.

A log's entries stand together, so a commit to a hundred logs would change a hundred pages of 4 KB, each with
a checksum and two writes; its row in the table `journal` is on two or three. Later, messages of many commits
are moved to a log at once, which share its pages. A commit for which the journal has no place takes the logs
along that have waited longest, about as many messages as it brings: none waits for a great merge.

For every log, `entry` has the first of the committed seqs and the journal the rest. The writer has the rest
in memory, too, as *runs*. There the reader's thread sees them, without a lock:

- It takes the dict `runs` before its statement begins to look at the database. A run has only what is
  committed, so what the dict had at that time is in the reader's view of the database: still in the journal,
  or moved.
- Runs are moved in a transaction. After it, and after any other commit to the logs, a new dict takes the
  place of `runs`; until then runs only grow at their ends, and an old dict is never changed again. So in any
  dict a log's run begins right behind what `entry` had when the dict was new, and has no hole.
- Let `moved` be the newest seq of a log that `entry` has, or had before retention took it. What a run has up
  to there was moved before the reader looked; what it has beyond continues `entry` without a hole, even if
  it came after the reader looked.
- A row of the table goes when nothing of it is in a run any more: what was moved may be in both. Whoever
  finds rows at a start moves what is not in `entry`, nor was.
- A commit whose fate is not known is in no run: nobody was told of it. The writer moves whatever the journal
  has before it goes on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from msgspec import Struct

from imgateway.brokers.appends import Append
from imgateway.brokers.rows import MERGE, Row, stamp

__all__ = ("Journal", "Run", "merge")

# The journal is full with so many messages and commits, bytes, or logs; then some are moved, until a tenth is
# free. Of 100 logs, that is some 10 messages of a log at once.
MOST = 1_000
MOST_BYTES = 1 << 20
MOST_LOGS = 250
# From here on the messages of a commit share pages as they are, or fill them alone: the journal would be one
# more place to write them to. Not before: it takes along all that waits of its logs, up to `MOST`, and
# whoever came meanwhile would make the next one as large.
MANY = 500
LARGE_BYTES = 2_000
# If of so many messages most have a log of their own, waiting spares no pages, and only what makes a small
# commit cheaper is worth it.
SAMPLE = 500
FEW = 10


def merge(connection: sqlite3.Connection) -> None:
    """Move all that is in the table to its logs, and the newest commit's number to row 0. Within a
    transaction."""
    connection.execute(MERGE)
    connection.execute("DELETE FROM journal")


class Run(Struct, frozen=True, gc=False):
    """What waits of one log: the messages of the seqs after `after`, and before each the time of its commit
    and its digest; the first of them came with the commit `since`.

    Bytes alone: what else hangs on a publish must not live that long.
    """

    since: int
    after: int
    messages: tuple[bytes, ...]
    heads: tuple[bytes, ...]

    @property
    def upto(self) -> int:
        return self.after + len(self.messages)

    def beyond(self, seq: int) -> Iterable[tuple[int, bytes, bytes]]:
        """What comes after `seq`: (seq, message, its head)."""
        start = max(seq - self.after, 0)
        rest = range(self.after + start + 1, self.upto + 1)
        return zip(rest, self.messages[start:], self.heads[start:], strict=True)


class Journal:
    """What is in the table, as far as it is known."""

    def __init__(self) -> None:
        self.runs: dict[int, Run] = {}
        """By the log's id; those that have waited longest first."""
        self.first = 0
        """The number of the oldest row that may be there; 0: there is none."""
        self._messages = self._bytes = 0
        self._is_shared = True
        self._sample = 0
        self._sampled: set[int] = set()

    def takes(self, messages: int, size: int) -> bool:
        """Should a commit with so many messages, `size` bytes together, go there?"""
        return messages < (MANY if self._is_shared else FEW) and size <= messages * LARGE_BYTES

    def sample(self, logs: Iterable[int], messages: int) -> None:
        """A commit was made, wherever it went, of so many messages to these logs."""
        self._sampled.update(logs)
        self._sample += messages
        if self._sample >= SAMPLE:
            self._is_shared = self._sample >= 2 * len(self._sampled)
            self._sampled.clear()
            self._sample = 0

    def overdue(self, number: int, messages: int, size: int) -> list[int] | None:
        """The logs to be moved so that a commit of this number has its place; None: it has."""
        span = number - self.first if self.first else 0
        messages += self._messages
        size += self._bytes
        logs = len(self.runs)
        if messages + span < MOST and size < MOST_BYTES and logs < MOST_LOGS:
            return None
        chosen: list[int] = []
        for log, run in self.runs.items():
            if (
                messages + number - run.since <= MOST * 9 // 10
                and size <= MOST_BYTES * 9 // 10
                and logs <= MOST_LOGS * 9 // 10
            ):
                break
            chosen.append(log)
            messages -= len(run.messages)
            size -= _size(run)
            logs -= 1
        return chosen

    def waiting(self, upto: int, most: int) -> list[int]:
        """Up to `most` logs that wait since this commit or an earlier one."""
        return [log for log, run in islice(self.runs.items(), most) if run.since <= upto]

    def rows(self, logs: Iterable[int]) -> list[Row]:
        """What waits of these logs."""
        return [
            (log << 32 | seq, head, message)
            for log in logs
            for seq, message, head in self.runs[log].beyond(0)
        ]

    def needed(self, moved: Collection[int]) -> int:
        """Without these logs, the number of the oldest row that has something which waits; 0: none has."""
        gone = set(moved)
        for log, run in self.runs.items():
            if log not in gone:
                return run.since
        return 0

    def moved(self, logs: Collection[int]) -> None:
        """What waited of these is with the rest, and no row is there that is not needed."""
        self.first = self.needed(logs)
        for log in logs:
            run = self.runs[log]
            self._messages -= len(run.messages)
            self._bytes -= _size(run)
        gone = set(logs)
        self.runs = {log: run for log, run in self.runs.items() if log not in gone}

    def passed(self) -> None:
        """Something else is in the logs: no run may follow what a reader has not seen in `entry`."""
        self.runs = dict(self.runs)

    def entered(self, number: int, at_ms: int, touched: Iterable[tuple[int, int, Sequence[Append]]]) -> None:
        """A commit is there: (log's id, after, the appends that follow) of each of its logs."""
        runs, at = self.runs, stamp(at_ms)
        for log, after, appends in touched:
            messages = tuple([append.encoded for append in appends])
            heads = tuple([at + append.digest for append in appends])
            self._messages += len(messages)
            self._bytes += sum(map(len, messages))
            run = runs.get(log)
            if run is None:
                runs[log] = Run(number, after, messages, heads)
            else:
                runs[log] = Run(run.since, run.after, run.messages + messages, run.heads + heads)
        self.first = self.first or number

    def merged(self) -> None:
        """The table is empty, in a transaction that is committed."""
        self.runs = {}
        self.first = self._messages = self._bytes = 0


def _size(run: Run) -> int:
    return sum(map(len, run.messages))
