"""Deliveries as PUBLISH packets, and their PUBACKs, in any order, as acknowledgements of what is complete."""

from __future__ import annotations

from base64 import b64decode
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

from google.protobuf.message import DecodeError

from imgateway.frames import DURABLE_KINDS, RING_KINDS, Address, Deliver, Entry
from imgateway.protocols.mqtt.packets import length, text
from imgateway.protocols.mqtt.properties import Property, written
from imgateway.protocols.mqtt.publishing import CORRELATION, FORMAT, OURS, RESPONSE_TOPIC, RETAIN, THEIRS
from imgateway.protocols.mqtt.record import Subscription
from imgateway.protocols.mqtt.topics import has_wildcards, topic_of
from imgateway.wire import imgateway_pb2 as pb

__all__ = ("Outbox", "Track")

UNKNOWN = Subscription(1)
"""Of whatever comes without having been subscribed to."""


_MSG_ID = bytes((Property.USER,)) + text(OURS + "msg_id")
_FIRST = tuple(bytes((0x30 | flags,)) for flags in range(4))


class Track:
    """What was sent of one log at QoS 1 and is not acknowledged: (packet id, how far that goes), in order."""

    __slots__ = ("address", "done", "epoch", "followed", "order", "upto")

    def __init__(self, address: Address, epoch: int) -> None:
        self.address = address
        self.epoch = epoch
        self.upto = 0
        self.followed = True
        self.order: deque[tuple[int, int]] = deque()
        self.done: set[int] = set()

    def acked(self, packet_id: int) -> bool:
        """Whether everything up to a higher `upto` is acknowledged now."""
        order, done = self.order, self.done
        if not order:
            return False
        first, upto = order[0]
        if first != packet_id:
            done.add(packet_id)
            return False
        del order[0]
        self.upto = upto
        while done and order and order[0][0] in done:
            done.remove(order[0][0])
            self.upto = order.popleft()[1]
        return True


class Outbox:
    """Gives deliveries their packets and packet ids.

    :param version: 4 or 5. :param max_bytes: the largest packet that the client takes; 0: any.

    :ivar loose: packet ids in flight that the core does not wait for any more, because the client has
        unsubscribed from what they came from. It still has them, and they count until it acknowledges them.
    """

    __slots__ = ("_flights", "_max_bytes", "_next", "_shown", "_tracks", "_v5", "loose")

    def __init__(self, version: int, max_bytes: int) -> None:
        self._v5 = version == 5
        self._max_bytes = max_bytes
        self._next = 0
        self.loose = 0
        self._tracks: dict[Address, Track] = {}
        self._flights: dict[int, Track] = {}
        # How far the client has got in rings, by address and lane: (epoch, seq). What many get may begin
        # before that.
        self._shown: dict[tuple[Address, int], tuple[int, int]] = {}

    def begin(self, address: Address, lane: int, epoch: int, position: int) -> None:
        """The client gets what comes after this."""
        if address.kind in RING_KINDS:
            self._shown[address, lane] = (epoch, position)

    def mail(
        self, address: Address, epoch: int, after: int, messages: Sequence[bytes], ident: int
    ) -> bytes | None:
        """`said` for the usual mail, of which the client wants all as it is. None: there is more to think of,
        and nothing was done.

        :param ident: of the subscription.
        """
        topic, flights, number, v5 = _topic(address), self._flights, self._next, self._v5
        sent: list[tuple[int, int]] = []
        parts: list[bytes] = []
        read, seq = pb.Message.FromString, after
        try:
            for data in messages:
                seq += 1
                message = read(data)
                if message.expires_ms:
                    return None
                number = number % 65_535 + 1
                while number in flights:
                    number = number % 65_535 + 1
                about, body = _properties(message, ident, 0) if v5 else b"", message.body
                size = len(topic) + 2 + len(about) + len(body)
                if 0 < self._max_bytes < size + 5:  # or nearly
                    return None
                sent.append((number, seq))
                parts += (_head(2, size), topic, number.to_bytes(2), about, body)
        except (DecodeError, ValueError):
            return None
        self._next = number
        self._expect(address, epoch, sent)
        return b"".join(parts)

    def said(
        self, deliver: Deliver, subscription: Subscription, me: tuple[str, str], retained: int, now_ms: int
    ) -> bytes | None:
        """A packet an entry; b"" if there is nothing to say; None if one of them cannot be said.

        :param me: user and device, for subscriptions that do not want their own.
        :param retained: the seq of what was there when the client subscribed; 0: none.
        """
        address, kind = deliver.address, deliver.address.kind
        tracked = bool(deliver.upto and subscription.qos and kind in DURABLE_KINDS)
        ring = deliver.upto > 0 and kind in RING_KINDS
        picky = subscription.no_local or subscription.as_published
        same_for_all = not (tracked or subscription.no_local)
        topic = _topic(address)
        sent: list[tuple[int, int]] = []
        parts: list[bytes] = []
        try:
            for entry in self._unseen(deliver) if ring else deliver.entries:
                is_old = 0 < retained == entry.seq
                part = b""
                if same_for_all and not is_old:
                    part = _shared(self._v5, topic, subscription, entry.message)
                if not part:
                    message = pb.Message.FromString(entry.message)
                    odd = picky or is_old or message.expires_ms
                    if odd and _is_unwanted(message, subscription, me, is_old, now_ms):
                        continue
                    number = self._packet_id() if tracked else 0
                    sent.append((number, entry.seq))
                    flags = 2 if tracked else 0
                    if odd:
                        flags |= is_old or _keeps_flag(message, subscription)
                    about = _properties(message, subscription.ident, now_ms) if self._v5 else b""
                    part = _publish(flags, topic, number, about, message.body)
                if 0 < self._max_bytes < len(part):
                    return None
                parts.append(part)
        except (DecodeError, ValueError):
            return None
        if tracked and sent:
            sent[-1] = (sent[-1][0], deliver.upto)
            self._expect(address, deliver.epoch, sent)
        if ring:
            self._shown[address, deliver.lane] = (deliver.epoch, deliver.upto)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def acked(self, packet_id: int) -> Track | None:
        """The client has it: the track that went on by this, if one did, or that was let go."""
        return next(iter(self.all_acked((packet_id,))), None)

    def all_acked(self, packet_ids: Sequence[int]) -> dict[Track, None]:
        """The client has these: the tracks that went on by that, or that were let go."""
        flights = self._flights
        gone_on: dict[Track, None] = {}
        for packet_id in packet_ids:
            track = flights.pop(packet_id, None)
            if track is None:
                continue
            if not track.followed:
                self.loose -= 1
                gone_on[track] = None
            elif track.acked(packet_id):
                gone_on[track] = None
        return gone_on

    def forget(self, address: Address) -> None:
        """The client gets nothing more from this ring."""
        for key in [one for one in self._shown if one[0] == address]:
            del self._shown[key]

    def let_go(self, address: Address) -> None:
        """Nobody waits for acknowledgements of what the client has been sent from there."""
        track = self._tracks.pop(address, None)
        if track is not None:
            track.followed = False
            self.loose += len(track.order) - len(track.done)
            track.order.clear()

    def _unseen(self, deliver: Deliver) -> tuple[Entry, ...]:
        epoch, seq = self._shown.get((deliver.address, deliver.lane), (0, 0))
        if seq <= deliver.after or epoch != deliver.epoch:
            return deliver.entries
        return tuple([entry for entry in deliver.entries if entry.seq > seq])

    def _packet_id(self) -> int:
        number = self._next
        while True:
            number = number % 65_535 + 1
            if number not in self._flights:
                self._next = number
                return number

    def _expect(self, address: Address, epoch: int, sent: list[tuple[int, int]]) -> None:
        track = self._tracks.get(address)
        if track is None or track.epoch != epoch:
            track = self._tracks[address] = Track(address, epoch)
        for number, _ in sent:
            self._flights[number] = track
        track.order.extend(sent)


