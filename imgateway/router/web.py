"""The sockets of the API: `twisted.web.http`, bounded in every direction.

A request must have arrived within ``router.timeout_s`` of its first byte, from who may push within
``router.tasks_timeout_s``; a connection that asks nothing for as long is closed, and so is one that does not
read its answer. Bodies of strangers are not kept, those of others not beyond the limit. Connections above the
limit are cut.
"""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http

from imgateway.router.api import Api, Reply, Request

__all__ = ("ApiSite",)

log = Logger()

IN_MEMORY = 1_048_576
"""Bytes of a body that are kept in memory; more goes to a file without a name."""
EXCESS = 4_194_304
"""Bytes beyond the limit that are read and dropped, so that whoever sends them reads the answer; a body that
is announced as larger is answered before it comes, one that turns out to be is cut."""
HEAD_BYTES = 65_536
"""What the lines before a body may take on the private port: a question about 500 users. Clients have what
Twisted gives, 16,384."""
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "Authorization",
    "Access-Control-Expose-Headers": "Retry-After",
    "Access-Control-Max-Age": "86400",
}
"""For pages in browsers, from anywhere: what clients may ask takes a token, and no cookie."""


class _Request(http.Request):
    """One request: keeps as much of the body as may be, then asks the API."""

    channel: _Channel
    _body: IO[bytes]
    _most = 0
    _size = 0
    _trouble = ""

    def __init__(self, channel: _Channel, queued: object = False) -> None:
        super().__init__(channel, queued, parsePOSTFormSubmission=False)
        # From its first line on, however long the connection was idle; as long as it is set to be now.
        channel.setTimeout(channel.api.settings.timeout_s)

    def gotLength(self, length: int | None) -> None:
        """All headers are there."""
        channel = self.channel
        self._body = self.content = cast(BytesIO, SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115
        if not channel.is_public:
            self._most, within_s = channel.api.room(self._token())
            if length != 0:
                channel.setTimeout(within_s)
        if length is not None and length > self._most + EXCESS:
            self._size = length
            self._refuse()

    def _refuse(self) -> None:
        """Answer at once. A client that waits for "100 Continue" has sent nothing of its body yet, and reads
        what is wrong with it."""
        self.requestHeaders.removeHeader(b"expect")  # or Twisted says "continue" after the answer
        self.clientproto = b"HTTP/1.1"
        channel = self.channel
        self._told(channel.api.refuse(self._token(), self._most, channel.is_public))
        channel.is_deaf = True

    def handleContentChunk(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._most + EXCESS:
            self.channel.cut()
        elif self._size <= self._most and not self._trouble:
            try:
                self._body.write(data)
                self._body.flush()  # what is wrong with the disk shall be known here
            except OSError as error:
                self._trouble = error.strerror or str(error)
                with suppress(OSError):
                    self._body.close()
                self._body = self.content = BytesIO()

    def _token(self) -> str:
        scheme, _, token = (self.getHeader("authorization") or "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def process(self) -> None:
        """The body is there."""
        # Not ours any more: who reads it may do so longer than the connection lasts, and the API closes it.
        self.content = None
        if self.channel.is_public and self.method == b"OPTIONS":
            self._body.close()
            self._told(Reply(204, "", b""))
            return
        _, _, query = self.uri.partition(b"?")
        asked = Request(
            self.method.decode("ascii", "replace"),
            self.path,
            query,
            self._token(),
            self.getHeader("content-type") or "",
            self._body,
            self._size,
            self.getHeader("accept") or "",
            _text(self.channel.getPeer()),
            self._trouble,
            self._size <= self._most,
        )
        answer = self.channel.api.answer(asked, self.channel.is_public)
        answer.addCallback(self._told)

    def _told(self, reply: Reply) -> None:
        if self._disconnected:
            return
        channel = self.channel
        self.setResponseCode(reply.status)
        headers = {"Server": "imgateway", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        if channel.is_public:
            headers |= CORS
        if reply.kind:
            headers["Content-Type"] = reply.kind
        if self._size > self._most or channel.api.stopping:
            headers["Connection"] = "close"
            channel.persistent = False
        if reply.status != 204:
            headers["Content-Length"] = str(len(reply.data))
        for name, value in {**headers, **reply.headers}.items():
            self.setHeader(name, value)
        self.write(reply.data)
        self.finish()


class _Channel(http.HTTPChannel):
    """A connection. Its time runs from when it may begin a request until that is there, whatever drops in."""

    requestFactory: Any = _Request

    def __init__(self, site: ApiSite, api: Api, is_public: bool) -> None:
        super().__init__()
        self.site = site
        self.api = api
        self.is_public = is_public
        self.is_deaf = False
        """It was answered, and is closing: what still comes is not looked at."""
        if not is_public:
            self.MAX_LENGTH = self.totalHeadersSize = HEAD_BYTES

    def dataReceived(self, data: bytes) -> None:
        if self.is_deaf:
            return
        try:
            super().dataReceived(data)
        except ValueError as error:
            # Strangers' bytes: a header that is not UTF-8, a length of 5,000 digits. No line of the log each.
            log.debug("a request could not be read", why=type(error).__name__)
            self.is_deaf = True
            self._respondToBadRequestAndDisconnect()

    def connectionMade(self) -> None:
        self.site.channels.add(self)
        self.api.connections += 1
        super().connectionMade()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.site.channels.discard(self)
        self.api.connections -= 1
        super().connectionLost(reason)

    def resetTimeout(self) -> None:
        """A byte now and then is no progress."""

    def cut(self) -> None:
        """Drop the connection now."""
        transport: Any = self.transport
        transport.abortConnection()


def _text(address: Any) -> str:
    host, port = getattr(address, "host", ""), getattr(address, "port", 0)
    return f"{host}:{port}" if host else "unix"


class ApiSite(http.HTTPFactory):
    """The API on a port.

    :param public: only what clients may ask.
    """

    noisy = False

    def __init__(self, api: Api, reactor: Any, public: bool = False) -> None:
        super().__init__(reactor=reactor)
        self.channels: set[_Channel] = set()
        self._api = api
        self.protocol: Any = lambda: _Channel(self, api, public)

    def startFactory(self) -> None:
        """No access log, nor the timer that keeps its date."""

    def stopFactory(self) -> None: ...

    def log(self, request: http.Request) -> None: ...

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A connection, if there may be one more; else it is cut."""
        self.timeOut = self._api.settings.timeout_s
        return super().buildProtocol(addr) if len(self.channels) < self._api.settings.connections else None

    def abort(self) -> None:
        """Cut all connections."""
        for channel in tuple(self.channels):
            channel.cut()
