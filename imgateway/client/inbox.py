"""What was received: positions, ranges, gaps, and the order in which the application is shown things. Pure.

Per log two positions run one behind the other: `received` is as far as Delivers have come in without a hole;
`taken` is as far as the application has taken what they brought. Only `taken` is ever named to the gateway,
in DeliverAck and in Hello: what is merely in our queue is still in the gateway's custody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from imgateway.client.values import Gap, Received
from imgateway.frames import (
    DURABLE_KINDS,
    Acked,
    Address,
    Deliver,
    LogKey,
    Message,
    Pull,
    Resumed,
    ResumePoint,
)

__all__ = ("Inbox", "Item", "Place")

FILTER_SIZE = 1_000
PULL_LIMIT = 64

MessageId = tuple[str, str, str]


class Place:
    """Where we stand in one log."""

    __slots__ = (
        "_order",
        "acked",
        "delivered",
        "epoch",
        "log",
        "pulling",
        "received",
        "shown",
        "tail",
        "taken",
        "taken_epoch",
        "target",
        "unpullable",
    )

    def __init__(self, log: LogKey, epoch: int, position: int) -> None:
        self.log = log
        self.epoch = self.taken_epoch = epoch
        self.received = self.taken = position
        self.tail: Item | None = None  # the newest item of this log that is not taken yet
        self.shown: set[MessageId] = set()
        self._order: deque[MessageId] = deque()
        self.new_link()

    def new_link(self) -> None:
        self.delivered = self.acked = 0  # on this link: how far Delivers went, and our acknowledgements
        self.pulling: int | None = None  # the `after` of the Pull that is out
        self.target = 0  # how far Delivers went that had to be dropped because of a hole
        self.unpullable = False

    def show(self, ident: MessageId) -> bool:
        """False: it is among the last 1,000 that were shown from this log."""
        if ident in self.shown:
            return False
        self.shown.add(ident)
        self._order.append(ident)
        if len(self._order) > FILTER_SIZE:
            self.shown.discard(self._order.popleft())
        return True


class Item:
    """One thing to show. When it is taken, everything up to `mark` of its log is."""

    __slots__ = ("cost", "epoch", "mark", "place", "what")

    def __init__(self, place: Place | None, epoch: int, mark: int, what: Received | Gap, cost: int) -> None:
        self.place = place
        self.epoch = epoch
        self.mark = mark
        self.what = what
        self.cost = cost


class Inbox:
    """The places and the queue of what is to be shown.

    :param decode: the stored encoding of a message → Message.
    """

    def __init__(self, decode: Callable[[bytes], Message]) -> None:
        self._decode = decode
        self._places: dict[LogKey, Place] = {}
        self._queue: deque[Item] = deque()
        self.bytes = 0
        self.moved: dict[LogKey, Place] = {}
        """Durable places whose `taken` changed since the caller last emptied this."""

    def __len__(self) -> int:
        return len(self._queue)

    # ------------------------------------------------------------------------------------------ links

    def restore(self, log: LogKey, epoch: int, taken: int, shown: Iterable[MessageId]) -> None:
        """What a file knows of one log, before the first link."""
        place = self._places[log] = Place(log, epoch, taken)
        for ident in shown:
            place.show(ident)

    def resume_points(self) -> tuple[ResumePoint, ...]:
        """For Hello: durable logs only, for rings are subscribed to."""
        return tuple(
            ResumePoint(log.address, log.lane, place.taken_epoch, place.taken)
            for log, place in self._places.items()
            if log.address.kind in DURABLE_KINDS
        )

    def linked(self, resumed: Iterable[Resumed]) -> None:
        """A new link's Welcome says where it goes on."""
        for place in self._places.values():
            place.new_link()
        for point in resumed:
            log = LogKey(point.address, point.lane)
            acked = point.position
            place_or_none = self._places.get(log)
            if place_or_none is None:
                place = self._places[log] = Place(log, point.epoch, point.position)
                self._moved(place)
                if point.gap:
                    self._gap(place, 0, point.position)
            else:
                place = place_or_none
                rolled_back = point.gap and point.position < place.taken
                if point.epoch != place.epoch or rolled_back:
                    self._restart(place, point.epoch, point.position)
                elif point.position > place.received:
                    self._gap(place, place.received, point.position)
                # It goes on where we said; that we said so may not have been an acknowledgement to it.
                acked = 0
            place.delivered, place.acked = point.position, acked

    # ------------------------------------------------------------------------------------------ frames

    def deliver(self, frame: Deliver) -> Pull | None:
        """Take a Deliver in; a Pull is to be sent when there is a hole before it."""
        if not frame.upto and frame.entries:
            for entry in frame.entries:
                message = self._decode(entry.message)
                received = Received(frame.address, frame.lane, 0, 0, message, True)
                self._append(Item(None, 0, 0, received, len(entry.message)))
            return None
        log = LogKey(frame.address, frame.lane)
        place = self._places.get(log)
        if place is None:
            place = self._places[log] = Place(log, frame.epoch, frame.after)
        elif frame.epoch != place.epoch:
            self._restart(place, frame.epoch, frame.after)
        if frame.after > place.received:
            if not place.unpullable:
                place.target = max(place.target, frame.upto)
                return self._pull(place) if place.pulling is None else None
            self._gap(place, place.received, frame.after)
        before = place.received
        self._take_in(place, frame)
        return self._go_on(place, before) if frame.after == place.pulling else None

    def fits(self, frame: Deliver) -> bool:
        """The answer to a question about history goes on where we are, so that it counts as delivered too."""
        place = self._places.get(LogKey(frame.address, frame.lane))
        return place is not None and place.epoch == frame.epoch and frame.after <= place.received < frame.upto

    def epoch_of(self, log: LogKey) -> int:
        place = self._places.get(log)
        return place.epoch if place is not None else 0

    def pull_refused(self, address: Address) -> None:
        """A hole at this address cannot be filled on this link: it is told as a gap instead."""
        for log, place in self._places.items():
            if log.address == address and place.pulling is not None:
                place.pulling = None
                place.unpullable = True
                if place.target > place.received:
                    self._gap(place, place.received, place.target)

    def _take_in(self, place: Place, frame: Deliver) -> None:
        upto = frame.upto
        place.delivered = max(place.delivered, upto)
        if upto <= place.received:
            return
        if frame.gap:
            self._gap(place, max(place.received, frame.after), upto, moves=False)
        for entry in frame.entries:
            if not place.received < entry.seq <= upto:
                continue
            message = self._decode(entry.message)
            place.received = entry.seq
            if place.show((message.sender, message.device, message.msg_id)):
                what = Received(frame.address, frame.lane, frame.epoch, entry.seq, message)
                self._append(Item(place, frame.epoch, entry.seq, what, len(entry.message)))
        self._reach(place, upto)

    def _go_on(self, place: Place, before: int) -> Pull | None:
        """The answer to our Pull came."""
        place.pulling = None
        if place.received >= place.target:
            return None
        if place.received > before:
            return self._pull(place)
        # Nothing more is there, and yet Delivers came from beyond: what is between is gone.
        self._gap(place, place.received, place.target)
        return None

    def _pull(self, place: Place) -> Pull:
        place.pulling = place.received
        return Pull(place.log.address, place.log.lane, place.epoch, place.received, PULL_LIMIT)

    def _gap(self, place: Place, after: int, upto: int, moves: bool = True) -> None:
        what = Gap(place.log.address, place.log.lane, place.epoch, after, upto)
        self._append(Item(place, place.epoch, after, what, 0))
        if moves:
            self._reach(place, upto)

    def _restart(self, place: Place, epoch: int, position: int) -> None:
        """The log is another one now."""
        place.epoch = epoch
        place.received = position
        place.delivered = place.acked = 0
        place.pulling, place.target = None, 0
        self._gap(place, 0, position)

    def _reach(self, place: Place, upto: int) -> None:
        """All up to `upto` came in: taken with the newest item of this log, or at once if there is none."""
        place.received = upto
        if place.tail is not None:
            place.tail.mark = upto
        else:
            place.taken_epoch, place.taken = place.epoch, upto
            self._moved(place)

    def _append(self, item: Item) -> None:
        self._queue.append(item)
        self.bytes += item.cost
        if item.place is not None:
            item.place.tail = item

    def _moved(self, place: Place) -> None:
        if place.log.address.kind in DURABLE_KINDS:
            self.moved[place.log] = place

    # ------------------------------------------------------------------------------------- application

    def next(self) -> Item | None:
        """The next to show; show it, then `take` it, before the one after it is asked for."""
        if not self._queue:
            return None
        item = self._queue.popleft()
        self.bytes -= item.cost
        return item

    def take(self, item: Item) -> None:
        """The application has it."""
        place = item.place
        if place is None:
            return
        place.taken_epoch, place.taken = item.epoch, item.mark
        if place.tail is item:
            place.tail = None
        self._moved(place)

    def acks(self) -> tuple[Acked, ...]:
        """What DeliverAck is to say now, and counts as said; never beyond what this link delivered."""
        acks = []
        for log, place in self._places.items():
            if log.address.kind not in DURABLE_KINDS or place.taken_epoch != place.epoch:
                continue
            upto = min(place.taken, place.delivered)
            if upto > place.acked:
                place.acked = upto
                acks.append(Acked(log.address, place.epoch, upto))
        return tuple(acks)
