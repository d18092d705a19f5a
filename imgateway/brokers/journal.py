"""Commits in order of arrival: one row each, until many of them are merged into their logs.

A log's entries stand together, so a commit to a hundred logs would change a hundred pages of 4 KB, each with
a checksum and two writes; its row in the table `journal` is on two or three. Later a thousand messages are
merged at once, which share the pages of their logs.

For every log, `entry` has the first of the committed seqs and the journal the rest. The writer has the rest
in memory, too, as *runs*. There the reader's thread sees them, without a lock:

- It takes the dict `runs` before its statement begins to look at the database. A run has only what is
  committed, so what the dict had at that time is in the reader's view of the database: still in the journal,
  or merged.
- A merge is one transaction. After it, and after any other commit to the logs, a new dict takes the place of
  `runs`; the old one is never changed again. So in any dict a log's run begins right behind what `entry` had
  when the dict was new, and has no hole.
- Let `merged` be the newest seq of a log that `entry` has, or had before retention took it. What a run has up
  to there was merged before the reader looked; what it has beyond continues `entry` without a hole, even if
  it came after the reader looked.
- A commit whose fate is not known is in no run: nobody was told of it. The writer merges whatever the journal
  has before it goes on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from msgspec import Struct

from imgateway.brokers.appends import Append
from imgateway.brokers.rows import MERGE

__all__ = ("Journal", "Run", "merge")

# Messages and commits that wait to be merged, their bytes, and their logs, each a page at least. To merge so
# many takes some 5 ms, of 1,000 bytes each 10, which one commit waits for. Per message, of 100 logs, that is
# 5 µs; with 500 it would be 8, with 2,000 4.
MOST = 1_000
MOST_BYTES = 1 << 20
MOST_LOGS = 250
# From here on the messages of a commit share pages as they are, or fill them alone: the journal would be one
# more place to write them to.
MANY = 150
LARGE_BYTES = 2_000
# If of so many messages most have a log of their own, merging spares no pages, and only what makes a small
# commit cheaper is worth it.
SAMPLE = 500
FEW = 10


def merge(connection: sqlite3.Connection) -> None:
    """Move all that is in the journal to its logs, and the newest commit's number to row 0. Within a
    transaction."""
    connection.execute(MERGE)
    connection.execute("DELETE FROM journal")


class Run(Struct, frozen=True, gc=False):
    """What the journal has of one log: the messages of the seqs after `after`, and their digests.

    Bytes alone: what else hangs on a publish must not live that long.
    """

    after: int
    messages: tuple[bytes, ...]
    digests: tuple[bytes, ...]

    @property
    def upto(self) -> int:
        return self.after + len(self.messages)

    def beyond(self, seq: int) -> Iterable[tuple[int, bytes, bytes]]:
        """What comes after `seq`: (seq, message, digest)."""
        start = max(seq - self.after, 0)
        rest = range(self.after + start + 1, self.upto + 1)
        return zip(rest, self.messages[start:], self.digests[start:], strict=True)


class Journal:
    """What is in the table, as far as it is known."""

    def __init__(self) -> None:
        self.runs: dict[int, Run] = {}
        """By the log's id."""
        self.size = 0
        """Messages and commits."""
        self._bytes = 0
        self._is_shared = True
        self._sample = 0
        self._sampled: set[int] = set()

    def takes(self, messages: int, size: int) -> bool:
        """Should a commit with so many messages, `size` bytes together, go there?"""
        return (
            messages < (MANY if self._is_shared else FEW)
            and size <= messages * LARGE_BYTES
            and self.size + messages < MOST
            and self._bytes + size < MOST_BYTES
            and len(self.runs) < MOST_LOGS
        )

    def sample(self, logs: Iterable[int], messages: int) -> None:
        """A commit was made, wherever it went, of so many messages to these logs."""
        self._sampled.update(logs)
        self._sample += messages
        if self._sample >= SAMPLE:
            self._is_shared = self._sample >= 2 * len(self._sampled)
            self._sampled.clear()
            self._sample = 0

    def entered(self, touched: Iterable[tuple[int, int, Sequence[Append]]], size: int) -> None:
        """A commit is there: (log's id, after, the appends that follow) of each of its logs; `size` bytes."""
        runs = self.runs
        for log, after, appends in touched:
            messages = tuple([append.encoded for append in appends])
            digests = tuple([append.digest for append in appends])
            self.size += len(messages)
            run = runs.get(log)
            if run is not None:
                after, messages, digests = run.after, run.messages + messages, run.digests + digests
            runs[log] = Run(after, messages, digests)
        self.size += 1
        self._bytes += size

    def merged(self) -> None:
        """It is empty, in a transaction that is committed; or something else is in the logs since then."""
        self.runs = {}
        self.size = self._bytes = 0
