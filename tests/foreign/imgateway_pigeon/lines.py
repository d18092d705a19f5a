"""``lines``: a wire of text lines for ``telnet``, which acknowledges nothing.

::

    login TOKEN            welcome USER
    to ADDRESS TEXT …      from SENDER TEXT …
    ask SERVICE TEXT …     answer TEXT …
    bye                    bye CODE
"""

from collections.abc import Iterator
from typing import Any

from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.errors import BadFrame, FrameTooLarge, InvalidAddress
from imgateway.frames import (
    Bye,
    Deliver,
    Hello,
    Outcome,
    Publish,
    PublishAck,
    Request,
    Response,
    Welcome,
    parse_address,
)
from imgateway.interfaces import Carriage, ICodec, IProtocolAdapter, Traits
from imgateway.protocols.plain import PlainCodec
from imgateway.wire.messages import decode_message


@implementer(ICodec)
class LinesCodec(PlainCodec):
    wire = "lines"

    def __init__(self, max_frame_bytes: int) -> None:
        self._max = max_frame_bytes
        self._left = b""
        self._count = 0

    def receive(self, data: bytes) -> Iterator[Any]:
        *lines, self._left = (self._left + data).split(b"\n")
        if len(self._left) > self._max:
            raise FrameTooLarge("a line without end")
        return map(self._frame, lines)

    def _frame(self, line: bytes) -> Any:
        try:
            verb, _, rest = line.decode().rstrip("\r").partition(" ")
            first, _, text = rest.partition(" ")
            self._count += 1
            if verb == "login":
                return Hello(rest)
            if verb == "to":
                return Publish(str(self._count), (parse_address(first),), "text/plain", text.encode())
            if verb == "ask":
                return Request(self._count, first, "ask", text.encode())
            if verb == "bye":
                return Bye(0)
        except (UnicodeDecodeError, InvalidAddress) as error:
            raise BadFrame(str(error)) from None
        if verb == "help":
            return b"login, to, ask, bye\n"
        raise BadFrame("no such verb")

    def encode(self, frame: Any) -> bytes | None:
        if isinstance(frame, Welcome):
            return f"welcome {frame.user}\n".encode()
        if isinstance(frame, Deliver):
            messages = [decode_message(entry.message) for entry in frame.entries]
            if any(b"\n" in message.body for message in messages):
                return None
            return b"".join(b"from %s %s\n" % (m.sender.encode(), m.body) for m in messages)
        if isinstance(frame, PublishAck):
            refused = [outcome for outcome in frame.outcomes if Outcome(*outcome).code > 1]
            return b"refused\n" if refused else b""
        if isinstance(frame, Response):
            return b"answer %s\n" % frame.body
        if isinstance(frame, Bye):
            return b"bye %d\n" % frame.code
        return b""


@implementer(IPlugin, IProtocolAdapter)
class Lines:
    name = "lines"
    carriage = Carriage(message=False)
    traits = Traits(acks=False, gaps=False, pings=False)

    def codec(self, stream: bool, max_frame_bytes: int) -> ICodec:
        return LinesCodec(max_frame_bytes)
