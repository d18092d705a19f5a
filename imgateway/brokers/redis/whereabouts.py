"""Where a primary is just now: at its address, or where the Sentinels say."""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    connectProtocol,
    wrapClientTLS,
)

from imgateway.brokers.redis.connection import Connection, RedisError
from imgateway.brokers.redis.urls import RedisUrl

__all__ = ("Whereabouts",)

CONNECT_S = 3.0


class Whereabouts:
    """Of one primary."""

    def __init__(self, url: RedisUrl, reactor: Any) -> None:
        self._url = url
        self._reactor = reactor
        self._sentinels = list(url.hosts) if url.sentinel else []

    async def connect(self) -> Connection:
        """:raises Exception: whatever kept it from being reached."""
        host, port = await self._ask_sentinels() if self._sentinels else self._url.hosts[0]
        connection = await self._connect(host, port, self._url.tls)
        connection.address = f"{host}:{port}"
        return connection

    async def _ask_sentinels(self) -> tuple[str, int]:
        """The first that knows it is asked first the next time."""
        why = ""
        for place in tuple(self._sentinels):
            host, port = place
            try:
                connection = await self._connect(host, port, False)
                late = TimeoutError(f"no answer within {CONNECT_S:g} s")
                deadline = self._reactor.callLater(CONNECT_S, connection.abort, late)
                try:
                    found = await connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._url.sentinel)
                finally:
                    if deadline.active():
                        deadline.cancel()
                    connection.abort()
            except Exception as problem:
                why = f"{host}:{port}: {problem}"
                continue
            if found is not None:
                self._sentinels.remove(place)
                self._sentinels.insert(0, place)
                return found[0].decode(), int(found[1])
            why = f"{host}:{port} knows no primary of that name"
        raise RedisError(f"NOSENTINEL no Sentinel says where {self._url.sentinel} is; {why}")

    async def _connect(self, host: str, port: int, tls: bool) -> Connection:
        connection: Connection = await connectProtocol(self._endpoint(host, port, tls), Connection())
        return connection

    def _endpoint(self, host: str, port: int, tls: bool) -> Any:
        kind: Any = HostnameEndpoint
        if isIPAddress(host):
            kind = TCP4ClientEndpoint
        elif isIPv6Address(host):
            kind = TCP6ClientEndpoint
        plain = kind(self._reactor, host, port, timeout=CONNECT_S)
        if not tls:
            return plain
        from twisted.internet.ssl import optionsForClientTLS  # brings pyOpenSSL

        return wrapClientTLS(optionsForClientTLS(host), plain)
