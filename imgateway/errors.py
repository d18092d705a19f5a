"""Every deliberate exception of the gateway, whose fault it is, and the close code it carries.

::

    GatewayError
    ├── LinkError                 one link must close; `code` says how       (carries a CloseCode)
    │   ├── ProtocolError         the peer sent what its wire does not allow
    │   │   ├── BadFrame          bytes that are no frame, or a frame with a field out of range
    │   │   ├── FrameTooLarge     longer than the wire or the configured limit allows
    │   │   └── UnexpectedFrame   a good frame at the wrong time
    │   ├── LoginRefused          the greeting was understood and turned down
    │   ├── StoreBusy             too much waits for the store already
    │   └── LinkLost              the transport is gone (SDK: the call did not finish on this link)
    ├── InvalidAddress            text that is no address                    (ValueError too)
    ├── OperatorError             a wrong setting, key, port, file: start fails with one line
    │   ├── ConfigError           names the dotted path of the setting and what is allowed
    │   ├── InUse                 another process has what was asked for
    │   └── StoreError            the data directory cannot be used, and how to mend it
    │       └── StoreInUse        another process has it                     (InUse too)
    └── ClientError               told to the user of the SDK
        ├── ConnectRefused        the gateway said do not reconnect; `code` says why
        ├── OutboxFull            more publishes were begun, and not waited for, than may wait
        ├── OutcomeUnknown        resending stopped, or the client was closed, before a final outcome
        ├── FrameRefused          the gateway answered with Refused; `code` says why
        └── RequestFailed         a Request came back with another code than OK
"""

from __future__ import annotations

from enum import IntEnum

__all__ = (
    "TAKEN_OVER",
    "BadFrame",
    "ClientError",
    "CloseCode",
    "ConfigError",
    "ConnectRefused",
    "FrameRefused",
    "FrameTooLarge",
    "GatewayError",
    "InUse",
    "InvalidAddress",
    "LinkError",
    "LinkLost",
    "LoginRefused",
    "OperatorError",
    "OutboxFull",
    "OutcomeUnknown",
    "ProtocolError",
    "RequestFailed",
    "StoreBusy",
    "StoreError",
    "StoreInUse",
    "UnexpectedFrame",
)


class CloseCode(IntEnum):
    """Why a link ends. The range tells the client what to do next.

    1–99: reconnect with backoff. 100–199: reconnect after ``Bye.retry_after_ms``. 200–299: do not reconnect
    (with the same credentials). On WebSocket the close status is 4000 + code. 0 is a client that leaves.
    """

    NORMAL = 0
    """The client said goodbye, and its session ends."""

    LOST = 1
    """The connection broke; counted and told to the SDK, never sent."""
    HEARTBEAT_TIMEOUT = 2
    """Nothing came from the client for too long."""
    ACK_TIMEOUT = 3
    """Deliveries stayed unacknowledged for too long."""
    SLOW_READER = 4
    """The client did not read the answers that it asked for; the link is cut, so this is rarely seen."""
    INTERNAL_ERROR = 5
    """The gateway or a plugin failed; its log says why."""
    LOGIN_TIMEOUT = 6
    """No complete greeting in time."""
    STALE = 7
    """The log was replaced, or a newer login has the session: resume."""

    GOING_AWAY = 100
    """The node is stopping, or sends its clients to others."""
    OVERLOADED = 101
    """The node asks to be spared for a while; reserved, no part sends it yet."""
    TOO_MANY_LINKS = 102
    """Too many connections wait for their login; the connection is cut without a word, so only counted."""
    UNAVAILABLE = 103
    """Something that the login needs is away for a while: for authenticators, and for a store for which too
    much waits already."""

    KICKED = 200
    """Business code ended the session."""
    REPLACED = 201
    """The same device logged in again."""
    DISPLACED = 202
    """Another device logged in, and the login policy keeps only the newest."""
    LOGIN_CONFLICT = 203
    """Another device is online, and the login policy keeps the first."""
    BAD_TOKEN = 204
    """The token is not valid, or names another user or device."""
    TOKEN_EXPIRED = 205
    """The token has expired."""
    REVOKED = 206
    """The token is from before a revocation."""
    WRONG_AUDIENCE = 207
    """The token is for another service."""
    BAD_FRAME = 208
    """Bytes that are no frame, or a frame with a field that may not have this value."""
    FRAME_TOO_LARGE = 209
    """A frame above the limit, or more bytes before the login than are allowed."""
    UNEXPECTED_FRAME = 210
    """A frame at the wrong time, or one that clients do not send."""
    FORBIDDEN = 211
    """This identity may not log in here; for authenticators."""


