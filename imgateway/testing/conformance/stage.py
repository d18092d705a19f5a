"""The stage: a gateway of one user and one log, whose answers a scene decides.

It knows frames only; the wire's own codec reads and writes them, as in a real gateway, so that one script
serves every wire. What a client sends that no gateway would take is noted as a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred

from imgateway.errors import CloseCode
from imgateway.frames import (
    FRAME_NAMES,
    Acked,
    Address,
    Bye,
    Deliver,
    DeliverAck,
    Entry,
    Frame,
    Hello,
    Limits,
    Message,
    Outcome,
    OutcomeCode,
    Ping,
    Pong,
    Publish,
    PublishAck,
    Pull,
    Renew,
    Renewed,
    Request,
    Response,
    ResponseCode,
    Resumed,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    address_text,
    user_address,
)
from imgateway.interfaces import IConnection, IProtocolAdapter
from imgateway.testing.conformance.abilities import abilities
from imgateway.testing.conformance.visit import Visit
from imgateway.wire.messages import encode_message

__all__ = ("Gone", "Stage")

SENDER = "conformance"
"""Who wrote the messages, and who is sent their echoes."""
HEARTBEAT_S = 30.0
QUIET_S = 0.5
"""What a program shows twice comes twice within so long."""
SOON_S = 0.2
"""A client that is asked to come again comes after so long."""


class Gone(Exception):
    """The client did not come."""


class Stage:
    """:param token: what the client was given to log in with.

    :param wall_ms: Unix milliseconds.
    :param patience_s: how long a client may take to do what it must.
    :param absence_s: how long it may stay away.
    """

    def __init__(
        self,
        reactor: Any,
        wire: IProtocolAdapter,
        user: str,
        token: str,
        wall_ms: Callable[[], int],
        patience_s: float = 5.0,
        absence_s: float = 60.0,
    ) -> None:
        self.reactor = reactor
        self.wall_ms = wall_ms
        self.wire = wire
        self.abilities = abilities(wire)
        self.user = user
        self.token = token
        self.patience_s = patience_s
        self.absence_s = absence_s
        self.log = user_address(user)
        self.visits: list[Visit] = []
        self.faults: list[str] = []
        self.record = b""
        self._waiting: list[tuple[Callable[[], bool], Deferred[bool]]] = []
        # The log: what stands in it, how far it was sent, with answers to Pulls too, and acknowledged.
        self.epoch = wall_ms()  # another one in every run: clients may keep their positions
        self.entries: dict[int, Entry] = {}
        self.head = self.sent = self.said = self.acked = 0
        # What a Welcome tells.
        self.greet: Callable[[Visit], None]
        self.limits: Limits
        self.heartbeat_s: float
        self.token_expires_ms: int
        self.rewind: int
        """The next Welcome goes on so many entries before where the client says that it is."""
        # What the client publishes.
        self.texts: set[str] = set()
        """Of the messages that it was told."""
        self.published: list[Publish] = []
        self.shown: list[str] = []
        """Texts that came back, once for each message id."""
        self.echoes = False
        """The program sends back what it is shown."""
        self.answers: bool
        self._taken: dict[str, int] = {}
        self._ended = ""
        """How the program under test has ended; "": it lives, or nobody knows."""
        self.reset()

    def reset(self) -> None:
        """All that scenes change as it is at first."""
        self.greet = self.welcome
        self.limits = Limits()
        self.heartbeat_s = HEARTBEAT_S
        self.token_expires_ms = 0
        self.rewind = 0
        self.answers = True

    def program_ended(self, how: str) -> None:
        """The program under test is no more, so that nobody waits for it; "": it was started anew."""
        self._ended = how
        self.changed()

    # ------------------------------------------------------------------------------------------- the house

    def now(self) -> float:
        """Monotonic seconds."""
        seconds: float = self.reactor.seconds()
        return seconds

    def accept(self, connection: IConnection) -> Visit:
        """For a transport's `listen`."""
        visit = Visit(self, connection)
        self.visits.append(visit)
        self.changed()
        return visit

    def heard(self, visit: Visit, frame: Frame) -> None:
        """A frame came: do what a gateway does."""
        if isinstance(frame, Bye):
            visit.over = visit.left = True
            visit.connection.close(CloseCode.NORMAL)
        elif isinstance(frame, Hello):
            if visit.hello is not None:
                visit.fault("greets twice on one connection", CloseCode.UNEXPECTED_FRAME)
                return
            visit.hello = frame
            self.greet(visit)
        elif not visit.welcomed:
            visit.fault(f"sends {FRAME_NAMES[type(frame)]} before it is welcome", CloseCode.UNEXPECTED_FRAME)
        else:
            self._answer(visit, frame)

    def _answer(self, visit: Visit, frame: Frame) -> None:
        match frame:
            case Publish():
                self._publish(visit, frame)
            case DeliverAck():
                for ack in frame.acks:
                    self._acked(visit, ack)
            case Ping():
                visit.say(Pong(frame.nonce, self.wall_ms()))
            case Pull():
                upto = min(self.head, frame.after + (frame.limit or 64))
                visit.say(self.range(frame.after, max(frame.after, upto), pulled=True))
            case Renew():
                visit.say(Renewed(0))
            case Request():
                visit.say(Response(frame.id, ResponseCode.NO_SUCH_SERVICE))
            case Subscribe():
                visit.say(Subscribed(frame.address, lane=frame.lane, mode=frame.mode))
            case Unsubscribe():
                visit.say(Unsubscribed(frame.address))

    def welcome(self, visit: Visit) -> None:
        """Let it in, and tell it what it has not had."""
        point = visit.point()
        known = point is not None and point.epoch == self.epoch
        if point is not None and known and point.seq > self.said:
            visit.fault(f"says that it has {point.seq}, and was sent no more than {self.said}")
            return
        position = max(0, point.seq - self.rewind) if point is not None and known else self.acked
        self.rewind = 0
        self.sent = max(self.sent, position)
        device = visit.hello.device if visit.hello is not None else ""
        restored = visit.codec.restore(self.record)
        visit.say(
            Welcome(
                address_text(Address("device", self.user, device or self.wire.name)),
                self.user,
                SENDER,
                len(self.visits),
                self.heartbeat_s,
                self.wall_ms(),
                self.token_expires_ms,
                self.limits,
                (Resumed(self.log, 0, self.epoch, position, self.head, point is not None and not known),),
            )
        )
        visit.welcomed = True
        self.abilities = abilities(self.wire, visit.codec)
        for frame in restored:
            self.heard(visit, frame)
        if self.head > position:
            self.deliver(visit, position, self.head)

    def _acked(self, visit: Visit, ack: Acked) -> None:
        if ack.address != self.log:
            visit.fault("acknowledges a log that it was sent nothing of")
        elif ack.epoch == self.epoch:
            if ack.upto > self.sent:
                visit.fault(f"acknowledges {ack.upto}, and was sent no more than {self.sent}")
            else:
                self.acked = max(self.acked, ack.upto)

    def _publish(self, visit: Visit, frame: Publish) -> None:
        self.published.append(frame)
        if frame.msg_id not in self._taken:
            text = frame.body.decode("utf-8", "replace")
            if text in self.texts:
                self.shown.append(text)
        if self.answers and frame.qos:
            self._settle(visit, frame)
        else:
            self._taken.setdefault(frame.msg_id, 0)

    def _settle(self, visit: Visit, frame: Publish) -> None:
        code = OutcomeCode.DUPLICATE if self._taken.get(frame.msg_id) else OutcomeCode.OK
        seq = self._taken[frame.msg_id] = self._taken.get(frame.msg_id) or len(self._taken) + 1
        visit.say(PublishAck(frame.msg_id, (Outcome(code, 1, seq),) * len(frame.to)))

    # ------------------------------------------------------------------------------------- what scenes do

    def append(self, *texts: str) -> int:
        """Messages are stored, and nobody is told yet; returns the new head."""
        for text in texts:
            self.head += 1
            self.texts.add(text)
            msg_id = f"{self.epoch:x}-{self.head}"
            message = Message(msg_id, SENDER, "stage", "text/plain", text.encode(), self.wall_ms())
            self.entries[self.head] = Entry(self.head, encode_message(message))
        return self.head

    def tell(self, visit: Visit, *texts: str) -> int:
        """Messages are stored and delivered, as one frame where the wire has such; returns the new head."""
        after = self.head
        self.deliver(visit, after, self.append(*texts))
        return self.head

    def range(self, after: int, upto: int, gap: bool = False, pulled: bool = False) -> Deliver:
        """What stands in ``(after, upto]``, as a Deliver; it counts as sent unless it answers a Pull."""
        entries = tuple(entry for entry in self.entries.values() if after < entry.seq <= upto)
        self.said = max(self.said, upto)
        if not pulled:
            self.sent = max(self.sent, upto)
        head = max(upto, self.head)
        return Deliver(self.log, 0, self.epoch, after, upto, entries, gap, head, pulled=pulled)

    def deliver(self, visit: Visit, after: int, upto: int, gap: bool = False) -> bool:
        """Send the range ``(after, upto]``; False: the wire cannot say it, or not carry it."""
        whole = self.range(after, upto, gap)
        if self.wire.traits.batches or len(whole.entries) < 2:
            return visit.say(whole)
        said = True
        for entry in whole.entries:
            end = upto if entry is whole.entries[-1] else entry.seq
            said &= visit.say(replace(whole, after=after, upto=end, entries=(entry,)))
            after = end
        return said

    def forget(self, after: int) -> None:
        """What was appended behind `after` never was."""
        self.entries = {seq: entry for seq, entry in self.entries.items() if seq <= after}
        self.head = self.sent = self.said = after

    def renumber(self) -> None:
        """The log is replaced by a new one, which is empty."""
        self.epoch += 1
        self.head = self.sent = self.said = self.acked = 0
        self.entries.clear()

    def answer_all(self, visit: Visit) -> None:
        """Answer what was left without an answer, and from now on everything."""
        self.answers = True
        waiting = {frame.msg_id: frame for frame in self.published if not self._taken[frame.msg_id]}
        for frame in waiting.values():
            self._settle(visit, frame)

    def unanswered(self) -> list[Publish]:
        return [frame for frame in self.published if not self._taken[frame.msg_id]]

    # --------------------------------------------------------------------------------------------- waiting

    def changed(self) -> None:
        """Something happened: whoever waits looks again."""
        for waiting in tuple(self._waiting):
            found, deferred = waiting
            if waiting in self._waiting and found():
                self._waiting.remove(waiting)
                deferred.callback(True)

    async def until(self, found: Callable[[], bool], within_s: float | None = None) -> bool:
        """Whether it came true in time, `patience_s` if no other is said."""
        if found():
            return True
        waiting = (found, Deferred[bool]())
        self._waiting.append(waiting)
        seconds = self.patience_s if within_s is None else within_s
        call = self.reactor.callLater(seconds, self._give_up, waiting)
        try:
            return await waiting[1]
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            if call.active():
                call.cancel()

    def _give_up(self, waiting: tuple[Callable[[], bool], Deferred[bool]]) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            waiting[1].callback(False)

    async def pause(self, seconds: float) -> None:
        await self.until(lambda: False, seconds)

    async def comes_after(self, number: int, within_s: float | None = None) -> Visit | None:
        """The connection after the first `number`, welcome or not; None: there is none in time, `absence_s`
        if no other is said."""
        seconds = self.absence_s if within_s is None else within_s
        await self.until(lambda: len(self.visits) > number or bool(self._ended), seconds)
        return self.visits[number] if len(self.visits) > number else None

    async def is_over(self, visit: Visit, within_s: float | None = None) -> bool:
        return await self.until(lambda: visit.over, within_s)

    async def is_acked(self, upto: int) -> bool:
        return await self.until(lambda: self.acked >= upto)

    async def are_shown(self, texts: Iterable[str]) -> bool:
        """Whether the program was shown these; nothing to say about one that does not echo."""
        wanted = set(texts)
        if not await self.until(lambda: wanted <= set(self.shown)):
            return False
        await self.pause(QUIET_S)
        return True

    async def visit(self) -> Visit:
        """The connection that the client is welcome on, now or as soon as it comes.

        :raises Gone: it does not.
        """
        count = len(self.visits)
        await self.until(lambda: self._there() is not None or bool(self._ended), self.absence_s)
        visit = self._there()
        if visit is None:
            raise self.gone("welcome", len(self.visits) - count)
        return visit

    def gone(self, what: str, connections: int) -> Gone:
        """That no client was `what`, though so many connections came."""
        if self._ended:
            return Gone(self._ended)
        came = f"; {connections} connection{'s' if connections > 1 else ''} came" if connections else ""
        return Gone(f"no client was {what} within {self.absence_s:g} s{came}")

    def _there(self) -> Visit | None:
        found = [visit for visit in self.visits if visit.welcomed and not visit.over]
        return found[-1] if found else None

    async def again(self, visit: Visit) -> Visit:
        """Have the client log in once more, such as for another Welcome.

        :raises Gone: it does not.
        """
        visit.bye(CloseCode.GOING_AWAY, "come again", SOON_S)
        return await self.visit()
