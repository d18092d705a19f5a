"""The broker on Redis: logs, claims and rings on one or several primaries, for many nodes."""

from imgateway.brokers.redis.broker import RedisBroker, find_primaries

__all__ = ("RedisBroker", "find_primaries")
