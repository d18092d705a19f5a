"""A chat on a terminal or in a pipe: lines in, lines out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, FirstError, ensureDeferred
from twisted.python.failure import Failure

from imgateway.cli.lines import plain, tell, text_of, write_line
from imgateway.cli.remarks import advice_on
from imgateway.client.values import Received
from imgateway.errors import FrameRefused, GatewayError, InvalidAddress
from imgateway.frames import (
    RING_KINDS,
    Address,
    OutcomeCode,
    address_text,
    check_id,
    parse_address,
    user_address,
)

__all__ = ("Conversation", "address_of", "room_of", "shown")

HELP = (
    "NAME TEXT sends TEXT to NAME; /to NAME sends every line there, /to alone ends that; "
    "/join ROOM and /leave ROOM; /quit leaves"
)
# The last words may be on their way for this long when the input ends.
LAST_WORDS_S = 30.0


class Conversation:
    """:param now: Unix seconds, to tell today from other days."""

    def __init__(
        self,
        client: Any,
        reactor: Any,
        now: Callable[[], float],
    ) -> None:
        self._client = client
        self._reactor = reactor
        self._now = now
        self._interactive = False
        self._to: Address | None = None
        self._in: dict[Address, Any] = {}
        """The subscriptions that were made here."""
        self._open = 0
        self._quiet: Deferred[None] | None = None
        self._all_well = True

    async def run(self, lines: Any, rooms: Sequence[str] = ()) -> int:
        """Exit status: 1 if something that was typed did not arrive.

        :param rooms: addresses to join first; the last is where lines go.
        :param lines: an asynchronous iterator over lines as bytes; `interactive`: a person types them.
        """
        self._interactive = lines.interactive
        if self._interactive:
            tell(f"you are {self._client.user}. {HELP}")
        try:
            for room in rooms:
                await self._join(parse_address(room))
            await _first(self._type(lines), self._listen())
        except CancelledError:
            pass  # interrupted: one way to leave
        if self._open:
            self._quiet = Deferred()
            await self._quiet.addTimeout(LAST_WORDS_S, self._reactor, lambda _, seconds: self._late())
        return 0 if self._all_well else 1

    # ------------------------------------------------------------------------------------------- what comes

    async def _listen(self) -> None:
        async for received in self._client.messages():
            if not self._own(received):
                write_line(shown(received, self._client.user, self._now()).encode() + b"\n")
            self._client.take()

    def _own(self, received: Received) -> bool:
        """A room shows everybody what we said in it, and us, too."""
        message = received.message
        if received.address.kind not in RING_KINDS or not message.device:
            return False
        sender = address_text(Address("device", message.sender, message.device))
        return bool(sender == self._client.welcome.session)

    # --------------------------------------------------------------------------------------- what is typed

    async def _type(self, lines: AsyncIterable[bytes]) -> None:
        async for line in lines:
            text = line.decode("utf-8", "replace").strip()
            if text == "/quit":
                return
            try:
                await self._line(text)
            except InvalidAddress as error:
                self._bad(str(error))

    async def _line(self, text: str) -> None:
        command, _, rest = text.partition(" ")
        if not text:
            return
        if command == "/to":
            self._to = address_of(rest) if rest.strip() else None
            if self._interactive:
                tell(f"lines go to {address_text(self._to)}" if self._to else "lines begin with a name again")
        elif command == "/join" and rest.strip():
            await self._join(room_of(rest))
        elif command == "/leave" and rest.strip():
            await self._leave(room_of(rest))
        elif command.startswith("/"):
            tell(HELP)
        elif self._to is not None:
            self._say(self._to, text)
        elif rest.strip():
            self._say(address_of(command), rest.strip())
        else:
            self._bad(f"to whom? {HELP}")

    async def _join(self, room: Address) -> None:
        """The next line waits: who is not in the room yet may not speak there."""
        try:
            self._in[room] = await self._client.subscribe(room)
        except FrameRefused as error:
            self._bad(f"{address_text(room)}: {error}")
        else:
            self._to = room
            if self._interactive:
                tell(f"you are in {address_text(room)}; lines go there")

    async def _leave(self, room: Address) -> None:
        one = self._in.pop(room, None)
        # What is followed may have been since another run.
        if room.kind in RING_KINDS and (one is None or one.ended is not None):
            tell(f"you are not in {address_text(room)}")
        await self._client.unsubscribe(room)
        if self._to == room:
            self._to = None

    def _say(self, to: Address, text: str) -> None:
        name = address_text(to)
        self._open += 1
        word = self._client.publish(to, text, content_type="text/plain")
        word.addCallbacks(self._taken, self._lost, callbackArgs=(name,), errbackArgs=(name,))
        word.addBoth(lambda _: self._settled())

    def _taken(self, outcomes: Any, name: str) -> None:
        for outcome in outcomes:
            if outcome.code not in (OutcomeCode.OK, OutcomeCode.DUPLICATE):
                known = {int(code): code.name for code in OutcomeCode}
                why = advice_on(name, outcome.code)
                self._bad(
                    f"{name} did not get that: {known.get(outcome.code, outcome.code)}{why and f': {why}'}"
                )

    def _lost(self, failure: Failure, name: str) -> None:
        failure.trap(GatewayError)
        self._bad(f"{name} may not get that: {failure.getErrorMessage()}")

    def _settled(self) -> None:
        self._open -= 1
        if not self._open and self._quiet is not None:
            self._quiet.callback(None)

    def _late(self) -> None:
        self._bad(f"{self._open} of your messages have no acknowledgement yet; they may or may not arrive")

    def _bad(self, text: str) -> None:
        self._all_well = False
        tell(text)


async def _first(*parts: Coroutine[Any, Any, None]) -> None:
    """Until the first has ended, in whichever way; that ends the others."""
    tasks = [ensureDeferred(part) for part in parts]
    ends = DeferredList(tasks, fireOnOneCallback=True, fireOnOneErrback=True, consumeErrors=True)
    try:
        await ends
    except FirstError as error:
        error.subFailure.raiseException()
    finally:
        for task in tasks:
            task.cancel()


def address_of(text: str) -> Address:
    """``bob`` is ``user:bob``; whatever has a kind is taken as it is.

    :raises InvalidAddress: with the rule that it breaks.
    """
    name = text.strip()
    return parse_address(name) if ":" in name or name == "all" else user_address(check_id(name))


def room_of(text: str) -> Address:
    """``7`` is ``room:7``; whatever has a kind is taken as it is.

    :raises InvalidAddress: with the rule that it breaks.
    """
    name = text.strip()
    return parse_address(name) if ":" in name else Address("room", check_id(name))


def shown(received: Received, me: str, now_s: float) -> str:
    """``12:03 bob: hello``; the date too if it is not today's; who it went to if it was not to us alone."""
    message = received.message
    sent, today = time.localtime(message.sent_ms / 1000), time.localtime(now_s)
    when = time.strftime("%H:%M" if sent[:3] == today[:3] else "%Y-%m-%d %H:%M", sent)
    # A copy of what another device of ours sent says to whom.
    others = ", ".join(address_text(one) for one in message.to)
    if not others and received.address != user_address(me):
        others = address_text(received.address)
    text = text_of(message.body)
    if text is None:
        text = f"[{message.content_type or 'data'}, {len(message.body)} bytes]"
    return plain(f"{when} {message.sender}{f' to {others}' if others else ''}: {text}")
