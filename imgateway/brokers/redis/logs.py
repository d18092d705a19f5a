"""Durable logs in Redis: what is published goes into them, and what is in them comes back.

A log is a list at the primary of its user or address, and the only truth; hints tell the nodes that watch it
what came. Everything that is known of a message is in Redis: here are only the appends that wait for their
answer.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.brokers.appends import Answer, Append, Waiting
from imgateway.brokers.intake import UNKNOWN, Intake
from imgateway.brokers.redis.entries import pack_entry, unpack_entries
from imgateway.brokers.redis.packing import pack
from imgateway.brokers.redis.primaries import Primaries
from imgateway.brokers.redis.primary import Primary, Run
from imgateway.brokers.redis.spool import Spool
from imgateway.brokers.redis.watches import Watches
from imgateway.config import BrokerSettings, RetentionSettings
from imgateway.core.dedup import Dedup
from imgateway.frames import (
    DURABLE_KINDS,
    RING_KINDS,
    Batch,
    Entry,
    LogKey,
    Outcome,
    OutcomeCode,
    Position,
    address_text,
    log_of,
    parse_address,
    user_address,
)
from imgateway.interfaces import Mailbox, Publication
from imgateway.wire.messages import encode_message

__all__ = ("Logs",)

SWEEP_S = 10.0
# Logs that one script looks through for what is past its time.
SWEEP_LOGS = 20
# So many of these in a row, where there is no memory left and everybody waits for room.
FREE_SWEEPS = 100
# qos 0 messages on their way to one primary; more are dropped.
MAX_EMITTED = 10_000
EMIT_BATCH = 200
STOP_LOOK_S = 0.05


class Logs:
    """Everything by keyword.

    :param dedup_s: how long a repeat is recognised.
    :param tell: ``tell(what, *values)`` calls the listener.
    :param attended: `IBrokerListener.attended`.
    :param rings: takes what is for rooms, areas and everyone: ``publish(publication, address, encoded)``,
        whose Deferred fires with an Outcome, and ``emit(publication, address, encoded)``.
    :param entropy: ``n -> n`` random bytes.
    """

    log = Logger()

    def __init__(
        self,
        *,
        primaries: Primaries,
        incarnation: str,
        reactor: Any,
        tell: Callable[..., None],
        attended: Callable[[LogKey], bool],
        rings: Any,
        settings: BrokerSettings = BrokerSettings(),  # noqa: B008 (frozen)
        retention: RetentionSettings = RetentionSettings(),  # noqa: B008
        dedup_s: int = 14_400,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._reactor = reactor
        self._incarnation = incarnation
        self._tell = tell
        self._rings = rings
        self._entropy = entropy
        self._age_ms = retention.age_s * 1000
        # Only for joining: a digest stays no longer than its append is under way.
        self._under_way: Dedup[Append] = Dedup(1, 1)
        self._intake = Intake(
            settings=settings,
            known=self._under_way,
            congested=lambda on: tell("congested", on),
            digest_bytes=16,
        )
        limits = (
            dedup_s * 1000,
            retention.entries,
            retention.bytes,
            self._age_ms,
            retention.device_unseen_s * 1000,
        )
        token = entropy(6).hex()
        self._spools = {
            primary: Spool(primary=primary, token=f"{token}.", limits=limits, answered=self._answered)
            for primary in primaries.each()
        }

        @lru_cache(maxsize=65536)
        def place(log: LogKey) -> tuple[Primary, int, bytes]:
            text = address_text(log.address)
            primary, bucket = primaries.of(log.address.id if log.address.kind == "user" else text)
            return primary, bucket, (f"{text}\0{log.lane}" if log.lane else text).encode()

        self._place = place
        for primary in primaries.each():
            primary.frees.append(self._free)
        self._watches = Watches(
            incarnation=incarnation,
            place=place,
            tell=tell,
            attended=attended,
            flush_soon=self._flush_soon,
        )
        self._emitted: dict[Primary, list[tuple[int, bytes, str, bytes]]] = {}
        self._emitting: Counter[Primary] = Counter()
        self._flushing: Any = None
        self._sweeping: Any = None
        self._stopped: Deferred[None] | None = None
        self._committed = self._stored = 0

    def start(self) -> None:
        """Look for what is past its time, now and then."""
        self._sweeping = self._reactor.callLater(SWEEP_S, self._sweep)

    def stop(self) -> Deferred[None]:
        """Fires once what waits is stored; what waits for a primary that is away stays unacknowledged."""
        if self._stopped is None:
            self._stopped = Deferred()
            if self._sweeping is not None:
                self._sweeping.cancel()
            if self._flushing is not None:
                self._flushing.cancel()
                self._flush()
            self._stop_if_done()
        return self._stopped

    def _stop_if_done(self) -> None:
        if any(not spool.is_idle and primary.is_up for primary, spool in self._spools.items()):
            self._reactor.callLater(STOP_LOOK_S, self._stop_if_done)
        elif self._stopped is not None:
            self._stopped.callback(None)

    # ------------------------------------------------------------------------------------------- publishing

    def publish(self, publication: Publication) -> Deferred[tuple[Outcome, ...]]:
        """As `IBroker.publish`."""
        to = publication.to
        encoded = encode_message(publication.message)
        waiting = Waiting(len(to))
        if len(to) == 1 and to[0].kind not in RING_KINDS and not publication.copy_self:
            address = to[0]
            if address.kind not in DURABLE_KINDS and address.kind != "device":
                return succeed((UNKNOWN,))
            append = self._intake.one(publication, log_of(address), address.device, encoded, None, waiting, 0)
            if append is not None:
                self._spool(append)
        else:
            appends, rings = self._intake.all(publication, encoded, waiting)
            for append in appends:
                self._spool(append)
            waiting.missing += len(rings)
            for index in rings:
                self._rings.publish(publication, to[index], encoded).addCallbacks(
                    self._ringed, self._failed, callbackArgs=(waiting, index)
                )
            if not waiting.missing and not waiting.deferred.called:  # nothing was missing
                return succeed(waiting.answer())
        self._intake.check()
        return waiting.deferred

    def _spool(self, append: Append) -> None:
        primary, bucket, name = self._place(append.log)
        self._spools[primary].add(bucket, name, append)
        if self._flushing is None:
            self._flush_soon()

    def _ringed(self, outcome: Outcome, waiting: Waiting, index: int) -> None:
        waiting.outcomes[index] = outcome
        waiting.missing -= 1
        if not waiting.missing:
            waiting.deferred.callback(waiting.answer())

    def emit(self, publication: Publication) -> None:
        """As `IBroker.emit`: our own listener at once, other nodes if their primary is there just now."""
        message = publication.message
        encoded = encode_message(message)
        for address in publication.to:
            if address.kind in RING_KINDS:
                self._rings.emit(publication, address, encoded)
            elif address.kind == "device" or address.kind in DURABLE_KINDS:
                entry = Entry(0, encoded, address.device, "", message.expires_ms)
                primary, bucket, name = self._place(log_of(address))
                if primary.is_up and self._emitting[primary] < MAX_EMITTED:
                    self._emitting[primary] += 1
                    items = self._emitted.setdefault(primary, [])
                    items.append((bucket, name, address_text(address), pack_entry(entry)))
                    self._flush_soon()
                self._tell("passed", address, entry)

    # ------------------------------------------------------------------------------------------- once a turn

    def _flush_soon(self) -> None:
        if self._flushing is None:
            self._flushing = self._reactor.callLater(0, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        self._watches.flush()
        for spool in self._spools.values():
            spool.flush()
        if self._emitted:
            emitted, self._emitted = self._emitted, {}
            for primary, items in emitted.items():
                for begin in range(0, len(items), EMIT_BATCH):
                    batch = items[begin : begin + EMIT_BATCH]
                    saying = primary.say("emit", self._incarnation, pack(batch))
                    saying.addBoth(self._said, primary, len(batch)).addErrback(self._failed)

    def _said(self, result: Any, primary: Primary, messages: int) -> Any:
        self._emitting[primary] -= messages
        return result

    def _answered(self, appends: list[Append], answer: Any) -> None:
        """What became of a batch; None: it is not known."""
        under_way = self._under_way
        answers: list[Answer] = []
        if answer is None:
            for append in appends:
                under_way.drop(append.digest)
                self._intake.entries -= len(append.waiting)
                self._intake.bytes -= len(append.encoded)
        else:
            store_epoch, codes, own_epochs, unwatched = answer
            epochs = dict(zip(own_epochs[::2], own_epochs[1::2], strict=True))
            self._committed += 1
            outcomes: list[Outcome] = []
            for n, append in enumerate(appends):
                code, seq = OutcomeCode(codes[2 * n]), codes[2 * n + 1]
                self._stored += code == OutcomeCode.OK
                under_way.drop(append.digest)
                epoch = epochs.get(n + 1, store_epoch) if epochs else store_epoch
                outcomes.append(Outcome(code, epoch, seq))
            answers = self._intake.settle(zip(appends, outcomes, strict=True))
            for n in unwatched:
                self._tell("unattended", appends[n - 1].log, appends[n - 1].message)
        for tell, first, about in answers:
            tell(first, *about)
        self._intake.relax()

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # stopped
            self.log.failure("a script failed", failure)

    # ------------------------------------------------------------------------------------ watching, reading

    def watch(self, log: LogKey) -> Deferred[Position]:
        """As `IBroker.watch`, of a durable log."""
        return self._watches.watch(log)

    def unwatch(self, log: LogKey) -> None:
        """As `IBroker.unwatch`, of a durable log."""
        self._watches.unwatch(log)

    def heard(self, primary: Primary, item: list[Any]) -> None:
        """A hint of kind ``a`` or ``p``."""
        if item[0] == b"a":
            self._watches.heard(item)
        else:
            (entry,) = unpack_entries((item[2],))
            self._tell("passed", parse_address(item[1].decode()), entry)

    def renewed(self, primary: Primary) -> None:
        """The primary's hints may have been lost."""
        self._watches.renewed(primary)

    def server(self, log: LogKey) -> Primary:
        """As `IBroker.server`, of a durable log."""
        return self._place(log)[0]

    def read(self, log: LogKey, after: int, limit: int, max_bytes: int) -> Deferred[Batch]:
        """As `IBroker.read`, of a durable log."""
        primary, bucket, name = self._place(log)
        after = max(after, 0)
        answer = primary.ask("read", bucket, name, after, max(limit, 1), max(max_bytes, 1))

        def found(reply: Any) -> Batch:
            epoch, upto, gap, head, packed = reply
            return Batch(epoch, after, upto, unpack_entries(packed), bool(gap), head)

        return answer.addCallback(found)

    def reset_log(self, log: LogKey) -> Deferred[Position]:
        """As `IBroker.reset_log`."""
        primary, bucket, name = self._place(log)
        epoch = int.from_bytes(self._entropy(6), "big") or 1
        return primary.call("reset", bucket, name, epoch).addCallback(lambda found: Position(*found))

    def mailbox(self, user: str) -> Deferred[Mailbox]:
        """As `IBroker.mailbox`."""
        primary, bucket, name = self._place(log_of(user_address(user)))
        return primary.ask("mailbox", bucket, name, user).addCallback(lambda found: Mailbox(*found))

    # ----------------------------------------------------------------------------------------------- upkeep

    def _sweep(self) -> None:
        self._sweeping = self._reactor.callLater(SWEEP_S, self._sweep)
        for primary in self._spools:
            if primary.is_up:
                self._sweep_one(primary)

    def _sweep_one(self, primary: Primary) -> None:
        def swept(looked: int) -> None:
            if looked == SWEEP_LOGS and self._stopped is None:
                self._sweep_one(primary)

        primary.call("sweep", self._age_ms, SWEEP_LOGS).addCallbacks(swept, self._failed)

    async def _free(self, run: Run) -> None:
        for _ in range(FREE_SWEEPS):
            if await run("sweep", self._age_ms, SWEEP_LOGS) < SWEEP_LOGS:
                return

    def measure(self, counters: Any) -> None:
        """Set the fields of a `core.counters.Counters` that begin with store."""
        counters.store_commits = self._committed
        counters.store_entries = self._stored
        counters.store_waiting = self._intake.entries
        counters.store_waiting_bytes = self._intake.bytes
        counters.store_dedup_ids = len(self._under_way)
