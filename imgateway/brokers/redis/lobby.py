"""Claims that nobody can grant now, since their primary is away."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred

from imgateway.brokers.claims import BY_ORDER
from imgateway.brokers.redis.primary import Primary
from imgateway.frames import SessionKey
from imgateway.interfaces import Claim, Opened, Verdict

__all__ = ("Lobby",)


class Lobby:
    """Clients come again and again while a primary is away: of each device only the last claim waits here,
    and those before it are outrun.

    :param claim: asks the primary; called with the claim, when it was made and its answer, at once or when
        the primary is back.
    """

    def __init__(self, claim: Callable[[Claim, float, Deferred[Opened]], None]) -> None:
        self._claim = claim
        self._waiting: dict[Primary, dict[SessionKey, tuple[Claim, float, Deferred[Opened]]]] = {}

    def open(self, primary: Primary, claim: Claim, at: float) -> Deferred[Opened]:
        """`at`: by the reactor's clock."""
        answer: Deferred[Opened] = Deferred()
        waiting = self._waiting.get(primary)
        if waiting is None:
            self._claim(claim, at, answer)
            return answer
        before = waiting.get(claim.session)
        if before is not None:
            earlier, _, its_answer = before
            if claim.on_same_device == BY_ORDER and claim.order < earlier.order:
                answer.callback(Opened(Verdict.OUTRUN))
                return answer
            its_answer.callback(Opened(Verdict.OUTRUN))
        waiting[claim.session] = claim, at, answer
        return answer

    def withdraw(self, claim: Claim) -> None:
        """Nobody waits for it any more: it is not asked, since it would displace who came after it."""
        for waiting in self._waiting.values():
            there = waiting.get(claim.session)
            if there is not None and there[0] is claim:
                del waiting[claim.session]
                there[2].callback(Opened(Verdict.OUTRUN))
                return

    def changed(self, primary: Primary) -> None:
        """It answers again, or not any more."""
        if not primary.answers:
            self._waiting.setdefault(primary, {})
            return
        for asked in self._waiting.pop(primary, {}).values():
            self._claim(*asked)

    def stop(self) -> None:
        """Claims fail with CancelledError, as those that are asked and have no answer."""
        for waiting in self._waiting.values():
            for _, _, answer in waiting.values():
                answer.errback(CancelledError())
        self._waiting.clear()
