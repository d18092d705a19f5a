"""The receipts that a client waits for, by the ids of what it published."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ("Receipt", "Receipts")

Receipt = tuple[bytes, bytes, bool]
"""The fp and whom it went to, both as JSON strings, and `bridge`."""


class Receipts:
    """At most as many as publishes may wait for their outcome.

    Outcomes name only the id. A client may use one fp for several users at once, and the outcome for one may
    come before another's that was asked for earlier: none of them has its receipt before all are on disk.
    """

    __slots__ = ("_answers", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[str, list[Receipt]] = {}
        self._answers: dict[str, list[bool]] = {}  # so far, of those with several users

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, msg_id: str, receipt: Receipt) -> None:
        """A message went off."""
        waiting = self._waiting.get(msg_id)
        if waiting is None:
            self._waiting[msg_id] = [receipt]
        else:
            waiting.append(receipt)

    def answer(self, msg_id: str, taken: bool) -> Sequence[Receipt]:
        """An outcome came: the receipts that are due."""
        waiting = self._waiting.get(msg_id)
        if waiting is None:
            return ()
        if len(waiting) == 1:
            del self._waiting[msg_id]
            return waiting if taken else ()
        if msg_id not in self._answers and len({receiver for _, receiver, _ in waiting}) == 1:
            first = waiting.pop(0)
            return (first,) if taken else ()
        answers = self._answers.setdefault(msg_id, [])
        answers.append(taken)
        if len(answers) < len(waiting):
            return ()
        del self._waiting[msg_id], self._answers[msg_id]
        return waiting if all(answers) else ()
