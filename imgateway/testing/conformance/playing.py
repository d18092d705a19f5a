"""Plays scenes one after the other, and knows what to leave out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from imgateway.testing.conformance.play import Play
from imgateway.testing.conformance.report import Line, Report, Verdict
from imgateway.testing.conformance.scenes import SCENES, Scene
from imgateway.testing.conformance.stage import Gone, Stage

__all__ = ("ALWAYS", "play_all")

ALWAYS = frozenset({"greeting", "ack"})
"""Without these the others know too little."""
MANNERS = "sends nothing that a gateway does not take"

Restart = Callable[[], Awaitable[None]]


async def play_all(
    stage: Stage,
    report: Report,
    names: Collection[str] = (),
    restart: Restart | None = None,
) -> None:
    """Play the scenes of these names, all if there are none; `ALWAYS` in any case.

    :param restart: starts the program under test anew; None: nobody can.
    """
    is_gone = False
    for scene in SCENES:
        if names and scene.name not in names and scene.name not in ALWAYS:
            continue
        why = _why_not(stage, scene, restart)
        if why or is_gone:
            report.add(Line(scene.name, scene.about, Verdict.NOT_APPLICABLE, why or "the client is gone"))
            continue
        try:
            if scene.fresh and restart is not None:
                await restart()
            await scene.play(Play(stage, report, scene.name))
        except Gone as gone:
            report.add(Line(scene.name, scene.about, Verdict.WRONG, str(gone)))
            is_gone = restart is None
            if restart is not None:
                stage.reset()
                await restart()
        for fault in stage.faults:
            report.add(Line(scene.name, MANNERS, Verdict.WRONG, fault))
        stage.faults.clear()
    if not any(line.check == MANNERS for line in report.lines):
        report.add(Line("all", MANNERS, Verdict.RIGHT))


def _why_not(stage: Stage, scene: Scene, restart: Restart | None) -> str:
    """Why a scene cannot be played; "" if it can."""
    for need in scene.needs:
        if need not in stage.abilities:
            return f"this wire cannot {need.value}"
    if scene.echo and not stage.echoes:
        return "the program does not send back what it is shown"
    if scene.fresh and restart is None:
        return "the program must be started anew: let --run do it"
    return ""
