"""Scenes about what a client publishes: they have the program send back what it is shown."""

from __future__ import annotations

from imgateway.frames import Limits, Publish
from imgateway.testing.conformance.abilities import Ability
from imgateway.testing.conformance.play import Play

__all__ = ("oversize", "publishing", "window")


async def publishing(play: Play) -> None:
    stage = play.stage
    visit = await stage.visit()
    stage.answers = False
    texts = ["answer later", "answer much later", "answer at last"]
    stage.tell(visit, *texts)
    await stage.are_shown(texts)
    ids = [frame.msg_id for frame in stage.unanswered()]
    # One after the other is slow, and nothing wrong.
    play.check("publishes while nothing is answered", bool(ids), "it published nothing")
    what = "repeats nothing on a living connection"
    if play.can(Ability.PATIENCE, what):
        await stage.pause(stage.patience_s)
        repeated = len(stage.unanswered()) - len(ids)
        play.check(what, not repeated, f"it repeated {repeated}")
    visit.cut()
    visit = await stage.visit()
    await stage.until(lambda: len(visit.of(Publish)) >= len(ids))
    again = visit.of(Publish)[: len(ids)]
    said = [frame.msg_id for frame in again]
    play.check(
        "repeats what has no answer on the next, with the same ids in the same order",
        bool(ids) and said == ids,
        f"first {ids}, then {said}",
    )
    what = "says that they may have been sent before"
    if play.can(Ability.REPEATS, what):
        play.check(what, bool(again) and all(frame.resent for frame in again), "resent is not set")
    stage.answer_all(visit)
    count = len(stage.published)
    stage.tell(visit, "all answered")
    await stage.are_shown(["all answered"])
    await stage.pause(stage.patience_s / 2)
    old = [frame for frame in stage.published[count:] if frame.msg_id in ids]
    play.check("is content with an answer", not old, f"it published {len(old)} of them once more")


async def window(play: Play) -> None:
    stage = play.stage
    stage.limits = Limits(publish_window=2)
    visit = await stage.again(await stage.visit())
    stage.answers = False
    texts = [f"window {number}" for number in range(6)]
    stage.tell(visit, *texts)
    await stage.until(lambda: len(stage.unanswered()) > 2, stage.patience_s / 2)
    count = len(stage.unanswered())
    play.check("keeps to the number that may wait for an answer", count <= 2, f"{count} wait; 2 may")
    stage.answer_all(visit)
    await play.check_shown("goes on when it is answered", *texts)
    stage.limits = Limits()
    await stage.again(visit)


async def oversize(play: Play) -> None:
    stage = play.stage
    stage.limits = Limits(max_body_bytes=64)
    visit = await stage.again(await stage.visit())
    stage.tell(visit, "o" * 200, "small")
    await play.check_shown("goes on after a message that it may not publish", "small")
    largest = max((len(frame.body) for frame in visit.of(Publish)), default=0)
    play.check("publishes nothing larger than it may", largest <= 64, f"{largest} bytes; 64 are allowed")
    stage.limits = Limits()
    await stage.again(visit)
