"""Scenes about the life of connections: signs of life, coming again, staying away."""

from __future__ import annotations

from itertools import pairwise

from imgateway.errors import CloseCode
from imgateway.frames import Ping, Pong, Renew, Request, Response
from imgateway.testing.conformance.abilities import Ability
from imgateway.testing.conformance.play import Play
from imgateway.testing.conformance.stage import HEARTBEAT_S, Stage
from imgateway.testing.conformance.visit import Visit

__all__ = ("heartbeat", "kicked", "pacing", "questions", "refused", "renewing")

BEAT_S = 2.0
LIFETIME_S = 8.0
RETRY_S = 3.0
SETTLED_S = 12.0
"""A connection that lived so long was a good one: a client begins anew with its waits."""
STAY_AWAY_S = 10.0
AT_ONCE_S = 0.1
LATER_CODE = 199
"""A close code that no client has heard of; its range says to come again when it is told to."""


async def heartbeat(play: Play) -> None:
    stage = play.stage
    stage.heartbeat_s = BEAT_S
    visit = await stage.again(await stage.visit())
    begin_s = stage.now()
    await stage.is_over(visit, 4 * BEAT_S)
    times_s = [begin_s, *(time for time in visit.times_s if time > begin_s), stage.now()]
    longest_s = max(later - earlier for earlier, later in pairwise(times_s))
    play.check(
        f"gives a sign of life every {BEAT_S:g} s if it is told to",
        not visit.over and longest_s <= 1.25 * BEAT_S,
        "it left" if visit.over else f"it was silent for {longest_s:.1f} s",
    )
    stage.heartbeat_s = HEARTBEAT_S
    visit = await stage.again(await stage.visit())
    visit.say(Ping(77, stage.wall_ms()))
    answered = await stage.until(lambda: any(pong.nonce == 77 for pong in visit.of(Pong)))
    play.check("answers a ping with a pong of the same nonce", answered, "no such pong came")


async def questions(play: Play) -> None:
    stage = play.stage
    visit = await stage.visit()
    visit.say(Request(5, "conformance", "what"))
    answered = await stage.until(lambda: any(answer.id == 5 for answer in visit.of(Response)))
    play.check("answers a request, if only with a code", answered, "no response with its id came")


async def renewing(play: Play) -> None:
    stage = play.stage
    stage.token_expires_ms = stage.wall_ms() + int(1000 * LIFETIME_S)
    visit = await stage.again(await stage.visit())
    renewed = await stage.until(lambda: any(one.token == stage.token for one in visit.of(Renew)), LIFETIME_S)
    play.check(
        "renews its token before that ends",
        renewed,
        "another token came"
        if visit.of(Renew)
        else f"nothing came in {LIFETIME_S:g} s; give the client a function that gets tokens",
    )
    stage.token_expires_ms = 0
    if not renewed:
        await stage.again(await stage.visit())


async def pacing(play: Play) -> None:
    stage = play.stage
    visit = await stage.visit()
    if play.can(Ability.RETURN, what := "comes again when it is told to, and not before"):
        visit.bye(LATER_CODE, "later", RETRY_S)
        said_s = stage.now()
        came = await stage.comes_after(len(stage.visits))
        came_s = stage.absence_s if came is None else came.came_s - said_s
        ok = came is not None and came_s >= RETRY_S
        play.check(what, ok, f"after {came_s:.1f} s; {RETRY_S:g} s were told")
    visit = await stage.visit()
    await stage.pause(SETTLED_S)
    waits_s = await _waits(stage, await stage.visit(), 4)
    said = "it waited " + ", ".join(f"{wait_s:.2f} s" for wait_s in waits_s)
    whole = len(waits_s) == 4
    # Dice that know no least wait may say "at once", but hardly twice.
    at_once = sum(wait_s < AT_ONCE_S for wait_s in waits_s)
    play.check("does not come again at once, again and again", whole and at_once < 2, said)
    play.check("waits longer each time", whole and waits_s[3] > 1.5 * waits_s[0], said)
    play.check("rolls dice for its waits", whole and _is_uneven(waits_s), said)
    await stage.visit()


async def _waits(stage: Stage, visit: Visit, count: int) -> list[float]:
    """Cut the client off as often as it comes; how long it waited each time."""
    waits_s: list[float] = []
    stage.greet = Visit.cut
    try:
        while len(waits_s) < count:
            gone_s = stage.now()
            if not visit.over:
                visit.cut()
            came = await stage.comes_after(stage.visits.index(visit) + 1)
            if came is None:
                break
            visit = came
            waits_s.append(visit.came_s - gone_s)
            await stage.is_over(visit)
    finally:
        stage.greet = stage.welcome
    return waits_s


def _is_uneven(waits_s: list[float]) -> bool:
    """Waits that grow by one factor, or not at all, know no chance: a crowd that does so comes as one."""
    steps = [later / max(earlier, 1e-9) for earlier, later in pairwise(waits_s)]
    return max(steps) - min(steps) > 0.02 * max(steps)


async def kicked(play: Play) -> None:
    stage = play.stage
    visit = await stage.visit()
    visit.bye(CloseCode.KICKED, "you have to go")
    came = await stage.comes_after(len(stage.visits), STAY_AWAY_S)
    play.check("stays away when it is told to", came is None, "it came again")


async def refused(play: Play) -> None:
    stage = play.stage
    count = len(stage.visits)
    stage.greet = lambda visit: visit.bye(CloseCode.BAD_TOKEN, "the token is not valid")
    try:
        first = await stage.comes_after(count)
        if first is None or not await stage.until(lambda: any(visit.hello for visit in stage.visits[count:])):
            raise stage.gone("there to be refused", len(stage.visits) - count)
        came = await stage.comes_after(len(stage.visits), STAY_AWAY_S)
        play.check("stays away when its login is refused", came is None, "it came again")
    finally:
        stage.greet = stage.welcome
