"""What the server says by itself, and how anything goes out over one kind of transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from imgateway.errors import CloseCode
from imgateway.frames import Bye

from .framing import length_prefixed
from .packet import (
    ECHOED,
    ERROR,
    KEPT,
    KICKOUT,
    LOGGED_IN,
    NOBODY,
    SERVER,
    Packet,
    quoted,
    write_packet,
)

__all__ = ("REFUSED", "Form", "Words")

REFUSED = 1025
"""The code of a refused login, unless the application gives another; its own begin here."""
NOT_LOGGED_IN = 301
DUPLICATE_LOGIN, BY_ADMINISTRATOR = 1, 2

ANSWER_BYTES = 256
"""What an answer to somebody unknown may have more than the question, over bare UDP."""

_BROKEN = (CloseCode.BAD_FRAME, CloseCode.FRAME_TOO_LARGE, CloseCode.UNEXPECTED_FRAME)
_SERVER, _NOBODY = quoted(SERVER), quoted(NOBODY)


class Form(Struct, frozen=True):
    """How this wire is spoken over one kind of transport.

    :ivar is_bare: no connection below: nobody is sent away for a question asked too early.
    :ivar now: monotonic seconds. `wall_ms`: Unix milliseconds. `fresh_ms`: the same, never twice the same.
    :ivar stamps: every object says when it was sent.
    """

    is_stream: bool
    is_bare: bool
    max_in: int
    max_out: int
    silence_s: float
    now: Callable[[], float]
    wall_ms: Callable[[], int]
    fresh_ms: Callable[[], int]
    stamps: bool = False


class Words:
    """The server's own words, each ready to go out; b"": too long for this client. Ids come `quoted`."""

    __slots__ = ("_is_stream", "_max_out", "_stamps", "form")

    def __init__(self, form: Form) -> None:
        self.form = form
        self._is_stream, self._max_out, self._stamps = form.is_stream, form.max_out, form.stamps

    def success(self, user: bytes, first_ms: int) -> bytes:
        return self._said(LOGGED_IN, {"code": 0, "firstLoginTime": first_ms}, user)

    def refusal(self, code: int) -> bytes:
        return self._said(LOGGED_IN, {"code": code, "firstLoginTime": -1}, _NOBODY)

    def kept(self, user: bytes) -> bytes:
        return self._said(KEPT, {}, user)

    def kicked(self, user: bytes, reason: str) -> bytes:
        content = {"code": BY_ADMINISTRATOR, "reason": reason.encode(errors="replace").decode()}
        # Who is not told that it was sent away comes again.
        return self._said(KICKOUT, content, user) or self._said(KICKOUT, content | {"reason": ""}, user)

    def replaced(self, user: bytes) -> bytes:
        return self._said(KICKOUT, {"code": DUPLICATE_LOGIN}, user)

    def echo(self, packet: Packet) -> bytes:
        return self.fitting(self._copy(packet, ECHOED))

    def not_logged_in(self, packet: Packet, size: int) -> bytes:
        """With the offending object, of `size` bytes, as far as there is room for it."""
        most = self.form.max_out
        if self.form.is_bare:
            most = min(most, size + ANSWER_BYTES)
        answer = b""
        for offending in (packet, replace(packet, data=None), None):
            text = "" if offending is None else self._copy(offending, packet.type).decode()
            content = {"errorCode": NOT_LOGGED_IN, "errorMsg": text}
            answer = answer or self.fitting(self._written(ERROR, content, _NOBODY), most)
        return answer

    def goodbye(self, bye: Bye, user: bytes, first_ms: int, is_in: bool) -> bytes | tuple[bytes, ...]:
        """What is said before a connection is closed. `user`: who it has said to be, b"" if it has not."""
        code = bye.code
        if is_in:
            if code in (CloseCode.REPLACED, CloseCode.DISPLACED):
                return self.replaced(user)
            if code in (CloseCode.KICKED, CloseCode.REVOKED):
                return self.kicked(user, bye.reason)
        elif user:
            if code == CloseCode.REPLACED:
                # Somebody has logged in since as the same user: this device is let in, and out again.
                both = self.success(user, first_ms), self.replaced(user)
                return b"".join(both) if self._is_stream else both
            if bye.detail or (code >= CloseCode.KICKED and code not in _BROKEN):
                return self.refusal(bye.detail if bye.detail >= REFUSED else REFUSED)
        return b""

    def fitting(self, body: bytes, most: int = 0) -> bytes:
        """The body as it goes out; b"": it is longer than the client takes, or than `most`."""
        if len(body) > (most or self._max_out):
            return b""
        return length_prefixed(body) if self._is_stream else body

    def sm(self) -> int:
        """What every object says in its last field."""
        return self.form.wall_ms() if self._stamps else -1

    def _copy(self, packet: Packet, kind: int) -> bytes:
        data, fp = packet.data, packet.fp
        return write_packet(
            kind,
            None if data is None else quoted(data),
            _NOBODY if packet.sender is None else quoted(packet.sender),
            _NOBODY if packet.to is None else quoted(packet.to),
            None if fp is None else quoted(fp),
            packet.qos,
            packet.typeu,
            packet.bridge,
            self.sm() if self._stamps else packet.sm,
        )

    def _said(self, kind: int, content: dict[str, Any], to: bytes) -> bytes:
        return self.fitting(self._written(kind, content, to))

    def _written(self, kind: int, content: dict[str, Any], to: bytes) -> bytes:
        return write_packet(kind, quoted(quoted(content).decode()), _SERVER, to, sm=self.sm())
