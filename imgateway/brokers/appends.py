"""What waits for the writer: appends to logs, other changes, and the batch that a commit makes of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred

from imgateway.frames import LogKey, Message, Outcome

__all__ = ("Answer", "Append", "Batch", "Change", "Shared", "Told", "Touched", "Waiting")


Told = tuple[Callable[..., None], tuple[Any, ...]]
"""(answer, about): to be called with the outcomes and ``*about``."""


Answer = tuple[Callable[..., None], Any, tuple[Any, ...]]
"""What is to be called with which first argument, and which others."""


class Waiting:
    """One publish that waits for its outcomes."""

    __slots__ = ("deferred", "missing", "outcomes", "same")

    def __init__(self, addresses: int) -> None:
        self.deferred: Deferred[tuple[Outcome, ...]] = Deferred()
        self.missing = 0
        self.outcomes: list[Outcome | None] = [None] * addresses
        self.same: Sequence[tuple[int, int]] = ()
        """(index, index of the same address before it)"""

    def answer(self) -> tuple[Outcome, ...]:
        """What the publisher is told, once nothing is missing."""
        outcomes: list[Any] = self.outcomes
        if self.same:
            for index, first in self.same:
                outcomes[index] = outcomes[first]
        return tuple(outcomes)

    def tell(self) -> None:
        """It waits for nothing more."""
        self.deferred.callback(self.answer())


class Shared(Struct):
    """The encoded message of a publish to several logs: stored once if two or more of them take it."""

    refs: int = 0


class Append(Struct, gc=False):
    """One message on its way into one log.

    `waiting`: the publishes that wait for it and the index in their outcomes (-1: wait, but tell nobody).
    `ask_disk`: it may have been taken before memory begins. `told`: who is answered besides, by a plain call.
    """

    log: LogKey
    encoded: bytes
    digest: bytes
    message: Message
    waiting: list[tuple[Waiting, int]]
    only_device: str = ""
    except_device: str = ""
    ttl_ms: int = 0
    ask_disk: bool = False
    shared: Shared | None = None
    told: Told | None = None


class Change(Struct):
    """Anything else that must be on disk. `apply` may run again after a failed commit; `done` runs in the
    reactor."""

    apply: Callable[[sqlite3.Connection], Any]
    done: Callable[[Any], None]
    result: Any = None


Touched = tuple[LogKey, int, int, list[Append]]
"""One log in a commit: (log, after, upto, the appends that are in ``(after, upto]``, contiguous)."""


class Batch:
    """What one commit holds, in order of arrival, and what became of it."""

    __slots__ = (
        "appends",
        "bytes",
        "changes",
        "codes",
        "now_ms",
        "number",
        "seqs",
        "spent",
        "touched",
        "trimmed",
    )

    def __init__(self) -> None:
        self.appends: list[Append] = []
        self.changes: list[Change] = []
        self.bytes = 0
        self.number = 0
        """The commit's number; 0 until it was tried."""
        self.now_ms = 0
        self.codes: list[int] = []
        self.seqs: list[int] = []
        self.touched: list[Touched] = []
        self.trimmed: list[LogKey] = []
        """Logs that lost old entries to make room."""
        self.spent: set[LogKey] = set()
        """Logs that have no seqs left."""
