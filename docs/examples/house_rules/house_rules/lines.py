"""A protocol: lines of text, for a telnet and for devices that can do no more.

::

    > LOGIN token device          < HELLO user
    > SEND 17 user:bob how are you?     < OK 17   or   NO 17 FULL
    < FROM alice hello
    > PING                        < PONG
"""

from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.errors import BadFrame, FrameTooLarge, InvalidAddress
from imgateway.frames import (
    Bye,
    Deliver,
    Hello,
    OutcomeCode,
    Publish,
    PublishAck,
    Welcome,
    check_id,
    parse_address,
)
from imgateway.interfaces import Carriage, ICodec, IProtocolAdapter, Traits
from imgateway.protocols.plain import PlainCodec
from imgateway.wire.messages import decode_message

TAKEN = (OutcomeCode.OK, OutcomeCode.DUPLICATE)


@implementer(IPlugin, IProtocolAdapter)
class LinesAdapter:
    name = "lines"
    carriage = Carriage(message=False)
    traits = Traits(acks=False, batches=False, gaps=False, pings=False)

    def codec(self, stream, max_frame_bytes):
        return LinesCodec(max_frame_bytes)


@implementer(ICodec)
class LinesCodec(PlainCodec):
    silence_s = 300.0
    wire = "lines"  # equal for all: what one of them encodes may go to every receiver

    def __init__(self, max_frame_bytes):
        self._max = max_frame_bytes
        self._rest = b""

    def receive(self, data):
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield self._frame(line)
        if len(self._rest) > self._max:
            raise FrameTooLarge("the line does not end")

    def _frame(self, line):
        if len(line) > self._max:
            raise FrameTooLarge("the line is too long")
        try:
            word, _, rest = line.decode().rstrip("\r").partition(" ")
            if word == "LOGIN":
                token, _, device = rest.partition(" ")
                return Hello(token, check_id(device))
            if word == "SEND":
                number, to, text = rest.split(" ", 2)
                return Publish(check_id(number), (parse_address(to),), "text/plain", text.encode())
        except (UnicodeDecodeError, InvalidAddress, ValueError):
            raise BadFrame("not a line of this protocol") from None
        if word == "PING":
            return b"PONG\n"  # an answer of the wire's own, that the gateway need not know of
        if word == "BYE":
            return Bye(0)
        raise BadFrame("not a line of this protocol")

    def encode(self, frame):
        kind = type(frame)
        if kind is Deliver:
            lines = [said(entry) for entry in frame.entries]
            return None if None in lines else b"".join(lines)
        if kind is PublishAck:
            code = frame.outcomes[0].code
            answer = f"OK {frame.msg_id}" if code in TAKEN else f"NO {frame.msg_id} {OutcomeCode(code).name}"
        elif kind is Welcome:
            answer = f"HELLO {frame.user}"
        elif kind is Bye:
            answer = f"BYE {frame.code} {frame.reason}"
        else:
            return b""  # this wire has no word for it
        return answer.encode() + b"\n"


def said(entry):
    """A message as a line; None if it cannot be one."""
    message = decode_message(entry.message)
    if b"\n" in message.body or not message.content_type.startswith("text/"):
        return None
    return b"FROM %s %s\n" % (message.sender.encode(), message.body)
