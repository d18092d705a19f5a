"""What an MQTT session remembers over its connections, and when that is written."""

from __future__ import annotations

from collections.abc import Callable

from imgateway.frames import FOLLOWED_KINDS, Address, Frame, Keep
from imgateway.protocols.mqtt.inbox import Inbox
from imgateway.protocols.mqtt.minting import Mint
from imgateway.protocols.mqtt.record import FOREVER, Record
from imgateway.protocols.mqtt.subscribing import Subscriptions
from imgateway.protocols.mqtt.topics import address_of, topic_of

__all__ = ("Memory",)


class Memory:
    """:param draw: gives a text that nobody else is given. :param wall_ms: Unix milliseconds.

    :ivar expiry_s: how long the session outlives its connection.
    :ivar is_resumed: the client finds the session that it left.
    """

    __slots__ = (
        "_draw",
        "_inbox",
        "_is_brief",
        "_old_ms",
        "_subscriptions",
        "_wall_ms",
        "expiry_s",
        "is_resumed",
    )

    def __init__(
        self,
        inbox: Inbox,
        subscriptions: Subscriptions,
        expiry_s: int,
        draw: Callable[[], str],
        wall_ms: Callable[[], int],
    ) -> None:
        self.expiry_s = expiry_s
        self.is_resumed = False
        # It ends with its connection, and nothing on the disk says that there is one which does not: whatever
        # is written of it, after a kill it is over.
        self._is_brief = not expiry_s
        self._inbox = inbox
        self._subscriptions = subscriptions
        self._draw = draw
        self._wall_ms = wall_ms
        self._old_ms = 0

    def restore(self, data: bytes, clean: bool) -> list[Frame | Keep]:
        """What an earlier connection left. With a clean start, and when it expired, it is undone."""
        old = Record.read(data)
        frames: list[Frame | Keep] = []
        if old is not None and not clean and not old.is_over(self._now_s()):
            self.is_resumed = True
            self._is_brief = False
            frames.append(Keep(data))  # it may not be on the disk yet, and now this connection relies on it
            self._inbox.mint = Mint(old.mint, old.runs, self._draw)
            self._inbox.unreleased = dict.fromkeys(old.unreleased)
            for topic, subscription in old.subscriptions.items():
                frames += self._subscriptions.again(address_of(topic), subscription)
            for topic in old.leaving:  # that connection ended before it was done
                frames += self._subscriptions.leave(address_of(topic))
        elif old is not None:
            # First that it is over: the client is told so, and may be gone before all of it is undone. An
            # older connection may have said so, and have gone before that was on the disk. One whose session
            # was to end with it has waited for that before it was welcome.
            if not old.is_over(self._now_s()):
                data = Record(1, subscriptions=old.subscriptions, leaving=old.leaving).written()
            if not old.is_brief:
                frames.append(Keep(data, before_welcome=True))
            for topic in (*old.subscriptions, *old.leaving):
                frames += self._subscriptions.leave(address_of(topic))
        is_same = self.is_resumed and old is not None and old.expiry_s == self.expiry_s == FOREVER
        if (self.expiry_s and not is_same) or (data and not self.expiry_s):
            frames.append(self.keep())
        return frames

    def undoes(self, data: bytes, is_over: bool) -> list[Address]:
        """What a session that is over followed, as far as it holds something back there. `is_over`: whatever
        the record says."""
        old = Record.read(data)
        if old is None or not (is_over or old.is_over(self._now_s())):
            return []
        addresses = map(address_of, (*old.subscriptions, *old.leaving))
        return [address for address in addresses if address.kind in FOLLOWED_KINDS]

    def goes_first(self) -> bool:
        """It must be kept before what the inbox gave goes on. A session that ends with its connection is sent
        no repeats later."""
        return self._inbox.is_changed and self.expiry_s > 0

    def is_due(self) -> bool:
        """The client is there: is it time to write something down?"""
        if self._subscriptions.is_changed:
            return True
        return self.expiry_s not in (0, FOREVER) and self.is_old()

    def is_old(self) -> bool:
        """Of a session that expires: it is long since it was written that the client is there."""
        return self._wall_ms() > self._old_ms

    def keep(self, reply: bytes | Callable[[], bytes] = b"") -> Keep:
        """All of it, as it is now. `reply`: what the client is told when it is on the disk."""
        subscriptions, mint = self._subscriptions, self._inbox.mint
        subscriptions.is_changed = self._inbox.is_changed = False
        record = Record(1, self.expiry_s, self._now_s(), mint.name, mint.runs)
        self._old_ms = (record.stamp_s + record.stamp_after_s()) * 1000
        relied_on = not self._is_brief
        if not (self.expiry_s or subscriptions.there or subscriptions.leaving):
            return Keep(b"", reply=reply, relied_on=relied_on)  # nothing to come back to, nothing to undo
        record.is_brief = self._is_brief
        record.unreleased = tuple(self._inbox.unreleased)
        record.subscriptions = {topic_of(address): one for address, one in subscriptions.there.items()}
        left = [address for address in subscriptions.leaving if address not in subscriptions.there]
        record.leaving = tuple(map(topic_of, left))
        return Keep(record.written(), reply=reply, relied_on=relied_on)

    def _now_s(self) -> int:
        return self._wall_ms() // 1000
