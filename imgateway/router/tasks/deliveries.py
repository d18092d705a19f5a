"""What became of messages that were taken: the mailboxes say how far each user has read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from imgateway.frames import parse_address
from imgateway.interfaces import Mailbox
from imgateway.router.tasks.store import Standing, Store
from imgateway.router.tasks.tables import ItemState

__all__ = ("Deliveries", "judged")

# Mailboxes that are asked about at a time.
PAGE = 500


def judged(epoch: int, seq: int, mailbox: Mailbox) -> ItemState:
    """What became of a message with this place in a mailbox."""
    if epoch != mailbox.epoch:
        return ItemState.UNKNOWN
    if seq <= mailbox.seen:
        return ItemState.DELIVERED
    return ItemState.GONE if seq < mailbox.first else ItemState.TAKEN


class Deliveries:
    """Judges items that were taken, and writes down what is final; who still waits is asked about again.

    :param call: runs a method of the store in a thread.
    :param mailbox: `IGateway.mailbox`.
    """

    def __init__(
        self,
        store: Store,
        call: Callable[..., Deferred[Any]],
        mailbox: Callable[[str], Deferred[Mailbox]],
    ) -> None:
        self._store = store
        self._call = call
        self._mailbox = mailbox
        self._settling: dict[int, list[Deferred[None]]] = {}

    def settle(self, number: int) -> Deferred[None]:
        """Judge all of a task; who asks while that is done already waits for the same."""
        waiting: Deferred[None] = Deferred()
        if number in self._settling:
            self._settling[number].append(waiting)
        else:
            self._settling[number] = [waiting]
            Deferred.fromCoroutine(self._settle(number)).addBoth(self._settled, number)
        return waiting

    def _settled(self, result: Failure | None, number: int) -> None:
        for waiting in self._settling.pop(number):
            waiting.callback(result)  # a Failure goes to the errbacks

    async def _settle(self, number: int) -> None:
        after = 0
        while rows := await self._call(self._store.standing, number, (ItemState.TAKEN,), after, PAGE):
            await self.judge(number, rows)
            after = rows[-1].n

    async def judge(self, number: int, rows: Sequence[Standing]) -> list[Standing]:
        """These items as they stand now."""
        waiting = [row for row in rows if row.state == ItemState.TAKEN]
        mailboxes = await self._mailboxes({parse_address(row.address).id for row in waiting})
        found = []
        for row in rows:
            state = row.state
            if state == ItemState.TAKEN:
                state = judged(row.epoch, row.seq, mailboxes[parse_address(row.address).id])
            found.append(row if state == row.state else replace(row, state=int(state)))
        pairs = zip(rows, found, strict=True)
        final = [(now.n, now.state, now.seq) for before, now in pairs if now is not before]
        if final:
            await self._call(self._store.judge, number, final)
        return found

    async def _mailboxes(self, users: Iterable[str]) -> Mapping[str, Mailbox]:
        names = list(users)
        asked = gatherResults([self._mailbox(user) for user in names], consumeErrors=True)
        asked.addErrback(_first)
        return dict(zip(names, await asked, strict=True))


def _first(failure: Failure) -> Any:
    """What went wrong, instead of that one of many did."""
    error: Any = failure.value
    return error.subFailure
