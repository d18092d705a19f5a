"""What one user may send, over all of its links: a reconnect or a second device refills nothing.

A user that sends nothing costs nothing: buckets are made at the first message and thrown away when they are
full again, for a new one would behave the same.
"""

from __future__ import annotations

from typing import Protocol

from imgateway.core.throttle import TokenBucket
from imgateway.frames import Address

__all__ = ("QuotaRates", "Quotas", "UserQuota")

# 5 publishes to 200 addresses at once still have a bucket each; a bucket is some 120 bytes.
MAX_PAIRS = 1024


class QuotaRates(Protocol):
    """Rates per second (0: no limit) and bursts; the quota section of the settings is one."""

    @property
    def publish_rate(self) -> float: ...
    @property
    def publish_burst(self) -> int: ...
    @property
    def publish_bytes_rate(self) -> float: ...
    @property
    def publish_bytes_burst(self) -> int: ...
    @property
    def pair_rate(self) -> float: ...
    @property
    def pair_burst(self) -> int: ...
    @property
    def request_rate(self) -> float: ...
    @property
    def request_burst(self) -> int: ...
    @property
    def subscribe_rate(self) -> float: ...
    @property
    def subscribe_burst(self) -> int: ...


class UserQuota:
    """One user's buckets. Ask `Quotas.of` for it each time: what is kept longer may have been replaced."""

    __slots__ = ("_bytes", "_pairs", "_publishes", "_rates", "_requests", "_subscribes")

    def __init__(self, rates: QuotaRates, now: float) -> None:
        self._rates = rates
        self._publishes = TokenBucket(rates.publish_rate, rates.publish_burst, now)
        self._bytes = TokenBucket(rates.publish_bytes_rate, rates.publish_bytes_burst, now)
        self._requests: TokenBucket | None = None
        self._subscribes: TokenBucket | None = None
        self._pairs: dict[Address, TokenBucket] | None = None  # the longest unused first

    def publish(self, size_bytes: int, now: float) -> float:
        """Count a publish; for how many seconds its link shall not be read from (0.0: within the quota).

        What is over the quota counts too: it was read already, and the wait is as long as it costs.
        """
        wait, bytes_wait = self._publishes.charge(1.0, now), self._bytes.charge(size_bytes, now)
        return wait if wait > bytes_wait else bytes_wait

    def pair(self, address: Address, now: float) -> float:
        """Count a message to `address`; seconds to wait, as `publish` says them."""
        rates = self._rates
        if not rates.pair_rate:
            return 0.0
        pairs = self._pairs
        if pairs is None:
            pairs = self._pairs = {}
        bucket = pairs.pop(address, None)
        if bucket is None:
            if len(pairs) >= MAX_PAIRS:
                self._forget_pairs(pairs, now)
            bucket = TokenBucket(rates.pair_rate, rates.pair_burst, now)
        pairs[address] = bucket
        return bucket.charge(1.0, now)

    def request(self, now: float) -> bool:
        """May this user make one more request? Counted if so."""
        bucket = self._requests
        if bucket is None:
            rates = self._rates
            bucket = self._requests = TokenBucket(rates.request_rate, rates.request_burst, now)
        return bucket.take(1.0, now)

    def subscribe(self, now: float) -> float:
        """Count a subscription; seconds to wait, as `publish` says them."""
        bucket = self._subscribes
        if bucket is None:
            rates = self._rates
            bucket = self._subscribes = TokenBucket(rates.subscribe_rate, rates.subscribe_burst, now)
        return bucket.charge(1.0, now)

    def full(self, now: float) -> bool:
        """Nothing that it counted still matters."""
        if not (self._publishes.full(now) and self._bytes.full(now)):
            return False
        for bucket in (self._requests, self._subscribes):
            if bucket is not None and not bucket.full(now):
                return False
        return all(bucket.full(now) for bucket in (self._pairs or {}).values())

    def set_rates(self, rates: QuotaRates) -> None:
        """Go on with other rates; what was used stays used, as far as the new burst reaches."""
        self._rates = rates
        changes = [
            (self._publishes, rates.publish_rate, rates.publish_burst),
            (self._bytes, rates.publish_bytes_rate, rates.publish_bytes_burst),
            *((bucket, rates.pair_rate, rates.pair_burst) for bucket in (self._pairs or {}).values()),
        ]
        if self._requests is not None:
            changes.append((self._requests, rates.request_rate, rates.request_burst))
        if self._subscribes is not None:
            changes.append((self._subscribes, rates.subscribe_rate, rates.subscribe_burst))
        for bucket, rate, burst in changes:
            bucket.rate, bucket.burst = rate, burst

    @staticmethod
    def _forget_pairs(pairs: dict[Address, TokenBucket], now: float) -> None:
        for address in [address for address, bucket in pairs.items() if bucket.full(now)]:
            del pairs[address]
        # Someone who writes to a thousand addresses in a burst: the total is bounded by the publish rate, and
        # refusing would punish the newest receiver. A quarter at once, so that this scan stays rare.
        if len(pairs) >= MAX_PAIRS:
            for address in list(pairs)[: MAX_PAIRS // 4]:
                del pairs[address]


class Quotas:
    """The quotas of all users of a process. Services are not asked about."""

    def __init__(self, rates: QuotaRates) -> None:
        self._rates = rates
        self._users: dict[str, UserQuota] = {}

    def __len__(self) -> int:
        return len(self._users)

    def of(self, user: str, now: float) -> UserQuota:
        """The user's quota, made full if there is none."""
        quota = self._users.get(user)
        if quota is None:
            quota = self._users[user] = UserQuota(self._rates, now)
        return quota

    def sweep(self, now: float, limit: int = 1000) -> int:
        """Look at up to `limit` users and forget the full ones; the next call goes on where this ended.

        :returns: how many were forgotten.
        """
        users, forgotten = self._users, 0
        for user in [user for user, _ in zip(users, range(limit), strict=False)]:
            quota = users.pop(user)
            if quota.full(now):
                forgotten += 1
            else:
                users[user] = quota  # to the end of the queue
        return forgotten

    def set_rates(self, rates: QuotaRates) -> None:
        """Use other rates from now on, for everybody."""
        self._rates = rates
        for quota in self._users.values():
            quota.set_rates(rates)
