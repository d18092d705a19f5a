"""The reason codes of MQTT 5, the few of 3.1.1, and what of ours becomes which."""

from __future__ import annotations

from enum import IntEnum

from imgateway.errors import BadFrame, CloseCode
from imgateway.frames import OutcomeCode, RefusedCode

__all__ = ("Broken", "Reason", "after_login", "at_login", "of_outcome", "of_refusal")


class Reason(IntEnum):
    """Of MQTT 5; those that we say, and no others."""

    SUCCESS = 0x00
    WITH_WILL = 0x04
    NO_SUBSCRIPTION = 0x11
    UNSPECIFIED = 0x80
    MALFORMED = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION = 0x83
    VERSION = 0x84
    CLIENT_ID = 0x85
    BAD_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    UNAVAILABLE = 0x88
    BUSY = 0x89
    SHUTTING_DOWN = 0x8B
    BAD_AUTH_METHOD = 0x8C
    KEEPALIVE_TIMEOUT = 0x8D
    TAKEN_OVER = 0x8E
    FILTER_INVALID = 0x8F
    TOPIC_INVALID = 0x90
    ALIAS_INVALID = 0x94
    TOO_LARGE = 0x95
    QUOTA = 0x97
    KICKED = 0x98
    SHARED = 0x9E
    TOKEN_EXPIRED = 0xA0
    WILDCARDS = 0xA2


# CloseCode → CONNACK of MQTT 5, of 3.1.1, and DISCONNECT of MQTT 5. What is not here is UNSPECIFIED.
_CLOSED: dict[int, tuple[Reason, int, Reason]] = {
    CloseCode.NORMAL: (Reason.UNAVAILABLE, 3, Reason.SUCCESS),
    CloseCode.HEARTBEAT_TIMEOUT: (Reason.UNAVAILABLE, 3, Reason.KEEPALIVE_TIMEOUT),
    CloseCode.GOING_AWAY: (Reason.UNAVAILABLE, 3, Reason.SHUTTING_DOWN),
    CloseCode.OVERLOADED: (Reason.BUSY, 3, Reason.BUSY),
    CloseCode.TOO_MANY_LINKS: (Reason.BUSY, 3, Reason.BUSY),
    CloseCode.UNAVAILABLE: (Reason.UNAVAILABLE, 3, Reason.BUSY),
    CloseCode.KICKED: (Reason.NOT_AUTHORIZED, 5, Reason.KICKED),
    CloseCode.REPLACED: (Reason.BUSY, 3, Reason.TAKEN_OVER),
    CloseCode.DISPLACED: (Reason.NOT_AUTHORIZED, 5, Reason.TAKEN_OVER),
    CloseCode.LOGIN_CONFLICT: (Reason.NOT_AUTHORIZED, 5, Reason.NOT_AUTHORIZED),
    CloseCode.BAD_TOKEN: (Reason.BAD_PASSWORD, 4, Reason.NOT_AUTHORIZED),
    CloseCode.TOKEN_EXPIRED: (Reason.BAD_PASSWORD, 4, Reason.TOKEN_EXPIRED),
    CloseCode.REVOKED: (Reason.NOT_AUTHORIZED, 5, Reason.NOT_AUTHORIZED),
    CloseCode.WRONG_AUDIENCE: (Reason.NOT_AUTHORIZED, 5, Reason.NOT_AUTHORIZED),
    CloseCode.BAD_FRAME: (Reason.MALFORMED, 0, Reason.MALFORMED),
    CloseCode.FRAME_TOO_LARGE: (Reason.TOO_LARGE, 0, Reason.TOO_LARGE),
    CloseCode.UNEXPECTED_FRAME: (Reason.PROTOCOL_ERROR, 0, Reason.PROTOCOL_ERROR),
    CloseCode.FORBIDDEN: (Reason.NOT_AUTHORIZED, 5, Reason.NOT_AUTHORIZED),
}
_UNKNOWN = (Reason.UNAVAILABLE, 3, Reason.UNSPECIFIED)

_OUTCOMES: dict[int, Reason] = {
    OutcomeCode.OK: Reason.SUCCESS,
    OutcomeCode.DUPLICATE: Reason.SUCCESS,
    OutcomeCode.FULL: Reason.QUOTA,
    OutcomeCode.FORBIDDEN: Reason.NOT_AUTHORIZED,
    OutcomeCode.UNKNOWN: Reason.TOPIC_INVALID,
    OutcomeCode.RATE: Reason.QUOTA,
    OutcomeCode.TOO_LARGE: Reason.QUOTA,  # "packet too large" is no reason that a PUBACK may give
}
_REFUSALS: dict[int, Reason] = {
    RefusedCode.FORBIDDEN: Reason.NOT_AUTHORIZED,
    RefusedCode.RATE: Reason.QUOTA,
    RefusedCode.NOT_SUPPORTED: Reason.FILTER_INVALID,
    RefusedCode.INVALID: Reason.FILTER_INVALID,
}
# What a codec finds wrong with a greeting, as 3.1.1 says it; 0: it has no word, the connection just ends.
_REFUSED_3 = {
    Reason.VERSION: 1,
    Reason.CLIENT_ID: 2,
    Reason.UNAVAILABLE: 3,
    Reason.BAD_PASSWORD: 4,
    Reason.NOT_AUTHORIZED: 5,
    Reason.TOPIC_INVALID: 5,
}


class Broken(BadFrame):
    """A client sent what it must not; `said` is how MQTT 5 calls it."""

    def __init__(self, reason: str, said: Reason = Reason.MALFORMED) -> None:
        super().__init__(reason, CloseCode.FRAME_TOO_LARGE if said is Reason.TOO_LARGE else None)
        self.said = said


def at_login(code: int, fault: Reason | None, version: int) -> int:
    """What CONNACK says when a greeting is turned down; 0: nothing, in 3.1.1.

    `fault`: what the codec itself found wrong; it is more exact than `code`.
    """
    if fault is not None:
        return int(fault) if version == 5 else _REFUSED_3.get(fault, 0)
    reason, short, _ = _CLOSED.get(code, _UNKNOWN)
    return int(reason) if version == 5 else short


def after_login(code: int, fault: Reason | None) -> Reason:
    """What DISCONNECT says in MQTT 5."""
    return fault if fault is not None else _CLOSED.get(code, _UNKNOWN)[2]


def of_outcome(code: int) -> Reason:
    """PUBACK and PUBREC."""
    return _OUTCOMES.get(code, Reason.IMPLEMENTATION)


def of_refusal(code: int) -> Reason:
    """SUBACK and UNSUBACK."""
    return _REFUSALS.get(code, Reason.UNSPECIFIED)
