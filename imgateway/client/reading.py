"""The receiving half of a client: inbox, application, custody, acknowledgements.

One message after the other: the next is shown when the application has taken the one before. With
`on_message` that is when it returned, or when what it returned has fired; with `messages()` when the next one
is asked for. Only then is the position written to the file, and only then acknowledged. While the file takes
none, nothing is shown: a program that is killed would be shown all of that again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from inspect import isawaitable
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.client.inbox import Inbox
from imgateway.client.link import Link
from imgateway.client.place import Item
from imgateway.client.store import ClientStore
from imgateway.client.values import Gap, Received
from imgateway.errors import StoreError
from imgateway.frames import (
    DURABLE_KINDS,
    Address,
    Deliver,
    DeliverAck,
    LogKey,
    Pull,
    Resumed,
    ResumePoint,
    log_of,
)

__all__ = ("Reading", "as_deferred")

ACK_AFTER_S = 0.2
ACK_AFTER_ENTRIES = 16
STORE_RETRY_S = 1.0
# Coroutines and what they begin run in a copy of the context that they were called in.
_working_on: ContextVar[Item | None] = ContextVar("working_on", default=None)


def as_deferred(result: Any) -> Deferred[Any] | None:
    """What an application's function returned: None, if it is not to be waited for."""
    if isinstance(result, Deferred):
        return result
    return ensureDeferred(_wait(result)) if isawaitable(result) else None


