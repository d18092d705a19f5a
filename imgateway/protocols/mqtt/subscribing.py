"""SUBSCRIBE and UNSUBSCRIBE: one packet has many topics, the core is asked for each, one packet answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from imgateway.errors import InvalidAddress
from imgateway.frames import FOLLOWED_KINDS, Address, Subscribe, Unsubscribe
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


_GONE = Subscription()
"""Stands for what is left."""


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

    def remembered(self) -> bytes:
        """What it asks for is on the disk: the packet, or b""."""
        self.missing -= 1
        return self.answer()


class Subscriptions:
    """What one client is subscribed to, and what it has asked and waits for.

    :ivar me: the address of its own mailbox.
    :ivar leaving: what it is subscribed to no more, where the device may still have a place: the core has not
        said that it took it away.
    :ivar put_off: what of the earlier connection's was refused, or could not be left, and why just now; None:
        for good.
    """

    __slots__ = (
        "_asked",
        "_before",
        "_held",
        "_retained",
        "_v5",
        "is_changed",
        "leaving",
        "me",
        "put_off",
        "there",
    )

    def __init__(self, version: int) -> None:
        self.me: Address | None = None
        self.there: dict[Address, Subscription] = {}
        self.leaving: dict[Address, None] = {}
        self.is_changed = False
        """`there` or `leaving` is not as it was when it was last remembered."""
        self._v5 = version == 5
        self._asked: dict[Address, deque[tuple[_Asked | None, int, Subscription]]] = {}
        # Of what is asked for anew: what the core has, or will be asked for again by itself.
        self._held: dict[Address, Subscription] = {}
        self._retained: dict[Address, int] = {}
        # While one packet's topics are asked for in turn: what the core knows of those that were there.
        self._before: dict[Address, Subscription] = {}
        self.put_off: dict[Address, Reason | None] = {}

    def how(self, address: Address) -> Subscription | None:
        """The subscription by which the core delivers from there; None: there is none."""
        return self._before.get(address) or self.there.get(address)

    def is_wanted(self, frame: object) -> bool:
        """It is not to subscribe to what the core has taken away since: that was its answer."""
        return not isinstance(frame, Subscribe) or frame.address in self.there

    def retained(self, address: Address) -> int:
        """The seq of the entry that was the newest when the client subscribed and asked for it; 0: none."""
        return self._retained.get(address, 0)

    # -------------------------------------------------------------------------------------------- the client

    def subscribe(self, data: bytes) -> Iterator[Subscribe | Callable[[], bytes]]:
        """SUBSCRIBE: first what to call when it is remembered, which may give the answer; then what to ask
        the core.

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
        asked.missing += 1
        yield asked.remembered
        for frame, subscription in frames:
            if self.is_wanted(frame):
                self._before[frame.address] = subscription
                yield frame
        self._before.clear()

    def _wanted(self, asked: _Asked, name: str, options: int, ident: int) -> Subscribe | None:
        qos, handling = options & 3, options >> 4 & 3
        if qos == 3 or handling == 3 or options >> 6 or (options > 3 and not self._v5):
            raise Broken("options that no subscription has")
        address = _filter(name)
        if isinstance(address, Reason):
            asked.codes.append(address)
            return None
        old = self.there.get(address)
        if old is None and (len(self.there) >= MOST or len(self.leaving) > MOST):
            asked.codes.append(Reason.QUOTA)
            return None
        granted = 1 if address == self.me else 0 if address.kind not in ("topic", "service") else min(qos, 1)
        asked.codes.append(granted)
        self.there[address] = Subscription(granted, bool(options & 4), bool(options & 8), ident)
        self.is_changed = True
        if address == self.me or address.kind == "all":
            return None  # comes without being asked for
        if old is not None and address not in self._asked:
            self._held[address] = old
        self._expect(address, asked, self.there[address])
        if old is not None:
            self._before.setdefault(address, old)
        wants_last = old is None and handling != 2
        if wants_last:
            self._retained[address] = -1
        return Subscribe(address, last=wants_last, acks=granted > 0)

    def unsubscribe(self, data: bytes) -> Iterator[Unsubscribe | Callable[[], bytes]]:
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
            if isinstance(address, Reason) or (old is None and address not in self.leaving):
                asked.codes.append(Reason.NO_SUBSCRIPTION)
                continue
            asked.codes.append(Reason.SUCCESS)
            self._retained.pop(address, None)
            self.put_off.pop(address, None)
            self.is_changed = True
            if address != self.me and address.kind != "all":
                self._expect(address, asked)
                if old is not None:
                    self._before[address] = old
                self._leaves(address)
                frames.append(Unsubscribe(address))
        asked.missing += 1
        yield asked.remembered
        # Topics wait for the store, and if the link is lost meanwhile nobody else leaves the rooms.
        yield from sorted(frames, key=lambda frame: frame.address.kind != "room")
        self._before.clear()

    def again(self, address: Address, subscription: Subscription) -> tuple[Subscribe, ...]:
        """It was subscribed to in an earlier connection of this session."""
        self.there[address] = subscription
        if address.kind in BY_ITSELF:
            return ()
        self._expect(address, None, subscription)
        return (Subscribe(address, acks=subscription.qos > 0),)

    def retry(self) -> Iterator[Subscribe | Unsubscribe]:
        """What of the earlier connection's was refused: it is asked for again, or given up. So is what could
        not be left. Once one of them cannot be done just now the others wait on, so that a crowd does not ask
        a busy store for all.
        """
        for address in tuple(self.put_off):
            if address not in self.put_off:
                continue  # the client has unsubscribed meanwhile
            del self.put_off[address]
            if address in self.there:
                yield from self.again(address, self.there[address])
            elif address in self.leaving:
                yield from self.leave(address)
            if self.put_off.get(address) is Reason.UNSPECIFIED:
                return

    def leave(self, address: Address) -> tuple[Unsubscribe, ...]:
        """It was subscribed to in a session that is over; or it was to be left, and the core has not said
        so."""
        if address.kind in BY_ITSELF:
            return ()
        self._leaves(address)
        self._expect(address, None)
        return (Unsubscribe(address),)

    def _leaves(self, address: Address) -> None:
        if address.kind in FOLLOWED_KINDS:  # there a place holds back what goes with time
            self.leaving[address] = None

    def _expect(self, address: Address, asked: _Asked | None, subscription: Subscription = _GONE) -> None:
        if asked is not None:
            asked.missing += 1
        index = len(asked.codes) - 1 if asked else 0
        self._asked.setdefault(address, deque()).append((asked, index, subscription))

    # ---------------------------------------------------------------------------------------------- the core

    def subscribed(self, address: Address, head: int, anew: bool) -> bytes:
        """The core has put it there; not `anew`: where it was before."""
        retained = self._retained.get(address)
        if retained is not None and anew:
            self._retained[address] = head
        elif retained == -1:
            del self._retained[address]
        if self._is_last(address):
            self.leaving.pop(address, None)
        else:
            self._held[address] = self._asked[address][0][2]
        return self._answered(address, None)

    def unsubscribed(self, address: Address, wanted: bool) -> bytes:
        """The core took it away, because the client `wanted` it or not."""
        self._held.pop(address, None)
        if wanted:
            if address in self.leaving and self._is_last(address):
                del self.leaving[address]
                self.is_changed = True
            return self._answered(address, None)
        # Who asks to be in a room that the business took it out of hears this as well.
        return self.refused(address, Reason.NOT_AUTHORIZED)

    def refused(self, address: Address, reason: Reason, is_final: bool = True) -> bytes:
        """The core will not, or (not `is_final`) cannot just now. What was there stays as it was, unless it
        was to be made again, and will not be."""
        waiting = self._asked.get(address)
        is_unasked = waiting is not None and waiting[0][0] is None
        if is_unasked or address in self.put_off:
            self.put_off[address] = None if is_final else reason
        if is_unasked and not is_final:
            # The client has not asked in this connection: it is not told, and counts on it.
            if not self._is_last(address):
                self._held[address] = self._asked[address][0][2]
            return self._answered(address, None)
        if self._is_last(address):
            is_given_up = self.put_off.get(address, reason) is None
            if address in self._held and not is_given_up:
                self.there[address] = self._held[address]
                self.is_changed = True
            elif self.there.pop(address, None) is not None:
                self.is_changed = True
                self._retained.pop(address, None)
            if is_given_up:
                self._leaves(address)
        return self._answered(address, reason)

    def not_left(self, address: Address, reason: Reason) -> bytes:
        """The core cannot take it away just now; it sends nothing more from there."""
        self._held.pop(address, None)
        if address in self.leaving and self._is_last(address):
            self.put_off[address] = reason
        return self._answered(address, reason)

    def _is_last(self, address: Address) -> bool:
        """Nothing was asked about it since what is being answered; else the answer to that decides."""
        waiting = self._asked.get(address)
        return waiting is None or len(waiting) == 1

    def _answered(self, address: Address, code: Reason | None) -> bytes:
        waiting = self._asked.get(address)
        if not waiting:
            return b""  # nobody asked
        asked, index, _ = waiting.popleft()
        if not waiting:
            del self._asked[address]
            self._held.pop(address, None)
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
