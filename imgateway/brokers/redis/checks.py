"""What a Redis must be like before messages are trusted to it."""

from __future__ import annotations

from imgateway.brokers.redis.connection import Connection, RedisError
from imgateway.errors import StoreError

__all__ = ("check_server",)

REPLICA_VERSION = (7, 2)
KEPT_OUT = {
    "DENIED": "it has no password, and in protected mode lets in nobody from another address: set "
    "requirepass there, and put the password into a file that redis.password_file names",
    "NOAUTH": "it wants a password: put that into a file that redis.password_file names",
}
"""Answers of a server that says nothing to us at all."""


async def check_server(
    connection: Connection, name: str, *, logs: bool, to_replica: bool, unsafe: bool
) -> bool:
    """Ask the server how it is set.

    :param logs: it keeps what was acknowledged; else only rings.
    :param to_replica: an answer waits for a replica's disk.
    :param unsafe: pass over what may lose something.
    :returns: a restart loses nothing.
    :raises StoreError: it is not as it must be, with the line that mends it.
    """
    if to_replica and logs:
        version = _field(await connection.ask("INFO", "server"), "redis_version")
        if tuple(int(part) for part in version.split(".")[:2]) < REPLICA_VERSION:
            raise StoreError(
                f'redis {name}: redis.ack = "replica" needs Redis 7.2 (WAITAOF) and this is {version}: '
                'upgrade it, or set redis.ack = "local"'
            )
    try:
        policy = await _setting(connection, "maxmemory-policy")
        appendonly = await _setting(connection, "appendonly")
        appendfsync = await _setting(connection, "appendfsync")
    except RedisError as problem:
        if problem.code in KEPT_OUT:
            raise StoreError(f"redis {name}: {problem.code}: {KEPT_OUT[problem.code]}") from None
        if unsafe:
            return False
        raise StoreError(
            f"redis {name}: cannot ask how it is set ({problem}): let this user run CONFIG GET, or set "
            "redis.unsafe = true if it evicts nothing and has appendfsync always"
        ) from None
    is_lossless = appendonly == "yes" and appendfsync == "always"
    if not unsafe:
        if policy != "noeviction":
            what = f"maxmemory-policy is {policy}, which throws messages away"
            raise StoreError(_line(name, what, "maxmemory-policy noeviction"))
        if logs and not is_lossless:
            fsync = f"appendfsync is {appendfsync}: what was acknowledged may be lost with the power"
            what = fsync if appendonly == "yes" else "it keeps nothing over a restart"
            raise StoreError(_line(name, what, "appendonly yes appendfsync always"))
    return is_lossless


def _line(name: str, what: str, settings: str) -> str:
    return (
        f"redis {name}: {what}: CONFIG SET {settings}, and the same in redis.conf (or start with "
        "--redis-unsafe)"
    )


async def _setting(connection: Connection, name: str) -> str:
    reply = await connection.ask("CONFIG", "GET", name)
    value: str = reply[1].decode()
    return value


def _field(info: bytes, name: str) -> str:
    for line in info.decode().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value
    return "0"