@lru_cache(maxsize=4096)
def _topic(address: Address) -> bytes:
    return text(topic_of(address))


def _publish(flags: int, topic: bytes, packet_id: int, about: bytes, body: bytes) -> bytes:
    if packet_id:
        topic += packet_id.to_bytes(2)
    return b"".join((_head(flags, len(topic) + len(about) + len(body)), topic, about, body))


@lru_cache(maxsize=4096)
def _head(flags: int, size: int) -> bytes:
    return _FIRST[flags] + length(size)


@lru_cache(maxsize=64)
def _shared(v5: bool, topic: bytes, subscription: Subscription, data: bytes) -> bytes:
    """The packet of an entry that many get at QoS 0; b"": it differs by receiver or by time."""
    message = pb.Message.FromString(data)
    if message.expires_ms:
        return b""
    about = _properties(message, subscription.ident, 0) if v5 else b""
    return _publish(_keeps_flag(message, subscription), topic, 0, about, message.body)


def _keeps_flag(message: pb.Message, subscription: Subscription) -> int:
    """RETAIN as it was published, for who wants that."""
    return subscription.as_published and RETAIN in message.headers


def _is_unwanted(
    message: pb.Message, subscription: Subscription, me: tuple[str, str], is_old: bool, now_ms: int
) -> bool:
    """What a client asked not to be sent, a retained message that was taken back, what has expired."""
    return (
        (subscription.no_local and (message.sender, message.device) == me)
        or (is_old and not message.body)
        or 0 < message.expires_ms <= now_ms
    )


def _properties(message: pb.Message, ident: int, now_ms: int) -> bytes:
    """:raises ValueError: MQTT cannot carry one of them."""
    parts: list[bytes] = []
    if message.headers:
        for name, value in sorted(message.headers.items()):
            if name.startswith(THEIRS):
                parts.append(_known(name, value))
            elif not name.startswith(OURS):
                parts.append(written(Property.USER, (name, value)))
    if message.expires_ms:
        left_s = (message.expires_ms - now_ms + 999) // 1000
        parts.append(written(Property.MESSAGE_EXPIRY, min(left_s, 0xFFFF_FFFF)))
    if message.content_type:
        parts.append(written(Property.CONTENT_TYPE, message.content_type))
    if ident:
        parts.append(written(Property.SUBSCRIPTION_ID, ident))
    parts += (_origin(message.sender, message.device), _MSG_ID, text(message.msg_id))
    about = b"".join(parts)
    return length(len(about)) + about


def _known(name: str, value: str) -> bytes:
    if name == RESPONSE_TOPIC and value and not has_wildcards(value):
        return written(Property.RESPONSE_TOPIC, value)
    if name == CORRELATION:
        return written(Property.CORRELATION, b64decode(value, b"-_", validate=True))
    return written(Property.PAYLOAD_FORMAT, 1) if name == FORMAT else b""


@lru_cache(maxsize=4096)
def _origin(sender: str, device: str) -> bytes:
    pairs = [(OURS + "sender", sender)] + ([(OURS + "device", device)] if device else [])
    return b"".join([written(Property.USER, pair) for pair in pairs])