TAKEN_OVER = (CloseCode.REPLACED, CloseCode.STALE)
"""The link ends and the session goes on: a newer login of its device has it, at this node or another."""


class GatewayError(Exception):
    """The root: everything that imgateway raises on purpose."""


class LinkError(GatewayError):
    """One link must close with `code`; nothing else is touched.

    :param reason: short text for the peer and the log, without the peer's own bytes in it.
    :param code: the close code; each subclass has its default.
    :param retry_after_s: for codes 100–199, how long the peer shall stay away.
    """

    code: CloseCode = CloseCode.INTERNAL_ERROR

    def __init__(self, reason: str = "", code: CloseCode | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class ProtocolError(LinkError):
    """The peer sent what its wire does not allow."""

    code = CloseCode.BAD_FRAME


class BadFrame(ProtocolError):
    """Bytes that are no frame, or a frame with a field out of range."""


class FrameTooLarge(ProtocolError):
    """A frame longer than the wire or the configured limit allows."""

    code = CloseCode.FRAME_TOO_LARGE


class UnexpectedFrame(ProtocolError):
    """A good frame at the wrong time, such as Publish before Hello."""

    code = CloseCode.UNEXPECTED_FRAME


class LoginRefused(LinkError):
    """The greeting was understood and turned down: bad token, revoked, refused by the login policy.

    :param detail: a number of the application's own for wires that can carry one (0: none).
    """

    code = CloseCode.BAD_TOKEN

    def __init__(
        self, reason: str = "", code: CloseCode | None = None, retry_after_s: float = 0.0, detail: int = 0
    ) -> None:
        super().__init__(reason, code, retry_after_s)
        self.detail = detail


class StoreBusy(LinkError):
    """Too much waits for the store already, which is away or cannot write: nothing was done."""

    code = CloseCode.UNAVAILABLE


class LinkLost(LinkError):
    """The transport is gone; what was waiting on this link has no answer from it."""

    code = CloseCode.LOST


class InvalidAddress(GatewayError, ValueError):
    """Text that is no address; the message names the rule that it breaks."""


class OperatorError(GatewayError):
    """The operator must change something; the message is one line that says what and how."""


class ConfigError(OperatorError):
    """A setting is unknown or wrong; the message names its dotted path and what is allowed."""


class InUse(OperatorError):
    """Another process has what was asked for.

    :param port: the number of the port that it has, if that is it.
    """

    def __init__(self, message: str, port: int = 0) -> None:
        super().__init__(message)
        self.port = port


class StoreError(OperatorError):
    """The data directory or its database cannot be used, and what to do about it."""


class StoreInUse(StoreError, InUse):
    """Another process has the data directory."""


class ClientError(GatewayError):
    """Told to the user of the client SDK."""


def _named(code: int) -> str:
    """``code 4`` for a later gateway's number, ``BAD_TOKEN, code 204`` for one that has a name."""
    return f"{code.name}, code {int(code)}" if isinstance(code, IntEnum) else f"code {code}"


class ConnectRefused(ClientError):
    """The gateway turned the login down for good.

    :param code: a CloseCode in 200–299.
    """

    def __init__(self, code: int, reason: str) -> None:
        known = {int(one): one for one in CloseCode}
        super().__init__(f"{reason or 'refused'} ({_named(known.get(code, code))})")
        self.code = code
        self.reason = reason


class OutboxFull(ClientError):
    """The outbox is full and so is the line before it: wait for the outcome of some publishes first."""


class OutcomeUnknown(ClientError):
    """The message may or may not have been taken: dedup time over, or the client was closed first.

    :param kept: it stays in the outbox file: the next run goes on with it.
    """

    def __init__(self, reason: str = "", kept: bool = False) -> None:
        super().__init__(reason)
        self.kept = kept


class FrameRefused(ClientError):
    """The gateway answered a frame with Refused.

    :param code: a `frames.RefusedCode`, or a number that has no name here.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason or 'refused'} ({_named(code)})")
        self.code = code
        self.reason = reason


class RequestFailed(ClientError):
    """A Request came back with another code than OK.

    :param code: a `frames.ResponseCode`, or a number of the service's own from 100.
    """

    def __init__(self, code: int, body: bytes = b"") -> None:
        text = body[:200].decode("utf-8", "replace")
        super().__init__(f"request failed ({_named(code)})" + (f": {text}" if text else ""))
        self.code = code
        self.body = body
