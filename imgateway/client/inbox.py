"""What was received: positions, ranges, gaps, and the order in which the application is shown things. Pure.

Per log two positions run one behind the other: `received` is as far as things have come in without a hole;
`taken` is as far as the application has taken what they brought. Only `taken` is ever named to the gateway,
in DeliverAck, and in Hello or, of a topic, in Subscribe: what is merely in our queue is still in the
gateway's custody. For rings, which nobody has custody of, it is `received` that Hello and Subscribe name.

A delivery moves the gateway's cursor, so that we may acknowledge as far as it goes. The answer to a Pull
moves nothing there: what it brought is acknowledged once it was delivered as well.

Of durable logs the gateway sends no more than its window. Of rings it sends all that there is: what comes of
them while the queue is full is let lie, and pulled when there is room again. The link is read on all the
time: what the application waits for before it takes a message comes over the same one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from imgateway.client.place import Item, MessageId, Place
from imgateway.client.values import Gap, Received
from imgateway.frames import (
    DURABLE_KINDS,
    Acked,
    Address,
    Deliver,
    LogKey,
    Message,
    Mode,
    Pull,
    Resumed,
    ResumePoint,
)

__all__ = ("Inbox",)

PULL_LIMIT = 64
"""Entries that a Pull asks for."""
MOST_ITEMS, MOST_BYTES = 1_000, 1_048_576
"""Of rings and qos 0 so much is queued, and one frame more. Then it is full, until half of it was shown."""


class Inbox:
    """The places and the queue of what is to be shown.

    :param decode: the stored encoding of a message → Message.
    """

    def __init__(self, decode: Callable[[bytes], Message]) -> None:
        self._decode = decode
        self._places: dict[LogKey, Place] = {}
        self._queue: deque[Item] = deque()
        self._loose = self._loose_bytes = 0  # what of it no window bounds
        self._full = False
        self._lying: dict[LogKey, None] = {}  # rings that have more than we took in
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
        """For Hello: our mailbox. Other durable logs are subscribed to."""
        return tuple(
            ResumePoint(log.address, log.lane, place.taken_epoch, place.taken)
            for log, place in self._places.items()
            if log.address.kind == "user"
        )

    def ring_points(self, modes: Mapping[Address, Mode]) -> tuple[ResumePoint, ...]:
        """For Hello: areas and everyone's log, where we know them, and then the rooms in `modes`."""
        points = [
            ResumePoint(log.address, log.lane, place.epoch, place.received, modes.get(log.address, Mode.PUSH))
            for log, place in self._places.items()
            if place.ring and (log.address in modes or log.address.kind != "room")
        ]
        return tuple(sorted(points, key=lambda point: point.address.kind == "room"))

    def position(self, log: LogKey) -> tuple[int, int]:
        """Epoch and seq for Subscribe; zeros: we have none."""
        place = self._places.get(log)
        if place is None:
            return 0, 0
        return (place.epoch, place.received) if place.ring else (place.taken_epoch, place.taken)

    def forget(self, address: Address) -> None:
        """We left: who comes again begins where the log is then."""
        for lane in (0, 1):
            self._places.pop(LogKey(address, lane), None)
            self._lying.pop(LogKey(address, lane), None)
            self.moved.pop(LogKey(address, lane), None)

    def leave(self, address: Address) -> None:
        """We ask to be let out of a durable log: what is on its way from there counts no more. The place
        stays until it is forgotten."""
        place = self._places.get(LogKey(address))
        if place is not None:
            place.new_link()

    def forget_areas(self) -> None:
        """Who is in no room is in no area."""
        for address in {log.address for log in self._places if log.address.kind == "area"}:
            self.forget(address)

    def leave_areas(self) -> None:
        """We left a room, and perhaps the areas that it is in."""
        for place in self._places.values():
            place.left = place.left or place.log.address.kind == "area"

    def linked(self, resumed: Iterable[Resumed]) -> None:
        """A new link's Welcome says where it goes on."""
        self._lying.clear()
        for place in self._places.values():
            place.new_link()
        for point in resumed:
            self.resumed(point)

    def resumed(self, point: Resumed) -> None:
        """Here this link goes on in this log."""
        log = LogKey(point.address, point.lane)
        place = self._places.get(log)
        acked = point.position
        if place is None:
            place = self._places[log] = Place(log, point.epoch, point.position)
            self._moved(place)
            if point.gap:
                self._gap(place, 0, point.position)
        else:
            reached = place.received if place.ring else place.taken
            if point.epoch != place.epoch or (point.gap and point.position < reached):
                self._restart(place, point.epoch, point.position)
            elif point.position > place.received and (point.gap or not place.ring):
                self._gap(place, place.received, point.position)
            # It goes on where we said; that we said so may not have been an acknowledgement to it.
            acked = 0
        place.left = False
        # Who subscribes again over the same link changes nothing: what was sent before stays sent.
        place.delivered, place.acked = max(place.delivered, point.position), acked

    # ------------------------------------------------------------------------------------------ frames

    def deliver(self, frame: Deliver) -> Pull | None:
        """Take a delivery in; a Pull is to be sent when there is a hole before it."""
        if not frame.upto and frame.entries:
            for entry in () if self._full else frame.entries:
                message = self._decode(entry.message)
                received = Received(frame.address, frame.lane, 0, 0, message, True)
                self._append(Item(None, 0, 0, received, len(entry.message)))
            return None
        log = LogKey(frame.address, frame.lane)
        place = self._places.get(log)
        gap = frame.gap
        if place is None:
            place = self._places[log] = Place(log, frame.epoch, frame.after)
            if place.ring and gap:
                gap = False  # what is lost lies before this block, as in a ring that began anew, or in it
                self._gap(place, 0, frame.upto, moves=False)
        elif frame.epoch != place.epoch:
            self._restart(place, frame.epoch, frame.after)
        if place.taken > place.delivered:
            self._moved(place)  # it was taken before it was delivered, and may be acknowledged now
        place.delivered = max(place.delivered, frame.upto)
        stepped_back = frame.upto <= place.begun and self._overtaken(place, frame)
        if place.left:
            self._come_again(place, frame)
        if self._full and place.ring:
            self._let_lie(place, frame.upto)
            return None
        if frame.after > place.received:
            if place.ring and gap:
                gap = False  # what is lost lies before this block
            elif not place.unpullable:
                place.target = max(place.target, frame.upto)
                return self._pull(place) if place.pulling is None else None
            self._gap(place, place.received, frame.after)
        self._take_in(place, frame, gap)
        if stepped_back and place.pulling is None and place.received < place.target:
            return self._pull(place)
        return None

    def answered(self, frame: Deliver, pull: Pull | None) -> Pull | None:
        """An answer came; to this Pull, if somebody still waited for it. The next one is to be sent if it was
        ours, and there is more.

        A part of a ring that the application read is taken in as well if it goes on where we are: the gateway
        does not tell us of what we have pulled.
        """
        place = self._places.get(LogKey(frame.address, frame.lane))
        if place is None:
            return None
        gap = frame.gap and not (place.ring and _is_lost_before(frame, pull))
        goes_on = frame.epoch == place.epoch and frame.after <= place.received
        if pull is None or place.pulling is not pull:
            if place.ring and goes_on and not self._full:
                self._take_in(place, frame, gap)
            elif place.ring and goes_on:
                self._let_lie(place, frame.upto)
            return None
        place.pulling = None
        if self._full and place.ring:
            self._let_lie(place, frame.upto if goes_on else 0)
            return None
        asked = pull.after
        if frame.epoch != place.epoch:
            asked = frame.after
            self._restart(place, frame.epoch, asked)
        if frame.after > place.received:
            self._gap(place, place.received, frame.after)
            gap = False  # what is lost lies before this block
        self._take_in(place, frame, gap)
        if place.received >= place.target and not place.behind:
            return None
        if place.received > asked:
            return self._pull(place)
        # Nothing more is there.
        place.told = 0
        if place.target > place.received:  # and yet deliveries came from beyond: what is between is gone
            self._gap(place, place.received, place.target)
        return None

    def told(self, log: LogKey, epoch: int, head: int, after: int | None = None) -> bool:
        """A Notify says how far a log goes. True: we have not got so far.

        :param after: where we begin if we have not been here yet; None: with the last there is.
        """
        place = self._places.get(log)
        if place is None:
            place = self._places[log] = Place(log, epoch, max(0, head - 1) if after is None else after)
            place.begun = place.received
        if epoch != place.told_epoch or head > place.told:
            place.told, place.told_epoch = head, epoch
        return place.behind

    def catch_up(self, log: LogKey) -> Pull | None:
        """The Pull that a Notify asks for, unless one is out: that came after the Notify was sent."""
        place = self._places.get(log)
        if place is None or place.pulling is not None:
            return None
        return self._pull(place)

    def lying(self) -> Pull | None:
        """The next Pull for what was let lie, when there is room."""
        while self._lying and not self._full:
            log = next(iter(self._lying))
            del self._lying[log]
            pull = self.catch_up(log)
            if pull is not None:
                return pull
        return None

    def epoch_of(self, log: LogKey) -> int:
        place = self._places.get(log)
        return place.epoch if place is not None else 0

    def refused(self, pull: Pull) -> None:
        """A hole in this log cannot be filled on this link: it is told as a gap instead."""
        place = self._places.get(LogKey(pull.address, pull.lane))
        if place is not None and place.pulling is pull:
            place.pulling = None
            place.told = 0
            place.unpullable = True
            if place.target > place.received:
                self._gap(place, place.received, place.target)

    def _take_in(self, place: Place, frame: Deliver, gap: bool) -> None:
        upto = frame.upto
        if upto <= place.received:
            return
        if gap:
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

    def _come_again(self, place: Place, frame: Deliver) -> None:
        """The first delivery since we left a room of this area. If it goes on where we were, we were in the
        area by another room; if it begins beyond, we were out of it, unless we know of something there."""
        place.left = False
        behind = place.behind or place.pulling is not None or place.target > place.received
        if frame.after > place.received and not frame.gap and not behind:
            self._reach(place, frame.after)

    def _overtaken(self, place: Place, frame: Deliver) -> bool:
        """A Notify had us begin behind this delivery, which was on its way. Past its turn it is a gap.

        True: we stepped back to where it begins. What lies between its end and where we began was overtaken
        as well: it is asked for from here on, for the answer to the Pull that is out begins beyond it.
        """
        if place.received != place.begun:
            if frame.entries or frame.gap:
                self._gap(place, frame.after, frame.upto, moves=False)
            return False
        if (frame.upto < place.begun or self._full) and not place.unpullable:
            place.pulling, place.target = None, max(place.target, place.begun)
        place.received, place.begun = frame.after, 0
        return True

    def _let_lie(self, place: Place, upto: int) -> None:
        place.target = max(place.target, upto)
        self._lying[place.log] = None

    def _pull(self, place: Place) -> Pull:
        log = place.log
        self._lying.pop(log, None)
        place.pulling = Pull(log.address, log.lane, place.epoch, place.received, PULL_LIMIT)
        return place.pulling

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
        place.pulling, place.target, place.begun = None, 0, 0
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
        if item.loose:
            self._loose += 1
            self._loose_bytes += item.cost
            self._full = self._full or self._loose >= MOST_ITEMS or self._loose_bytes >= MOST_BYTES
        if item.place is not None:
            item.place.tail = item

    def _moved(self, place: Place) -> None:
        if place.log.address.kind in DURABLE_KINDS and self._places.get(place.log) is place:
            self.moved[place.log] = place

    # ------------------------------------------------------------------------------------- application

    def next(self) -> Item | None:
        """The next to show; show it, then `take` it, before the one after it is asked for."""
        if not self._queue:
            return None
        item = self._queue.popleft()
        if item.loose:
            self._loose -= 1
            self._loose_bytes -= item.cost
            if self._loose <= MOST_ITEMS // 2 and self._loose_bytes <= MOST_BYTES // 2:
                self._full = False
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


def _is_lost_before(frame: Deliver, pull: Pull | None) -> bool:
    """Whether what a block of a ring lacks lies before it: it begins beyond the place that was asked for. One
    without messages may stand for some that cannot be said to us."""
    if pull is None or not frame.entries:
        return False
    return frame.after > (pull.after if pull.epoch in (0, frame.epoch) else 0)
