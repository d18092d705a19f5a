"""Sends many messages through a client, and tells what became of each, in the order of sending."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from typing import Any, NamedTuple

from msgspec import Struct
from twisted.internet.defer import (
    Deferred,
    DeferredQueue,
    DeferredSemaphore,
    FirstError,
    TimeoutError,
    ensureDeferred,
    gatherResults,
)
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from imgateway.cli.lines import as_line, write_line
from imgateway.cli.progress import Progress
from imgateway.cli.remarks import advice_on
from imgateway.errors import ClientError, FrameRefused, GatewayError, OutcomeUnknown
from imgateway.frames import Outcome, OutcomeCode, RefusedCode

__all__ = ("Dispatch", "Order", "together")

Word = tuple[Outcome, ...] | GatewayError
"""What became of a message: outcomes in the order of its addresses, or why there are none."""


class Order(Struct, frozen=True):
    """What to send to whom. `bodies` None: the lines of standard input. `name` '': msg_ids are made up."""

    to: tuple[str, ...]
    bodies: tuple[bytes, int] | None
    name: str = ""
    qos: int = 1
    lane: int = 0
    rate: float = 0.0
    content_type: str = "text/plain"
    ttl_s: int = 0
    copy_self: bool = False
    timeout_s: float = 0.0

    @property
    def total(self) -> int:
        """How many messages; 0: not known before the end."""
        return self.bodies[1] if self.bodies is not None else 0


class Sent(NamedTuple):
    msg_id: str
    size: int
    word: Deferred[Word]


async def together(*parts: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run all to their ends; the first error ends the others."""
    tasks = [ensureDeferred(part) for part in parts]
    try:
        return await gatherResults(tasks, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
    finally:
        for task in tasks:
            task.cancel()


class Dispatch:
    """One part publishes as far as the window goes, another waits for the outcomes and prints them."""

    def __init__(
        self,
        client: Any,
        reactor: Any,
        order: Order,
    ) -> None:
        self._client = client
        self._reactor = reactor
        self._order = order
        self._names = _names(order)
        self._window = DeferredSemaphore(client.welcome.limits.publish_window or 1)
        self._sent: DeferredQueue[Sent | None] = DeferredQueue()
        self._progress = Progress("messages sent", results=True)
        self._all_well = True

    async def run(self, lines: Callable[[Any], AsyncIterable[bytes]]) -> int:
        """Exit status: 0 if every message was taken at every address.

        :param lines: reactor → the lines of standard input.
        """
        order = self._order
        bodies = lines(self._reactor) if order.bodies is None else _repeated(*order.bodies)
        with self._progress:
            await together(self._publish(bodies), self._print())
        return 0 if self._all_well else 1

    # ------------------------------------------------------------------------------------------ publishing

    async def _publish(self, bodies: AsyncIterable[bytes]) -> None:
        order, began, number = self._order, self._reactor.seconds(), 0
        async for body in bodies:
            if order.rate:
                await self._until(began + number / order.rate)
            await self._window.acquire()
            number += 1
            msg_id = self._names(number)
            if not order.qos and not self._client.connected:
                # The client would drop it without a word.
                self._sent.put(Sent(msg_id, len(body), _fired(ClientError("there was no connection"))))
                continue
            word = self._client.publish(
                order.to,
                body,
                qos=order.qos,
                msg_id=msg_id,
                content_type=order.content_type,
                ttl_s=order.ttl_s,
                lane=order.lane,
                copy_self=order.copy_self,
            )
            self._sent.put(Sent(msg_id, len(body), word.addErrback(_as_word)))
        self._sent.put(None)

    async def _until(self, when: float) -> None:
        wait_s = when - self._reactor.seconds()
        if wait_s > 0:
            await deferLater(self._reactor, wait_s)

    # -------------------------------------------------------------------------------------------- printing

    async def _print(self) -> None:
        done = 0
        while (sent := await self._sent.get()) is not None:
            self._show(sent, await self._word(sent))
            self._window.release()
            done += 1
            self._progress(done, self._order.total)

    async def _word(self, sent: Sent) -> Word:
        timeout_s = self._order.timeout_s
        if not timeout_s:
            return await sent.word
        try:
            return await sent.word.addTimeout(timeout_s, self._reactor)
        except TimeoutError:
            late = f"no acknowledgement of {sent.msg_id} within {timeout_s:g} s"
            raise ClientError(f"{late}; it may or may not have been taken") from None

    def _show(self, sent: Sent, word: Word) -> None:
        msg_id = sent.msg_id
        if isinstance(word, GatewayError):
            code = _refusal(word)
            for address in self._order.to:
                self._refused(msg_id, address, code, str(word))
            return
        # qos 0 has no outcomes, so nothing is printed.
        for address, outcome in zip(self._order.to, word):  # noqa: B905
            code = _name(OutcomeCode, outcome.code)
            if outcome.code in (OutcomeCode.OK, OutcomeCode.DUPLICATE):
                line = {"msg_id": msg_id, "address": address, "code": code, "seq": outcome.seq}
                write_line(as_line(line))
            else:
                reason = self._too_large(sent.size, outcome.code) or advice_on(address, outcome.code)
                self._refused(msg_id, address, code, reason)

    def _too_large(self, size: int, code: int) -> str:
        """What the limit is, if that is why; headers and the node's own rules may be too much as well."""
        limit = self._client.welcome.limits.max_body_bytes
        if code != OutcomeCode.TOO_LARGE or not 0 < limit < size:
            return ""
        return f"the body has {size:,} bytes, and the gateway takes {limit:,}"

    def _refused(self, msg_id: str, address: str, code: str, reason: str) -> None:
        self._all_well = False
        self._progress.clear()
        line = {"msg_id": msg_id, "address": address, "code": code} | ({"reason": reason} if reason else {})
        write_line(as_line(line), err=True)


def _fired(word: Word) -> Deferred[Word]:
    fired: Deferred[Word] = Deferred()
    fired.callback(word)
    return fired


def _as_word(failure: Failure) -> GatewayError:
    """A message that was not taken is a result like others; being cancelled is none."""
    failure.trap(GatewayError)
    assert isinstance(failure.value, GatewayError)
    return failure.value


def _refusal(error: GatewayError) -> str:
    if isinstance(error, FrameRefused):
        return _name(RefusedCode, error.code)
    return "OUTCOME_UNKNOWN" if isinstance(error, OutcomeUnknown) else "NOT_SENT"


def _name(codes: Any, code: int) -> str:
    """A code's name; a later gateway's is its number."""
    known: dict[int, str] = {int(one): one.name for one in codes}
    return known.get(code, str(code))


def _names(order: Order) -> Callable[[int], str]:
    """number, from 1 → msg_id"""
    if not order.name:
        run = secrets.token_hex(8)
        return lambda number: f"{run}-{number:x}"
    if order.bodies is not None and order.total == 1:
        return lambda number: order.name
    return lambda number: f"{order.name}-{number}"


async def _repeated(body: bytes, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield body