async def _wait(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class Reading:
    """:param ask: sends a Pull over the link that is up; `answered` is told of the answer.

    :param on_message: called with each Received; None: the application iterates.

    :param on_gap: called with each Gap, in its place among the messages.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        inbox: Inbox,
        ask: Callable[[Pull], None],
        store: ClientStore | None,
        on_message: Callable[[Received], Any] | None,
        on_gap: Callable[[Gap], Any] | None,
    ) -> None:
        self._reactor = reactor
        self._inbox = inbox
        self._ask = ask
        self._store = store
        self._on_message = on_message
        self.on_gap = on_gap
        self._link: Link | None = None
        self._asked: Deferred[Received] | None = None
        self._in_hand: Item | None = None
        self._at_work = False  # a function has what is in hand, and takes it when it is over
        self._showing = False
        self._finished: Deferred[None] | None = None  # no more is shown; fires when what is in hand is
        self._taken = 0
        self._unwritten = False  # the file has not got what was taken last
        self._timer: Any = None
        self._again: Any = None  # shows on after a function that wanted to end the program
        self._stopped: BaseException | None = None
        if store is not None:
            for log, epoch, seq, shown in store.places():
                inbox.restore(log, epoch, seq, shown)

    # -------------------------------------------------------------------------------------------- the link

    def up(self, link: Link, resumed: tuple[Resumed, ...]) -> None:
        self._link = link
        self._inbox.linked(resumed)
        self._show()
        self._save()

    def down(self) -> None:
        self._link = None

    def deliver(self, frame: Deliver) -> None:
        self._took_in(self._inbox.deliver(frame))

    def answered(self, frame: Deliver, pull: Pull | None) -> None:
        """The answer came to this Pull, or to none that anybody still waits for."""
        self._took_in(self._inbox.answered(frame, pull))

    def _took_in(self, pull: Pull | None) -> None:
        """Something came in, and perhaps this is to be asked for."""
        if pull is not None and self._link is not None:
            self._ask(pull)
        self._show()
        if self._inbox.moved:
            self._save()

    def pull_refused(self, pull: Pull) -> None:
        self._inbox.refused(pull)
        self._show()

    def subscribed(self, point: Resumed) -> None:
        """A log of its own goes on here, or begins."""
        self._inbox.resumed(point)
        self._show()
        if self._inbox.moved:
            self._save()

    def forget(self, address: Address) -> None:
        """We leave for good; what came is shown all the same. What the gateway keeps our position of may turn
        out to stay: it hears how far we are, and we keep the place until it has forgotten it."""
        if address.kind in DURABLE_KINDS:
            self.flush()
            self._inbox.leave(address)
        else:
            self._inbox.forget(address)

    def forgotten(self, address: Address) -> None:
        """The gateway knows our position no more. Until it said so we keep ours, and so does the file: this
        run or the next may find that the gateway is at an older one, and would show again what lies between.
        """
        if address.kind in DURABLE_KINDS:
            self._inbox.forget(address)
            if self._store is not None:
                self._store.forget(log_of(address))
                self._save()

    def resume_points(self) -> tuple[ResumePoint, ...]:
        return self._inbox.resume_points()

    def epoch_of(self, log: LogKey) -> int:
        return self._inbox.epoch_of(log)

    def finish(self) -> Deferred[None]:
        """Show nothing more; fires when the function that works on a message, if any, is over. Once."""
        self._finished = Deferred()
        if not self._at_work:
            self._finished.callback(None)
        return self._finished

    def stop(self, error: BaseException) -> None:
        """Nothing more is shown, and nothing taken; `error` is what an iteration ends with.

        What is in the queue, or in hand, is still in the gateway's custody: the next run gets it.
        """
        self._stopped = error
        self._commit()  # what the disk would not take before
        self._link = self._store = None
        if self._finished is not None and not self._finished.called:
            self._finished.callback(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._again is not None and self._again.active():
            self._again.cancel()
        if self._asked is not None:
            asked, self._asked = self._asked, None
            asked.errback(error)

    # ------------------------------------------------------------------------------------- the application

    @property
    def on_message(self) -> Callable[[Received], Any] | None:
        return self._on_message

    @on_message.setter
    def on_message(self, function: Callable[[Received], Any] | None) -> None:
        self._on_message = function
        self._show()

    @property
    def inside(self) -> bool:
        """Whoever asks is called by the function that works on a message."""
        return self._at_work and _working_on.get() is self._in_hand

    def ask(self) -> Deferred[Received]:
        """The next message for an iteration; asking takes custody of the one before.

        :raises RuntimeError: somebody asks already, or there is an on_message.
        """
        if self.on_message is not None:
            raise RuntimeError("the messages go to on_message")
        if self._asked is not None:
            raise RuntimeError("somebody waits for the next message already")
        if self._stopped is not None:
            return fail(self._stopped)
        asked = self._asked = Deferred(self._unask)
        self.take()
        self._show()
        return asked

    def take(self) -> None:
        """Custody of the message that an iteration was given last; not of one that a function works on."""
        item = self._in_hand
        if item is not None and not self._at_work:
            self._in_hand = None
            self._took(item)
            self._show()

    def _unask(self, asked: Deferred[Received]) -> None:
        self._asked = None

    def _show(self) -> None:
        """Show as much as the application takes."""
        if self._showing or self._stopped is not None:
            return
        self._showing = True
        try:
            while self._in_hand is None and self._wanted():
                item = self._inbox.next()
                if item is None:
                    break
                self._in_hand = item
                if isinstance(item.what, Gap):
                    self._call(self.on_gap, item)
                elif self.on_message is not None:
                    self._call(self.on_message, item)
                elif self._asked is not None:
                    asked, self._asked = self._asked, None
                    asked.callback(item.what)
        except BaseException:  # who called may keep it to himself, and nobody else would ask for the next
            if self._again is None or not self._again.active():
                self._again = self._reactor.callLater(0, self._show)
            raise
        finally:
            self._showing = False
        # One with each thing that is shown or comes, so that no crowd of answers fills the queue again.
        pull = self._inbox.lying() if self._link is not None else None
        if pull is not None:
            self._ask(pull)

    def _wanted(self) -> bool:
        if self._stopped is not None or self._finished is not None or self._unwritten:
            return False
        return self.on_message is not None or self._asked is not None

    def _call(self, function: Callable[[Any], Any] | None, item: Item) -> None:
        self._at_work = True
        outside = _working_on.set(item)
        try:
            waited = None if function is None else as_deferred(function(item.what))
        except Exception:
            self._failed(Failure())
            waited = None
        except BaseException:  # who wants to end the program may be kept from it
            self._over()
            raise
        finally:
            _working_on.reset(outside)
        if waited is None:
            self._over()
        else:
            waited.addErrback(self._failed)
            waited.addCallback(self._over)

    def _over(self, _: object = None) -> None:
        self._at_work = False
        self.take()
        # The next one may have been shown just now, and its function have closed the client and be at work.
        if self._finished is not None and not (self._at_work or self._finished.called):
            self._finished.callback(None)

    def _failed(self, failure: Failure) -> None:
        # It counts as taken: shown again it would fail again, and stand before all that follows.
        self._log.failure("the application failed on a message", failure)

    # ---------------------------------------------------------------------------------------------- custody

    def _took(self, item: Item) -> None:
        self._inbox.take(item)
        place, what = item.place, item.what
        if place is None or place.log.address.kind not in DURABLE_KINDS:
            return
        if self._store is not None and isinstance(what, Received):
            message = what.message
            self._store.showed(place.log, (message.sender, message.device, message.msg_id))
        self._taken += 1
        self._save()

    def _save(self) -> None:
        """Write down how far the application has got, and have it acknowledged soon."""
        moved = self._inbox.moved
        if self._store is not None:
            for log, place in moved.items():
                self._store.took(log, place.taken_epoch, place.taken)
        moved.clear()
        if self._taken >= ACK_AFTER_ENTRIES:
            self.flush()
        else:
            self._unwritten = not self._commit() or self._unwritten  # until `flush` has seen it written
            self._arm(ACK_AFTER_S)

    def flush(self) -> None:
        """Acknowledge what the file has."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        held_back, self._unwritten = self._unwritten, not self._commit()
        if self._unwritten:
            self._arm(STORE_RETRY_S)
            return
        self._taken = 0
        if self._link is not None:
            acks = self._inbox.acks()
            if acks:
                self._link.send(DeliverAck(acks))
        if held_back:
            self._show()

    def _commit(self) -> bool:
        if self._store is None:
            return True
        try:
            self._store.commit()
        except StoreError as error:
            self._log.error("nothing can be acknowledged or shown: {error}", error=str(error))
            return False
        return True

    def _arm(self, seconds: float) -> None:
        if self._timer is None and self._stopped is None:
            self._timer = self._reactor.callLater(seconds, self.flush)
