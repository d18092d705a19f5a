"""Standard input, line by line, beside everything else that the reactor does.

The descriptor is left as it is: not-blocking would hold for every process that shares the terminal. So it is
read only when the reactor says that something is there, and only while somebody waits for a line.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

__all__ = ("MAX_LINE_BYTES", "Lines")

MAX_LINE_BYTES = 1_048_576
"""More than any gateway takes as a body. Of a longer line only the beginning is given: it is refused."""


@implementer(IReadDescriptor)
class Lines:
    """An asynchronous iterator over lines as bytes, without their ends (``\\n`` or ``\\r\\n``)."""

    def __init__(self, reactor: Any, descriptor: int = 0) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._part = b""
        self._is_cut = False
        """The beginning of a line that is too long was given; its rest is not."""
        self._ended = False
        self._asked: Deferred[bytes | None] | None = None

    @property
    def interactive(self) -> bool:
        """A person types."""
        return os.isatty(self._descriptor)

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> bytes:
        line = await self._next()
        if line is None:
            raise StopAsyncIteration
        return line

    def _next(self) -> Deferred[bytes | None]:
        if self._lines:
            return succeed(self._lines.popleft())
        if not self._ended:
            try:
                self._reactor.addReader(self)
            except OSError:  # closed before we began
                self._end()
        if self._ended:
            return succeed(None)
        self._asked = Deferred(self._forget)
        return self._asked

    def _forget(self, _: Deferred[bytes | None]) -> None:
        self._asked = None
        self._reactor.removeReader(self)

    # ----------------------------------------------------------------------------------- IReadDescriptor

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "stdin"

    def doRead(self) -> None:
        try:
            data = os.read(self._descriptor, 65_536)
        except BlockingIOError:  # somebody else made it so
            return
        except OSError:  # such as a terminal that is gone
            data = b""
        if data:
            self._take(data)
        else:
            self._end()
        self._answer()

    def connectionLost(self, reason: Any) -> None:
        """The other end hung up, or the reactor stops."""
        self._end()
        self._answer()

    def _take(self, data: bytes) -> None:
        *whole, self._part = (self._part + data).split(b"\n")
        if whole and self._is_cut:
            del whole[0]
            self._is_cut = False
        self._lines.extend(line.removesuffix(b"\r") for line in whole)
        if self._is_cut:
            self._part = b""
        elif len(self._part) >= MAX_LINE_BYTES:
            self._lines.append(self._part)
            self._part, self._is_cut = b"", True

    def _end(self) -> None:
        self._ended = True
        if self._part:
            self._lines.append(self._part)
            self._part = b""

    def _answer(self) -> None:
        if self._asked is None or not (self._lines or self._ended):
            return
        asked, self._asked = self._asked, None
        self._reactor.removeReader(self)
        asked.callback(self._lines.popleft() if self._lines else None)
