"""What claims and their answers mean, in Python's terms."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from imgateway.brokers.tails import Seat
from imgateway.errors import CloseCode
from imgateway.frames import SessionKey
from imgateway.interfaces import Claim, LoginPolicy, Presence, Verdict

__all__ = ("BY_ORDER", "Opening", "code_of_claim", "presences", "reason_of", "verdict_of")

REASONS = {
    CloseCode.STALE: "a newer login has this session",
    CloseCode.REPLACED: "the same device logged in again",
    CloseCode.DISPLACED: "logged in on another device",
    CloseCode.REVOKED: "the token was revoked",
}
BY_ORDER = "newest-order-wins"


class Opening(Struct):
    """Claims of a session whose answers are not here yet.

    `kicked`: generations that were displaced meanwhile, with their close codes: one of them may turn out to
    be the answer. `is_doubted`: such a kick may have been lost.
    """

    count: int = 0
    kicked: dict[int, int] = {}
    is_doubted: bool = False


def reason_of(code: int) -> str:
    """Why a session was displaced with this close code."""
    return REASONS.get(CloseCode(code), REASONS[CloseCode.STALE])


def code_of_claim(claim: Claim, seat: Seat) -> int:
    """Why a claim displaced a session of its user."""
    if seat.device == claim.session.device:
        # By order, an equal one is the same login on another connection: nobody took its place.
        same = claim.on_same_device == BY_ORDER and claim.order == seat.owed.order
        return CloseCode.STALE if same else CloseCode.REPLACED
    if claim.policy is LoginPolicy.ONE:
        return CloseCode.DISPLACED
    is_alike = claim.policy is LoginPolicy.ONE_PER_PLATFORM and seat.platform == claim.platform
    return CloseCode.DISPLACED if is_alike else 0


def verdict_of(code: int) -> Verdict:
    return Verdict.REVOKED if code == CloseCode.REVOKED else Verdict.OUTRUN


def presences(fields: list[Any], user: str) -> tuple[Presence, ...]:
    """What `present` answers; those online first."""
    devices = [
        Presence(
            SessionKey(user, device.decode()), platform.decode(), node.decode(), generation, ms, bool(online)
        )
        for device, platform, node, generation, ms, online in zip(*[iter(fields)] * 6, strict=True)
    ]
    return tuple(sorted(devices, key=lambda one: (not one.online, one.since_ms, one.session.device)))
