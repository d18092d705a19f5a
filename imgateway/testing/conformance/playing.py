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
    begin: Callable[[Scene], object] = lambda scene: None,
) -> None:
    """Play the scenes of these names, all if there are none; `ALWAYS` in any case.

    :param restart: starts the program under test anew; None: nobody can.
    :param begin: called with each scene that is played, before it is.
    """
    is_gone = False
    for scene in SCENES:
        if names and scene.name not in names and scene.name not in ALWAYS:
            continue
        why = _why_not(stage, scene, restart, is_gone)
        if why:
            report.add(Line(scene.name, scene.about, Verdict.NOT_APPLICABLE, why))
            continue
        begin(scene)
        try:
            if scene.fresh and restart is not None:
                await _anew(stage, restart)
            await scene.play(Play(stage, report, scene.name))
        except Gone as gone:
            report.add(Line(scene.name, scene.about, Verdict.WRONG, str(gone)))
            # A program that never came would not come for the other scenes either.
            is_gone = restart is None or scene.name == "greeting"
            stage.reset()
            if restart is not None and not is_gone:
                await _anew(stage, restart)
        for fault in stage.faults:
            report.add(Line(scene.name, MANNERS, Verdict.WRONG, fault))
        stage.faults.clear()
    was_there = any(visit.hello is not None for visit in stage.visits)
    if was_there and not any(line.check == MANNERS for line in report.lines):
        report.add(Line("all", MANNERS, Verdict.RIGHT))


async def _anew(stage: Stage, restart: Restart) -> None:
    """Start the program anew. Where a transport does not say who is gone, its old connections end here."""
    old = tuple(stage.visits)
    await restart()
    for visit in old:
        if not visit.over:
            visit.cut()


def _why_not(stage: Stage, scene: Scene, restart: Restart | None, is_gone: bool) -> str:
    """Why a scene cannot be played; "" if it can."""
    for need in scene.needs:
        if need not in stage.abilities:
            return f"this wire cannot {need.value}"
    if scene.fresh and restart is None:
        return "the program must be started anew: let --run do it"
    if is_gone:
        return "the client is gone"
    if scene.echo and not stage.echoes:
        return "the program does not send back what it is shown"
    return ""
