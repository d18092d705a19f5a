"""The sending half of a client: outbox, window, pace and file, pumped onto whatever link there is.

A publish's way: the line (only when the outbox is full) → outbox → file, when there is one → link → final
word. A publish is sent after the file has it, and all that one reactor turn published costs one commit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from imgateway.client.checking import check_kept
from imgateway.client.link import Link
from imgateway.client.outbox import Outbox, Parcel
from imgateway.client.pace import Pace
from imgateway.client.store import ClientStore
from imgateway.client.values import named
from imgateway.errors import FrameRefused, OutboxFull, OutcomeUnknown, StoreError
from imgateway.frames import Limits, Outcome, OutcomeCode, Publish, PublishAck, Refused, RefusedCode

__all__ = ("Outcomes", "Sending")

Outcomes = tuple[Outcome, ...]

MAX_LINE = 10_000
STORE_RETRY_S = 1.0
TOO_LATE = "it could not be sent again within the gateway's dedup time"


class Sending:
    """`on_outcome` is told the final word on publishes of an earlier run, which nobody waits for."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        now: Callable[[], float],
        outbox: Outbox,
        pace: Pace,
        store: ClientStore | None,
        on_outcome: Callable[[Publish, Outcomes | Exception], None] | None,
    ) -> None:
        self._reactor = reactor
        self._now = now
        self._outbox = outbox
        self._pace = pace
        self._store = store
        self._on_outcome = on_outcome
        self._link: Link | None = None
        self._limits = Limits()
        self._waiting: dict[str, list[Deferred[Outcomes]]] = {}
        self._line: deque[tuple[Publish, Deferred[Outcomes]]] = deque()
        self._ready: list[tuple[Parcel, Publish]] = []  # written down, in this turn's commit, and then sent
        self._later: Any = None
        self._pumping = self._again = False
        self._empty: list[Deferred[None]] = []
        # The file has the gateway's time, which counts while we are off and our own clock may stand still.
        self._ahead_s = 0.0
        self._of_earlier_run: list[tuple[Parcel, float]] = []
        self._unfit: list[tuple[Parcel, ValueError]] = []  # in the file, and not for any gateway
        self._disowned: set[str] = set()
        self._before: set[str] | None = set()  # published before it was known whose the file is
        for publish, first_sent in () if store is None else store.publishes():
            parcel = outbox.add(publish, None if first_sent is None else now())
            try:
                check_kept(publish)
            except ValueError as error:
                self._unfit.append((parcel, error))
            if first_sent is not None:
                self._of_earlier_run.append((parcel, first_sent))

    # ----------------------------------------------------------------------------------------- the caller

    def publish(self, publish: Publish) -> Deferred[Outcomes]:
        """Fires with the outcomes, in the order of ``publish.to``; qos 0: with (), sent or dropped.

        :raises OutboxFull: at once.
        """
        waiter: Deferred[Outcomes] = Deferred(lambda waiter: self._forget(publish.msg_id, waiter))
        if publish.qos == 0 and self._link is None:
            waiter.callback(())
        elif self._line or not self._outbox.has_room():
            if len(self._line) >= MAX_LINE:
                raise OutboxFull(
                    f"{len(self._outbox)} publishes have no outcome yet and {MAX_LINE} wait for room"
                )
            self._line.append((publish, waiter))
        else:
            self._admit(publish, waiter)
            self._soon()
        return waiter

    def when_empty(self) -> Deferred[None]:
        """Fires when every publish has its final word."""
        done: Deferred[None] = Deferred(lambda done: self._empty.remove(done))
        self._empty.append(done)
        self._check_empty()
        return done

    def _forget(self, msg_id: str, waiter: Deferred[Outcomes]) -> None:
        """The caller cancelled: what waited in the line is gone, what was admitted goes on without it."""
        self._line = deque(place for place in self._line if place[1] is not waiter)
        waiters = self._waiting.get(msg_id, [])
        if waiter in waiters:
            waiters.remove(waiter)

    def _admit(self, publish: Publish, waiter: Deferred[Outcomes]) -> None:
        parcel = self._outbox.get(publish.msg_id)
        if parcel is None:
            if self._store is not None and publish.qos:
                self._store.put(publish)
                if self._before is not None:
                    self._before.add(publish.msg_id)
            self._outbox.add(publish)
        elif parcel.publish != publish:
            waiter.errback(
                ValueError(f"another message waits for its outcome under the msg_id {publish.msg_id}")
            )
            return
        self._waiting.setdefault(publish.msg_id, []).append(waiter)

    # -------------------------------------------------------------------------------------------- the link

    def up(self, link: Link, limits: Limits, server_s: float) -> None:
        """A link was welcomed: everything that is left goes onto it, in order."""
        now = self._now()
        self._before = None
        self._limits = limits
        self._pace.update(limits, now)
        self._ahead_s = server_s - now
        for parcel, first_sent in self._of_earlier_run:
            parcel.first_sent = now - max(0.0, server_s - first_sent)
        self._of_earlier_run.clear()
        unfit, self._unfit = self._unfit, []  # told here, for now the file is known to be ours
        for parcel, error in unfit:
            self._settle(parcel, _invalid(str(error)))
        self.give_up()
        self._link = link
        self._soon()

    def disown(self, foreign: Collection[ClientStore]) -> None:
        """These files are another session's, which must not say what was published here."""
        if self._store is not None and self._store in foreign:
            self._disowned = self._before or set()
            for msg_id in self._disowned:
                self._store.drop(msg_id)
        self._before = None

    def part(self) -> None:
        """Nothing more goes onto this link. What no commit let go has not been sent."""
        self._link = None
        for parcel, publish in self._ready:
            if not publish.resent:
                parcel.first_sent = None
                if self._store is not None:
                    self._store.sent(publish.msg_id, None)
        self._ready.clear()

    def down(self) -> None:
        self.part()
        for parcel in self._outbox.link_lost():
            self._tell(parcel.publish, ())
        self._move_line()
        self.give_up()

    def give_up(self) -> None:
        """What may have been sent longer ago than the gateway recognises repeats is not sent again."""
        for parcel in self._outbox.overdue(self._now(), self._limits):
            self._settled(parcel, OutcomeUnknown(TOO_LATE))

    def acked(self, ack: PublishAck) -> None:
        parcel = self._outbox.settle(ack.msg_id)
        if parcel is not None:
            self._settled(parcel, ack.outcomes)

    def refused(self, refused: Refused) -> None:
        parcel = self._outbox.settle(refused.id)
        if parcel is not None:
            self._settled(parcel, FrameRefused(named(RefusedCode, refused.code), refused.reason))

    def stop(self, error: Exception | None) -> None:
        """No link will come any more. What is in the file stays there for the next run, so that this is no
        final word on it; what waits in the line is not in it."""
        self.part()
        if self._later is not None:
            self._later.cancel()
            self._later = None
        why = f"{error or 'the client was closed'}; "
        written = self._write_down()
        for parcel in self._outbox.clear():
            word = "it may or may not have been taken" if parcel.first_sent is not None else "it was not sent"
            in_file = (
                self._store is not None
                and parcel.publish.qos > 0
                and parcel.publish.msg_id not in self._disowned
            )
            if in_file:
                word += (
                    ", and stays in the outbox file for the next run"
                    if written
                    else ", and the outbox file, which may have it, could not be written"
                )
            for waiter in self._waiting.pop(parcel.publish.msg_id, ()):
                _answer(waiter, OutcomeUnknown(why + word, in_file and written))
        line, self._line = self._line, deque()
        for _, waiter in line:
            _answer(waiter, OutcomeUnknown(why + "it was not sent"))
        self._check_empty()

    # -------------------------------------------------------------------------------------------- the pump

    def _soon(self, seconds: float = 0.0) -> None:
        """Pump at the end of this turn, when there is a file to commit to; else now."""
        if self._store is None and not seconds:
            self._pump()
        elif self._later is None:
            self._later = self._reactor.callLater(seconds, self.pump)
        elif self._later.getTime() > self._reactor.seconds() + seconds:
            self._later.reset(seconds)

    def pump(self) -> None:
        """Also called by the link's owner when a clogged link flows again."""
        if self._later is not None and self._later.active():
            self._later.cancel()
        self._later = None
        self._pump()

    def _pump(self) -> None:
        # A final word may make the application publish: that waits its turn, lest it overtake what is ready.
        self._again = True
        while self._again and not self._pumping:
            self._again, self._pumping = False, True
            try:
                self._turn()
            finally:
                self._pumping = False

    def _turn(self) -> None:
        self._gather()
        if not self._write_down():
            self._soon(STORE_RETRY_S)
            return
        ready, self._ready = self._ready, []
        for parcel, publish in ready:
            if self._link is None:
                return
            # Asked where it leaves: pace, a clogged link or a full disk may have held it back for long.
            if publish.resent and parcel.is_overdue(self._now(), self._limits):
                self._settle(parcel, OutcomeUnknown(TOO_LATE))
            elif not self._link.send(publish):
                self._reject(parcel, publish.resent, _invalid(self._link.unfit(publish)))
            elif not publish.qos:
                self._settle(parcel, ())

    def _gather(self) -> None:
        """Take from the outbox what window, pace and limits let go."""
        limits, now = self._limits, self._now()
        window = limits.publish_window or 1
        while self._link is not None and not self._link.clogged:
            parcel = self._outbox.next(window)
            if parcel is None:
                return
            publish = parcel.publish
            again = parcel.first_sent is not None
            if len(publish.body) > limits.max_body_bytes > 0:
                self._reject(parcel, again, tuple(Outcome(OutcomeCode.TOO_LARGE) for _ in publish.to))
                continue
            if len(publish.to) > limits.max_addresses > 0:
                self._reject(parcel, again, _invalid(f"{limits.max_addresses} addresses are allowed"))
                continue
            wait = self._pace.wait_s(publish, now)
            if wait > 0:
                self._soon(wait)
                return
            self._pace.take(publish, now)
            if self._store is not None and publish.qos and not again:
                self._store.sent(publish.msg_id, now + self._ahead_s)
            self._ready.append((parcel, self._outbox.send(now)))

    def _write_down(self) -> bool:
        try:
            if self._store is not None:
                self._store.commit()
        except StoreError as error:
            self._log.error("nothing can be sent: {error}", error=str(error))
            return False
        return True

    # ------------------------------------------------------------------------------------------ final words

    def _reject(self, parcel: Parcel, again: bool, word: Outcomes | Exception) -> None:
        """This link cannot have it. That says nothing of what an earlier one may have carried."""
        if again:
            word = OutcomeUnknown("it may have been taken, and this connection cannot carry it again")
        self._settle(parcel, word)

    def _settle(self, parcel: Parcel, word: Outcomes | Exception) -> None:
        if self._outbox.settle(parcel.publish.msg_id) is not None:
            self._settled(parcel, word)

    def _settled(self, parcel: Parcel, word: Outcomes | Exception) -> None:
        if self._store is not None and parcel.publish.qos:
            self._store.drop(parcel.publish.msg_id)
            self._soon()
        self._tell(parcel.publish, word)
        self._move_line()
        self._check_empty()

    def _tell(self, publish: Publish, word: Outcomes | Exception) -> None:
        waiters = self._waiting.pop(publish.msg_id, None)
        if waiters is None and self._on_outcome is not None:
            try:
                self._on_outcome(publish, word)
            except Exception:
                self._log.failure("on_outcome failed")
        for waiter in waiters or ():
            _answer(waiter, word)

    def _move_line(self) -> None:
        moved = False
        while self._line and self._outbox.has_room():
            publish, waiter = self._line.popleft()
            moved = True
            if publish.qos == 0 and self._link is None:
                waiter.callback(())
            else:
                self._admit(publish, waiter)
        if moved or self._link is not None:
            self._soon()

    def _check_empty(self) -> None:
        if not len(self._outbox) and not self._line:
            empty, self._empty = self._empty, []
            for done in empty:
                done.callback(None)


def _invalid(why: str) -> FrameRefused:
    return FrameRefused(RefusedCode.INVALID, why)


def _answer(waiter: Deferred[Outcomes], word: Outcomes | Exception) -> None:
    if waiter.called:  # whoever was answered before it cancelled it
        return
    if isinstance(word, Exception):
        waiter.errback(word)
    else:
        waiter.callback(word)
