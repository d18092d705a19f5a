"""SUBSCRIBE and UNSUBSCRIBE: one packet has many topics, the core is asked for each, one packet answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from imgateway.errors import InvalidAddress
from imgateway.frames import Address, Subscribe, Unsubscribe
from imgateway.protocols.mqtt.packets import Body, Packet, packet
from imgateway.protocols.mqtt.properties import NONE, Property, read
from imgateway.protocols.mqtt.reasons import Broken, Reason
from imgateway.protocols.mqtt.record import Subscription
from imgateway.protocols.mqtt.topics import address_of, has_wildcards

__all__ = ("Subscriptions",)

FAILED_3 = 0x80
"""What 3.1.1 says of every subscription that is refused."""
MOST = 1_000
"""Subscriptions of one session. The node has limits of its own; but what a packet asks for is remembered
before the node has answered."""


BY_ITSELF = ("user", "all")
"""What comes without being asked for, of what a client may subscribe to: its own mailbox, everyone's log."""


class _Asked:
    """One SUBSCRIBE or UNSUBSCRIBE and what is known of its answer."""

    __slots__ = ("codes", "kind", "missing", "packet_id", "v5")

    def __init__(self, kind: Packet, packet_id: int, v5: bool) -> None:
        self.kind = kind
        self.packet_id = packet_id
        self.v5 = v5
        self.codes: list[int] = []
        self.missing = 0

    def answer(self) -> bytes:
        """The packet; b"": something is missing yet."""
        if self.missing:
            return b""
        number = self.packet_id.to_bytes(2) + (b"\0" if self.v5 else b"")
        if self.kind is Packet.UNSUBACK and not self.v5:
            return packet(self.kind, number)
        codes = [code if self.v5 or code < FAILED_3 else FAILED_3 for code in self.codes]
        return packet(self.kind, number, bytes(codes))


