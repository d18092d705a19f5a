"""Whom a claim displaces, with which close code, and what is said to it: the same at every broker."""

from __future__ import annotations

from imgateway.brokers.tails import Seat
from imgateway.errors import CloseCode
from imgateway.interfaces import Claim, LoginPolicy, Verdict

__all__ = ("BY_ORDER", "code_of_claim", "reason_of", "verdict_of")

BY_ORDER = "newest-order-wins"
REASONS = {
    CloseCode.STALE: "a newer login has this session",
    CloseCode.REPLACED: "the same device logged in again",
    CloseCode.DISPLACED: "logged in on another device",
    CloseCode.REVOKED: "the token was revoked",
}


def reason_of(code: int) -> str:
    """Why a session was displaced with this close code."""
    return REASONS.get(CloseCode(code), REASONS[CloseCode.STALE])


def code_of_claim(claim: Claim, seat: Seat) -> int:
    """Why a claim displaced a session of its user; 0: it did not."""
    if seat.device == claim.session.device:
        # By order, an equal one is the same login on another connection: nobody took its place.
        same = claim.on_same_device == BY_ORDER and claim.order == seat.owed.order
        return CloseCode.STALE if same else CloseCode.REPLACED
    if claim.policy is LoginPolicy.ONE:
        return CloseCode.DISPLACED
    is_alike = claim.policy is LoginPolicy.ONE_PER_PLATFORM and seat.platform == claim.platform
    return CloseCode.DISPLACED if is_alike else 0


def verdict_of(code: int) -> Verdict:
    """What is told to a session that was displaced with this close code before it had an answer."""
    return Verdict.REVOKED if code == CloseCode.REVOKED else Verdict.OUTRUN
