"""Token buckets: how often something may happen, with `now` given by the caller.

A bucket holds up to `burst` tokens and gains `rate` a second; rate 0 means no limit. Two floats and two
settings: a user's bucket is made when the user first sends and can be thrown away once `full`.
"""

from __future__ import annotations

__all__ = ("Few", "TokenBucket")

SLACK_S = 1e-6
"""What is missing for no longer than this counts as there: whoever sleeps exactly as long as told must not
find a rounding error instead of a token."""


class TokenBucket:
    """`rate` tokens a second up to `burst`; starts full.

    Times are seconds on any clock that does not run backwards.
    """

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, amount: float, now: float) -> bool:
        """Take `amount` tokens if they are there; an amount above `burst` passes when the bucket is full."""
        if not self.rate:
            return True
        tokens = self._tokens + (now - self._at) * self.rate
        self._tokens = tokens = min(tokens, self.burst)
        self._at = now
        if tokens < amount and min(amount, self.burst) - tokens > self.rate * SLACK_S:
            return False
        self._tokens = tokens - amount
        return True

    def charge(self, amount: float, now: float) -> float:
        """Take `amount` tokens even on credit; seconds until nothing is owed, 0.0 if nothing is."""
        if not self.rate:
            return 0.0
        self._tokens = min(self._tokens + (now - self._at) * self.rate, self.burst) - amount
        self._at = now
        return max(0.0, -self._tokens / self.rate)

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `take(amount)` will succeed, 0.0 if it would now."""
        if not self.rate:
            return 0.0
        tokens = min(self._tokens + (now - self._at) * self.rate, self.burst)
        missing = min(amount, self.burst) - tokens
        return missing / self.rate if missing > self.rate * SLACK_S else 0.0

    def full(self, now: float) -> bool:
        """Nothing taken is still owed: a new bucket would behave the same."""
        return not self.rate or self._tokens + (now - self._at) * self.rate >= self.burst


class Few:
    """Of what may happen any number of times, such as lines in a log that strangers cause: lets some pass,
    `rate` a second and up to `burst` at once, and counts the others."""

    __slots__ = ("_bucket", "_others")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._bucket = TokenBucket(rate, burst, now)
        self._others = 0

    def passes(self, now: float) -> int | None:
        """How many did not pass since the last one that did; None: nor does this one."""
        if not self._bucket.take(1, now):
            self._others += 1
            return None
        others, self._others = self._others, 0
        return others
