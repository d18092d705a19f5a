"""Keeps to the rates that Welcome names, so that the gateway never has to stop reading us. Pure.

The buckets outlive links, as the gateway's own do: a reconnect refills nothing. A user with several devices
shares one quota among them, and no device knows of the others: then the gateway may still make us wait.
"""

from __future__ import annotations

from collections.abc import Callable

from imgateway.core.throttle import TokenBucket
from imgateway.frames import Address, Limits, Publish

__all__ = ("Pace", "Steady")

# Frames that left in step may arrive bunched: stay this far below what we are told.
SHARE = 0.95
MAX_PAIRS = 1_024


class Steady:
    """A clock that never runs back, whatever its source does; seconds."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._last = seconds()
        self._offset = 0.0

    def __call__(self) -> float:
        now = self._seconds()
        if now < self._last:
            self._offset += self._last - now
        self._last = now
        return now + self._offset


def _bucket(rate: float, burst: float, now: float) -> TokenBucket:
    return TokenBucket(rate * SHARE, max(1.0, burst * SHARE), now)


class Pace:
    """Token buckets for publishes, their bytes, the pairs (us, an address), requests and subscriptions."""

    def __init__(self, now: float) -> None:
        self._limits: Limits | None = None
        self._pairs: dict[Address, TokenBucket] = {}
        self.update(Limits(), now)

    def update(self, limits: Limits, now: float) -> None:
        """A Welcome came. The same limits as before leave the buckets as empty as they are."""
        if limits == self._limits:
            return
        self._limits = limits
        self._publishes = _bucket(limits.publish_rate, limits.publish_burst, now)
        # Welcome names no burst for bytes: a second's worth is within whatever it is.
        self._bytes = _bucket(limits.publish_bytes_rate, limits.publish_bytes_rate, now)
        self._requests = _bucket(limits.request_rate, limits.request_rate, now)
        self._subscribes = _bucket(limits.subscribe_rate, limits.subscribe_rate, now)
        self._pair_rate, self._pair_burst = limits.pair_rate, limits.pair_burst
        self._pairs.clear()

    def wait_s(self, publish: Publish, now: float) -> float:
        """Seconds until this one may go, 0.0 if it may now."""
        wait = max(self._publishes.wait_s(1, now), self._bytes.wait_s(len(publish.body), now))
        if self._pair_rate:
            for address in publish.to:
                pair = self._pairs.get(address)
                if pair is not None:
                    wait = max(wait, pair.wait_s(1, now))
        return wait

    def take(self, publish: Publish, now: float) -> None:
        """It goes."""
        self._publishes.take(1, now)
        self._bytes.take(len(publish.body), now)
        if self._pair_rate:
            for address in publish.to:
                self._pair(address, now).take(1, now)

    def request_wait_s(self, now: float) -> float:
        return self._requests.wait_s(1, now)

    def take_request(self, now: float) -> None:
        self._requests.take(1, now)

    def subscribe_wait_s(self, now: float) -> float:
        return self._subscribes.wait_s(1, now)

    def take_subscribe(self, now: float) -> None:
        self._subscribes.take(1, now)

    def _pair(self, address: Address, now: float) -> TokenBucket:
        pair = self._pairs.get(address)
        if pair is None:
            if len(self._pairs) >= MAX_PAIRS:
                # A full bucket says no more than a new one; if none is full, the one made first goes.
                spent = {key: kept for key, kept in self._pairs.items() if not kept.full(now)}
                if len(spent) >= MAX_PAIRS:
                    del spent[next(iter(spent))]
                self._pairs = spent
            pair = self._pairs[address] = _bucket(self._pair_rate, self._pair_burst, now)
        return pair