class Subscriptions:
    """What one client is subscribed to, and what it has asked and waits for.

    :ivar me: the address of its own mailbox.
    :ivar put_off: what of the earlier connection's was refused, and why just now; None: for good.
    """

    __slots__ = ("_asked", "_before", "_retained", "_v5", "is_changed", "me", "put_off", "there")

    def __init__(self, version: int) -> None:
        self.me: Address | None = None
        self.there: dict[Address, Subscription] = {}
        self.is_changed = False
        """`there` is not as it was when it was last remembered."""
        self._v5 = version == 5
        self._asked: dict[Address, deque[tuple[_Asked | None, int]]] = {}
        self._retained: dict[Address, int] = {}
        # While one packet's topics are asked for in turn: what the core knows of those that were there.
        self._before: dict[Address, Subscription] = {}
        self.put_off: dict[Address, Reason | None] = {}

    def how(self, address: Address) -> Subscription | None:
        """The subscription by which the core delivers from there; None: there is none."""
        return self._before.get(address) or self.there.get(address)

    def retained(self, address: Address) -> int:
        """The seq of the entry that was the newest when the client subscribed and asked for it; 0: none."""
        return self._retained.get(address, 0)

    # -------------------------------------------------------------------------------------------- the client

    def subscribe(self, data: bytes) -> Iterator[Subscribe | bytes]:
        """SUBSCRIBE: what to ask the core, and the answer where it need not be asked.

        :raises Broken: it is none.
        """
        body = Body(data)
        asked = _Asked(Packet.SUBACK, body.packet_id(), self._v5)
        properties = read(body, Packet.SUBSCRIBE) if self._v5 else NONE
        ident = properties.get(Property.SUBSCRIPTION_ID, 0)
        frames: list[tuple[Subscribe, Subscription]] = []
        if not body.more():
            raise Broken("it subscribes to nothing", Reason.PROTOCOL_ERROR)
        while body.more():
            name = body.text()
            frame = self._wanted(asked, name, body.byte(), ident)
            if frame is not None:
                frames.append((frame, self.there[frame.address]))
        for frame, subscription in frames:
            self._before[frame.address] = subscription
            yield frame
        self._before.clear()
        if not frames:
            yield asked.answer()

    def _wanted(self, asked: _Asked, name: str, options: int, ident: int) -> Subscribe | None:
        qos, handling = options & 3, options >> 4 & 3
        if qos == 3 or handling == 3 or options >> 6 or (options > 3 and not self._v5):
            raise Broken("options that no subscription has")
        address = _filter(name)
        if isinstance(address, Reason):
            asked.codes.append(address)
            return None
        old = self.there.get(address)
        if old is None and len(self.there) >= MOST:
            asked.codes.append(Reason.QUOTA)
            return None
        granted = 1 if address == self.me else 0 if address.kind not in ("topic", "service") else min(qos, 1)
        asked.codes.append(granted)
        self.there[address] = Subscription(granted, bool(options & 4), bool(options & 8), ident)
        self.is_changed = True
        if address == self.me or address.kind == "all":
            return None  # comes without being asked for
        self._expect(address, asked)
        if old is not None:
            self._before.setdefault(address, old)
        wants_last = old is None and handling != 2
        if wants_last:
            self._retained[address] = -1
        return Subscribe(address, last=wants_last, acks=granted > 0)

    def unsubscribe(self, data: bytes) -> Iterator[Unsubscribe | bytes]:
        """UNSUBSCRIBE, likewise."""
        body = Body(data)
        asked = _Asked(Packet.UNSUBACK, body.packet_id(), self._v5)
        if self._v5:
            read(body, Packet.UNSUBSCRIBE)
        frames: list[Unsubscribe] = []
        if not body.more():
            raise Broken("it unsubscribes from nothing", Reason.PROTOCOL_ERROR)
        while body.more():
            address = _filter(body.text())
            old = None if isinstance(address, Reason) else self.there.pop(address, None)
            if old is None or isinstance(address, Reason):
                asked.codes.append(Reason.NO_SUBSCRIPTION)
                continue
            asked.codes.append(Reason.SUCCESS)
            self._retained.pop(address, None)
            self.put_off.pop(address, None)
            self.is_changed = True
            if address != self.me and address.kind != "all":
                self._expect(address, asked)
                self._before[address] = old
                frames.append(Unsubscribe(address))
        yield from frames
        self._before.clear()
        if not frames:
            yield asked.answer()

    def again(self, address: Address, subscription: Subscription) -> tuple[Subscribe, ...]:
        """It was subscribed to in an earlier connection of this session."""
        self.there[address] = subscription
        if address.kind in BY_ITSELF:
            return ()
        self._expect(address, None)
        return (Subscribe(address, acks=subscription.qos > 0),)

    def retry(self) -> Iterator[Subscribe | Unsubscribe]:
        """What of the earlier connection's was refused: it is asked for again, or given up. Once one of them
        cannot be had just now the others wait on, so that a crowd does not ask a busy store for all.

        What the client asked for as well, and was told that it cannot be just now, waits for its client: the
        place that the device has there is kept.
        """
        for address in tuple(self.put_off):
            if address not in self.put_off:
                continue  # the client has unsubscribed meanwhile
            why = self.put_off.pop(address)
            if address in self.there:
                yield from self.again(address, self.there[address])
                if self.put_off.get(address) is Reason.UNSPECIFIED:
                    return
            elif why is None and address.kind != "room":
                # There the device had a place, which holds back what goes with time.
                yield from self.no_more(address)

    def no_more(self, address: Address) -> tuple[Unsubscribe, ...]:
        """It was subscribed to in a session that is over."""
        if address.kind in BY_ITSELF:
            return ()
        self._expect(address, None)
        return (Unsubscribe(address),)

    def _expect(self, address: Address, asked: _Asked | None) -> None:
        if asked is not None:
            asked.missing += 1
        self._asked.setdefault(address, deque()).append((asked, len(asked.codes) - 1 if asked else 0))

    # ---------------------------------------------------------------------------------------------- the core

    def subscribed(self, address: Address, head: int) -> bytes:
        """The core has put it there."""
        if self._retained.get(address) == -1:
            self._retained[address] = head
        return self._answered(address, None)

    def unsubscribed(self, address: Address, wanted: bool) -> bytes:
        """The core took it away, because the client `wanted` it or not."""
        if wanted:
            return self._answered(address, None)
        # Who asks to be in a room that the business took it out of hears this as well.
        return self.refused(address, Reason.NOT_AUTHORIZED)

    def refused(self, address: Address, reason: Reason, is_final: bool = True) -> bytes:
        """The core will not, or (not `is_final`) cannot just now."""
        waiting = self._asked.get(address)
        is_unasked = waiting is not None and waiting[0][0] is None
        if is_unasked or address in self.put_off:
            self.put_off[address] = None if is_final else reason
        if is_unasked and not is_final:
            # The client has not asked in this connection: it is not told, and counts on it.
            return self._answered(address, None)
        if self.there.pop(address, None) is not None:
            self.is_changed = True
        self._retained.pop(address, None)
        return self._answered(address, reason)

    def not_left(self, address: Address, reason: Reason) -> bytes:
        """The core cannot take it away just now."""
        return self._answered(address, reason)

    def _answered(self, address: Address, code: Reason | None) -> bytes:
        waiting = self._asked.get(address)
        if not waiting:
            return b""  # nobody asked
        asked, index = waiting.popleft()
        if not waiting:
            del self._asked[address]
        if asked is None:
            return b""
        if code is not None:
            asked.codes[index] = code
        asked.missing -= 1
        return asked.answer()


def _filter(name: str) -> Address | Reason:
    """The address of a topic filter, or why there is none."""
    if not name:
        raise Broken("a topic of length 0", Reason.PROTOCOL_ERROR)
    if name.startswith("$share/"):
        return Reason.SHARED
    if has_wildcards(name):
        return Reason.WILDCARDS
    try:
        return address_of(name)
    except InvalidAddress:
        return Reason.FILTER_INVALID
