"""The embedded broker: logs and sessions in one SQLite database, one process.

Three lanes (threads) touch the disk: the writer commits, the reader reads, the upkeep moves the write-ahead
log into the database and writes the mark. The reactor only appends to a queue; a writer that is idle takes
all that stands in it, so that a commit costs each of many messages little, and nobody waits for a timer. What
is not on disk has no seq in the reactor's memory.

The database in memory has one connection and so one lane; it waits for no disk, and is the reactor's own.

Rooms, areas and `all` never touch the disk: their rings take a message in the turn in which it comes,
whatever state the store is in.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from random import random
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from zope.interface import implementer

from imgateway.brokers.appends import Answer, Append, Batch, Change, Touched, Waiting
from imgateway.brokers.clock import steady, wall_ms
from imgateway.brokers.cursors import new_epoch
from imgateway.brokers.directory import Directory, Mark
from imgateway.brokers.health import Fault, Health, Timers, busy
from imgateway.brokers.intake import Intake
from imgateway.brokers.journal import Journal
from imgateway.brokers.lanes import Lane, ThreadLane, TurnLane
from imgateway.brokers.membership import Membership
from imgateway.brokers.opening import Facts, new_epoch_number, open_facts
from imgateway.brokers.questions import Questions
from imgateway.brokers.reading import Reader
from imgateway.brokers.rings import Rings
from imgateway.brokers.schema import MEMORY, Database, OpenDatabase, fault_text, open_database
from imgateway.brokers.sessions import Sessions
from imgateway.brokers.store import Store
from imgateway.brokers.tails import Tails
from imgateway.brokers.upkeep import Upkeep
from imgateway.config import BrokerSettings, RetentionSettings, RoomSettings
from imgateway.core.dedup import Dedup, keyed
from imgateway.core.retry import backoff
from imgateway.errors import TAKEN_OVER, StoreError
from imgateway.frames import (
    DURABLE_KINDS,
    RING_KINDS,
    Address,
    Entry,
    LogKey,
    Message,
    Outcome,
    OutcomeCode,
    Position,
    SessionKey,
    address_text,
    log_of,
)
from imgateway.frames import Batch as ReadBatch
from imgateway.interfaces import Claim, Followed, IBroker, Mailbox, Presence, Publication, Verdict
from imgateway.wire.messages import encode_message

__all__ = ("EmbeddedBroker",)

UNKNOWN = Outcome(OutcomeCode.UNKNOWN)
FULL = OutcomeCode.FULL
UPKEEP_S = 1.0
# Beside many commits the write-ahead log is moved more often and a little each time: whoever comes meanwhile
# waits for the processor and the disk.
CHECKPOINT_S = 0.2
MANY_COMMITS = 100


@implementer(IBroker)
class EmbeddedBroker:
    """Everything by keyword.

    :param data_dir: where the database, its lock and its mark stand; None: in memory.
    :param max_devices: devices that are remembered per user.
    :param reactor: for ``callFromThread`` and ``callLater``.
    :param now_ms: wall clock in milliseconds; may jump back, without anything expiring early.
    :param entropy: ``n -> n`` random bytes.
    :param random: in [0, 1), for the jitter of retries.
    :param open_database: the seam for a simulated disk.
    :param lane: name → lane; the seam for tests without threads.
    :param soon: calls what it is given when the turn of the reactor is over.
    """

    log = Logger()

    def __init__(
        self,
        *,
        reactor: Any,
        data_dir: str | Path | None = None,
        settings: BrokerSettings = BrokerSettings(),  # noqa: B008 (frozen)
        retention: RetentionSettings = RetentionSettings(),  # noqa: B008
        rooms: RoomSettings = RoomSettings(),  # noqa: B008
        max_devices: int = 16,
        now_ms: Callable[[], int] = wall_ms,
        entropy: Callable[[int], bytes] = os.urandom,
        random: Callable[[], float] = random,
        open_database: OpenDatabase = open_database,
        lane: Callable[[str], Lane] | None = None,
        soon: Callable[[Callable[[], None]], Any] | None = None,
    ) -> None:
        next_turn = partial(reactor.callLater, 0)
        soon = soon or next_turn
        self.name = "memory:" if data_dir is None else "embedded:"
        self.dedup_s = settings.dedup_s
        self._reactor = reactor
        self._settings = settings
        self._retention = retention
        self._max_devices = max_devices
        self._now_ms = steady(now_ms)
        self._entropy = entropy
        self._directory = None if data_dir is None else Directory(data_dir)
        self._database = Database(
            MEMORY if self._directory is None else str(self._directory.database), open_database
        )
        in_memory = self._directory is None
        make: Callable[[str], Lane] = lane or (
            lambda name: TurnLane(soon) if in_memory else ThreadLane(reactor, "imgateway-" + name)
        )
        self._writer = make("writer")
        self._reader = self._writer if in_memory else make("reader")
        self._upkeep_lane = self._writer if in_memory else make("upkeep")

        self._listener: Any = None
        self._incarnation: str | None = None
        self._told_itself: list[bytes] = []
        self._epoch = 0
        self._epochs: dict[LogKey, int] = {}
        self._dedup: Dedup[Append] = Dedup(settings.dedup_memory, settings.dedup_s * 1000)
        self._intake = Intake(
            settings=settings,
            known=self._dedup,
            congested=partial(self._tell, "congested"),
            epoch_of=self._epoch_of,
        )
        self._tails = Tails()
        self._upkeep = (
            None
            if self._directory is None
            else Upkeep(self._database, self._directory, lambda: self._stopped is None)
        )
        journal = Journal()
        self._store = Store(
            self._database,
            journal,
            retention,
            settings.dedup_s * 1000,
            self._now_ms,
            lambda log: self._sessions.positions(log),
        )
        self._sessions: Sessions
        self._rings = Rings(
            rooms, new_epoch_number(entropy), entropy(16), self._now_ms, partial(self._tell, "arrived")
        )
        self._membership = Membership(partial(self._tell, "entered"), partial(self._tell, "left"))

        # Appends of one publish stay together, for they may share a body; the writer's thread pops.
        self._queue: deque[Append | list[Append] | Change] = deque()
        self._signalled = False
        self._unfinished: Batch | None = None
        self._changes = 0

        self._reading = Reader(self._database, journal, self._now_ms)
        self._timers = Timers(reactor)
        retry_wait = backoff(random, first_s=0.05, max_s=2.0)
        self._health = Health(self._timers, retry_wait, partial(self._tell, "healthy"))
        gathers = lane is None and not in_memory  # the other lanes do so themselves
        self._questions = Questions(
            self._reader,
            self._reading,
            self._database.path,
            self._health,
            self._answered,
            next_turn if gathers else lambda wake: wake(),
        )

        self._number = self._marked = self._checkpointed = 0
        self._keeping = self._mark_is_due = False
        self._committed = self._stored = self._retried = 0
        self._spent: set[LogKey] = set()
        self._stopped: Deferred[None] | None = None
        self._closing = False

    # ---------------------------------------------------------------------------------------- start and stop

    def start(self, listener: Any, incarnation: str) -> Deferred[None]:
        self._listener = listener
        if self._directory is not None:
            try:
                self._directory.lock()
            except StoreError:
                return fail()
        started: Deferred[None] = Deferred()
        oldest_ms = self._now_ms() - self.dedup_s * 1000

        def opening() -> Facts | StoreError:
            try:
                return open_facts(
                    self._database, self._directory, self._entropy, oldest_ms, self._settings.dedup_memory
                )
            except StoreError as problem:
                return problem

        def opened(facts: Facts | StoreError) -> None:
            if isinstance(facts, StoreError):
                self._stop_lanes()
                started.errback(facts)
                return
            self._incarnation = incarnation
            self._begin(facts, incarnation)
            started.callback(None)

        self._writer.submit(opening, opened)
        return started

    def _begin(self, facts: Facts, incarnation: str) -> None:
        if facts.renewed:
            self.log.warn(
                "{why}: it was put back from a copy. All logs get a new epoch; clients are told of a gap",
                why=facts.renewed,
            )
        for address in facts.renumbered:
            self.log.warn("{address} is numbered anew; its readers are told of a gap", address=address)
        self._epoch, self._epochs = facts.epoch, dict(facts.epochs)
        self._intake.digests = keyed(facts.secret)
        self._dedup.load(facts.digests)
        self._sessions = Sessions(
            tails=self._tails,
            ask=self._questions.ask,
            ask_login=self._questions.ask_login,
            is_unread=self._is_unread,
            change=self._change,
            store=self._store,
            epoch_of=self._epoch_of,
            displaced=self._displaced,
            flush_later=lambda: self._timers.later(
                "flush", self._settings.flush_positions_s, self._sessions.flush
            ),
            now_ms=self._now_ms,
            max_devices=self._max_devices,
            node=incarnation,
            generation=facts.starts << 32,
            most=self._settings.waiting_entries,
        )
        self._upkeep_now()
        if self._upkeep is not None:
            self._checkpoint_now()

    def give_up(self) -> None:
        """A start waits for the disk alone."""

    def stop(self) -> Deferred[None]:
        """What cannot be written at once when the store is out of order stays unacknowledged."""
        if self._stopped is None:
            self._stopped = Deferred()
            self._sessions.flush()
            self._timers.cancel_all()
            self._questions.retrying = False
            # What is waiting for a retry is tried once more.
            for lane, wake in (("writer", self._wake_writer), ("reader", self._questions.wake)):
                if self._health.excuse(lane):
                    wake()
            self._stop_if_done()
        return self._stopped

    def _answered(self) -> None:
        """The reader has answered questions, or failed."""
        self._sessions.enter()
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        if self._stopped is None or self._closing:
            return
        if (self._intake.entries or self._changes) and "writer" not in self._health:
            return
        if self._questions.open and "reader" not in self._health:
            return
        self._closing = True
        self._timers.cancel_all()
        self._upkeep_lane.submit(
            partial(self._upkeep.end, self._mark()) if self._upkeep else lambda: None,
            lambda _: self._reader.submit(
                self._reading.drop, lambda _: self._writer.submit(self._store.drop, self._closed)
            ),
        )

    def _closed(self, result: None) -> None:
        self._stop_lanes()
        if self._stopped is not None:
            self._stopped.callback(None)

    def _stop_lanes(self) -> None:
        for lane in {id(lane): lane for lane in (self._writer, self._reader, self._upkeep_lane)}.values():
            lane.stop()
        self._database.close()
        if self._directory is not None:
            self._directory.unlock()

    # -------------------------------------------------------------------------------------------- publishing

    def publish(self, publication: Publication) -> Deferred[tuple[Outcome, ...]]:
        message, to = publication.message, publication.to
        encoded = encode_message(message)
        waiting = Waiting(len(to))
        if len(to) == 1 and not publication.copy_self:
            address = to[0]
            if address.kind in RING_KINDS:
                return succeed((self._rings.publish(publication, address, encoded),))
            if address.kind not in DURABLE_KINDS and address.kind != "device":
                return succeed((UNKNOWN,))
            append = self._intake.one(publication, log_of(address), address.device, encoded, None, waiting, 0)
            if append is not None:
                self._queue.append(append)
        else:
            appends, rings = self._intake.all(publication, encoded, waiting)
            if appends:
                self._queue.append(appends)
            for index in rings:
                waiting.outcomes[index] = self._rings.publish(publication, to[index], encoded)
        if not waiting.missing:
            return succeed(waiting.answer())
        if not self._signalled and "writer" not in self._health:
            self._wake_writer()
        self._intake.check()
        return waiting.deferred

    def take(
        self, message: Message, address: Address, answer: Callable[..., None], about: tuple[Any, ...]
    ) -> None:
        append = self._intake.plain(message, log_of(address), (answer, about))
        if append is None:
            self.publish(Publication(message, (address,))).addCallback(answer, *about)
            return
        self._queue.append(append)
        if not self._signalled and "writer" not in self._health:
            self._wake_writer()

    def emit(self, publication: Publication) -> None:
        message = publication.message
        encoded = encode_message(message)
        for address in publication.to:
            if address.kind == "device" or address.kind in DURABLE_KINDS:
                self._tell("passed", address, Entry(0, encoded, address.device, "", message.expires_ms))
            elif address.kind in RING_KINDS:
                self._rings.emit(publication, address, encoded)

    # ----------------------------------------------------------------------------------------------- commits

    def _change(self, change: Change) -> None:
        self._queue.append(change)
        self._changes += 1
        if not self._signalled and "writer" not in self._health:
            self._wake_writer()

    def _wake_writer(self) -> None:
        self._signalled = True
        self._writer.submit(self._write, self._written)

    def _write(self) -> Batch | Fault | None:
        """In the writer's thread: one commit, of all that has come until now."""
        batch = self._unfinished or self._take()
        if batch is None:
            return None
        try:
            self._store.commit(batch)
        except Exception as problem:
            self._unfinished = batch
            return Fault(fault_text(problem, self._database.path))
        self._unfinished = None
        return batch

    def _take(self) -> Batch | None:
        queue = self._queue
        if not queue:
            return None
        batch = Batch()
        appends, size, settings = batch.appends, 0, self._settings
        while queue and len(appends) < settings.batch_entries and size < settings.batch_bytes:
            item = queue.popleft()
            if type(item) is Append:
                appends.append(item)
                size += len(item.encoded)
            elif type(item) is Change:
                batch.changes.append(item)
                if len(batch.changes) >= settings.batch_entries:
                    break
            elif type(item) is list:
                appends += item
                size += sum([len(append.encoded) for append in item])
        return batch

    def _written(self, result: Batch | Fault | None) -> None:
        """Back in the reactor: arrivals first, in the commit's order, then the answers."""
        self._signalled = False
        if isinstance(result, Fault):
            self._retried += 1
            self._health.trouble("writer", result.why, self._wake_writer if self._stopped is None else None)
            self._stop_if_done()
            return
        if self._queue:
            # The next commit begins now, while this one is told. Begun before, it would be one of many small
            # ones: that was 0.83 of this rate with 400 messages outstanding, and 0.67 in memory with 100.
            self._wake_writer()
        if result is None:
            return
        self._health.mended("writer")
        self._committed += result.number != self._number
        self._number = result.number
        self._stored += result.codes.count(OutcomeCode.OK)
        self._trimmed(result.trimmed)
        for log in result.spent - self._spent:
            self._spent.add(log)
            self.log.error(
                "{address} has no numbers left: what is sent there is refused until this node starts again, "
                "which numbers it anew",
                address=address_text(log.address),
            )
        self._arrived(result.touched, result.now_ms)
        answers = self._settle(result)
        for change in result.changes:
            change.done(change.result)
        self._changes -= len(result.changes)
        for answer, first, about in answers:
            try:
                answer(first, *about)
            except Exception:
                self.log.failure("who published raised at the answer")
        self._intake.relax()
        self._stop_if_done()

    def _arrived(self, touched: Sequence[Touched], now_ms: int) -> None:
        """Tell what one commit brought, log by log."""
        listener, tails, epochs, epoch = self._listener, self._tails, self._epochs, self._epoch
        for log, after, upto, appends in touched:
            address = log[0]
            is_mailbox = address[0] == "user"  # by its names an address takes thrice as long
            tail = tails.of(address[1]) if is_mailbox else tails.get(log)
            if tail is not None and upto > tail.head:  # else a read was ahead of this report
                tail.head = upto
                if tail.told:
                    identity = epochs.get(log, epoch) if epochs else epoch
                    try:
                        if is_mailbox:
                            mail = [
                                one.encoded for one in appends if not (one.only_device or one.except_device)
                            ]
                            if len(mail) == len(appends) and listener.mailed(log, identity, after, mail):
                                continue
                        entries = map(_entry, range(after + 1, upto + 1), appends, repeat(now_ms))
                        listener.arrived(log, identity, after, upto, tuple(entries))
                    except Exception:
                        self._raised("arrived")
            if is_mailbox and not (tail and tail.online() and listener.attended(log)):
                for append in appends:
                    self._tell("unattended", log, append.message)

    def _settle(self, batch: Batch) -> list[Answer]:
        appends, codes, seqs, epoch, epochs = (
            batch.appends,
            batch.codes,
            batch.seqs,
            self._epoch,
            self._epochs,
        )
        taken = appends
        if FULL in codes:
            for append, code in zip(appends, codes, strict=True):
                if code == FULL:
                    self._dedup.drop(append.digest)
            taken = [append for append, code in zip(appends, codes, strict=True) if code != FULL]
            seqs = [seq for seq, code in zip(seqs, codes, strict=True) if code != FULL]
        self._dedup.settle_all([append.digest for append in taken], seqs, batch.now_ms)
        new = tuple.__new__  # as the class does it, without a call in Python
        return self._intake.settle(
            [
                (append, new(Outcome, (code, epochs.get(append.log, epoch) if epochs else epoch, seq)))
                for append, code, seq in zip(appends, codes, batch.seqs, strict=True)
            ]
        )

    # ----------------------------------------------------------------------------------------------- reading

    def watch(self, log: LogKey) -> Deferred[Position]:
        if log.address.kind in RING_KINDS:
            return succeed(self._rings.watch(log))
        position = self.watch_now(log)
        if position is not None:
            return succeed(position)
        if self._is_unread():
            return fail(busy())
        tail = self._tails.enter(log)
        answer: Deferred[Position] = Deferred()
        tail.told = bool(tail.told)
        self._tails.pins.begin(tail)

        def found(position: Position) -> None:
            self._tails.pins.end(tail)
            tail.learn(position.first, position.head)
            tail.told = True if tail.watched else None
            self._sessions.release(tail)
            answer.callback(Position(self._epoch_of(log), tail.first, tail.head))

        self._questions.ask(lambda reader: reader.position(log), found)
        return answer

    def watch_now(self, log: LogKey) -> Position | None:
        tail = self._tails.get(log)
        if tail is None or tail.head < 0 or tail.first < 0:
            return None
        tail.told = True
        return Position(self._epoch_of(log), tail.first, tail.head)

    def unwatch(self, log: LogKey) -> None:
        if log.address.kind in RING_KINDS:
            self._rings.unwatch(log)
            return
        tail = self._tails.get(log)
        if tail is not None:
            tail.told = None
            self._sessions.release(tail)

    def _is_unread(self) -> bool:
        """The disk cannot be read, and as many questions wait for that as may."""
        return "reader" in self._health and self._questions.open >= self._settings.waiting_entries

    def server(self, log: LogKey) -> str:
        """One database has them all."""
        return ""

    def read(self, log: LogKey, after: int, limit: int, max_bytes: int) -> Deferred[ReadBatch]:
        if log.address.kind in RING_KINDS:
            return succeed(self._rings.read(log, after))
        answer: Deferred[ReadBatch] = Deferred()

        def found(batch: ReadBatch) -> None:
            # The epoch as the reactor knows it: a reset that is not reported yet is none.
            answer.callback(
                ReadBatch(self._epoch_of(log), batch.after, batch.upto, batch.entries, batch.gap, batch.head)
            )

        self._questions.ask(lambda reader: reader.read(log, after, limit, max_bytes), found)
        return answer

    # ---------------------------------------------------------------------------------------------- sessions

    def open_session(self, claim: Claim, answer: Callable[..., None], about: tuple[Any, ...]) -> None:
        self._sessions.open(claim, answer, about)

    def withdraw(self, claim: Claim) -> None:
        self._sessions.withdraw(claim)

    def follow(self, session: SessionKey, generation: int, log: LogKey, begin: int) -> Deferred[Followed]:
        return self._sessions.follow(session, generation, log, begin)

    def unfollow(self, session: SessionKey, generation: int, log: LogKey) -> Deferred[None]:
        return self._sessions.unfollow(session, generation, log)

    def advance(
        self,
        session: SessionKey,
        generation: int,
        upto: Sequence[tuple[LogKey, int]],
        parked: Sequence[tuple[LogKey, int]] = (),
    ) -> None:
        self._sessions.advance(session, generation, upto, parked)

    def unpark(self, session: SessionKey, generation: int, log: LogKey, seq: int) -> None:
        self._sessions.unpark(session, generation, log, seq)

    def linger(self, session: SessionKey, generation: int) -> None:
        self._sessions.linger(session, generation)

    in_line = True
    """There is one line to the disk."""

    def record(self, session: SessionKey, generation: int, data: bytes) -> Deferred[bool]:
        return self._sessions.record(session, generation, data)

    def renew_session(self, session: SessionKey, generation: int, issued_at_s: int) -> Deferred[Verdict]:
        return self._sessions.renew(session, generation, issued_at_s)

    def close_session(self, session: SessionKey, generation: int, forget: bool = False) -> Deferred[None]:
        is_open = self._sessions.is_open(session, generation)
        closed = self._sessions.close(session, generation, forget)
        if is_open:
            self._membership.end(session, generation)
        return closed

    def _displaced(self, session: SessionKey, generation: int, code: int, reason: str) -> None:
        """A generation must go. With it the session ends, unless the same device has a newer one."""
        if code not in TAKEN_OVER:
            self._membership.end(session, generation)
        self._tell("displaced", session, generation, code, reason)

    def join(
        self, session: SessionKey, generation: int, address: Address, areas: tuple[str, ...] = ()
    ) -> Deferred[None]:
        if self._sessions.is_current(session, generation):
            self._membership.join(session, generation, address, areas)
        return succeed(None)

    def leave(self, session: SessionKey, generation: int, address: Address) -> Deferred[None]:
        if self._sessions.is_current(session, generation):
            self._membership.leave(session, generation, address)
        return succeed(None)

    def members(self, address: Address) -> Deferred[int]:
        if address.kind == "all":
            return succeed(self._sessions.online)
        return succeed(self._membership.members(address))

    def sessions(self, user: str) -> Deferred[tuple[Presence, ...]]:
        return self._sessions.present(user)

    def revoke(self, user: str, not_before_s: int) -> Deferred[None]:
        return self._sessions.revoke(user, not_before_s)

    def mailbox(self, user: str) -> Deferred[Mailbox]:
        return self._sessions.mailbox(user)

    def tell(self, incarnation: str, payload: bytes) -> Deferred[bool]:
        if incarnation != self._incarnation or self._stopped is not None:
            return succeed(False)  # a store that is one process's knows no other
        self._told_itself.append(payload)
        self._timers.later("tell", 0, self._hear)
        return succeed(True)

    def _hear(self) -> None:
        heard, self._told_itself = self._told_itself, []
        for payload in heard:
            self._tell("control", payload)

    def reset_log(self, log: LogKey) -> Deferred[Position]:
        if self._sessions.is_behind():
            return fail(busy())
        answer: Deferred[Position] = Deferred()
        epoch = new_epoch_number(self._entropy)
        self._sessions.waiting += 1

        def done(result: tuple[int, int]) -> None:
            self._sessions.waiting -= 1
            self._epochs[log] = epoch
            answer.callback(Position(epoch, *result))

        self._change(Change(lambda connection: new_epoch(connection, self._store, log, epoch), done))
        return answer

    def _epoch_of(self, log: LogKey) -> int:
        return self._epochs.get(log, self._epoch) if self._epochs else self._epoch

    # ------------------------------------------------------------------------------------------------ upkeep

    def _upkeep_now(self) -> None:
        self._timers.later("upkeep", UPKEEP_S, self._upkeep_now)
        self._health.look()
        self._dedup.expire(self._now_ms())
        self._rings.upkeep()
        self._sessions.touch()
        if "writer" not in self._health:
            self._writer.submit(self._sweep, self._swept)
        if self._marked != self._number or "upkeep" in self._health:
            self._mark_is_due = True
            self._keep()

    def _checkpoint_now(self) -> None:
        self._timers.later("checkpoint", CHECKPOINT_S, self._checkpoint_now)
        if self._number - self._checkpointed >= MANY_COMMITS and "upkeep" not in self._health:
            self._keep()

    def _keep(self) -> None:
        """One at a time, however long the disk takes."""
        if self._upkeep is not None and not self._keeping:
            self._keeping = True
            self._checkpointed = self._number
            mark = self._mark() if self._mark_is_due else None
            self._upkeep_lane.submit(partial(self._upkeep.work, mark), self._kept)

    def _mark(self) -> Mark | None:
        """Of the newest commit, if there was one."""
        self._mark_is_due = False
        self._marked = self._number
        return Mark(self._epoch, self._number) if self._number else None

    def _sweep(self) -> tuple[bool, list[LogKey]] | Fault:
        try:
            return self._store.sweep()
        except Exception as problem:
            return Fault(fault_text(problem, self._database.path))

    def _swept(self, result: tuple[bool, list[LogKey]] | Fault) -> None:
        if isinstance(result, Fault):
            self._health.trouble("sweep", result.why)  # the next upkeep tries again; commits go on
            return
        self._health.mended("sweep")
        more, touched = result
        self._trimmed(touched)
        if more and self._stopped is None:
            self._writer.submit(self._sweep, self._swept)

    def _trimmed(self, logs: Sequence[LogKey]) -> None:
        """Where these logs begin must be asked again."""
        for log in logs:
            if (tail := self._tails.get(log)) is not None:
                tail.first = -1

    def _kept(self, fault: Fault | None) -> None:
        self._keeping = False
        if fault is None:
            self._health.mended("upkeep")
        else:
            self._health.trouble("upkeep", fault.why)
        if self._mark_is_due and self._stopped is None:
            self._keep()

    def measure(self, counters: Any) -> None:
        counters.store_commits = self._committed
        counters.store_entries = self._stored
        counters.store_retries = self._retried
        counters.store_waiting = self._intake.entries
        counters.store_waiting_bytes = self._intake.bytes
        counters.store_dedup_ids = len(self._dedup)
        counters.room_members = self._membership.stays
        self._rings.measure(counters)

    def _tell(self, what: str, *values: Any) -> None:
        """A listener that raises must not cost others their messages."""
        try:
            getattr(self._listener, what)(*values)
        except Exception:
            self._raised(what)

    def _raised(self, what: str) -> None:
        self.log.failure("the listener's {what} raised", what=what)


def _entry(seq: int, append: Append, now_ms: int) -> Entry:
    expires_ms = now_ms + append.ttl_ms if append.ttl_ms else 0
    return Entry(seq, append.encoded, append.only_device, append.except_device, expires_ms)
