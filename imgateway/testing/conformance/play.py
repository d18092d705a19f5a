"""One scene: the stage that it is played on, and its lines of the report."""

from __future__ import annotations

from imgateway.testing.conformance.abilities import Ability
from imgateway.testing.conformance.report import Line, Report, Verdict
from imgateway.testing.conformance.stage import Stage

__all__ = ("Play",)


class Play:
    """One scene on the stage, with its lines of the report."""

    def __init__(self, stage: Stage, report: Report, scene: str) -> None:
        self.stage = stage
        self._report = report
        self._scene = scene

    def check(self, what: str, ok: bool, otherwise: str = "") -> None:
        verdict = Verdict.RIGHT if ok else Verdict.WRONG
        self._report.add(Line(self._scene, what, verdict, "" if ok else otherwise))

    def skip(self, what: str, why: str) -> None:
        self._report.add(Line(self._scene, what, Verdict.NOT_APPLICABLE, why))

    def can(self, ability: Ability, what: str) -> bool:
        """Whether this wire can; if not, `what` is left out."""
        if ability in self.stage.abilities:
            return True
        self.skip(what, f"this wire cannot {ability.value}")
        return False

    def echoes(self, what: str) -> bool:
        """Whether the program sends back what it is shown; if not, `what` is left out."""
        if not self.stage.echoes:
            self.skip(what, "the program does not send back what it is shown")
        return self.stage.echoes

    async def check_acked(self, what: str, upto: int) -> bool:
        ok = await self.stage.is_acked(upto)
        stands = f"{self.stage.acked} is acknowledged after {self.stage.patience_s:g} s, {upto} was sent"
        self.check(what, ok, stands)
        return ok

    async def check_shown(self, what: str, *texts: str) -> None:
        """These, in this order, and each once; waits for the last of them."""
        if not self.echoes(what):
            return
        stage = self.stage
        await stage.are_shown(texts)
        shown = [text for text in stage.shown if text in texts]
        self.check(what, shown == list(texts), f"it showed {_listed(shown)}")


def _listed(texts: list[str]) -> str:
    return ", ".join(repr(text[:30]) for text in texts) or "nothing"
