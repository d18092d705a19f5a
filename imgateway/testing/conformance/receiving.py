"""Scenes about what a client is sent: from its greeting to messages of a gateway that is newer than it."""

from __future__ import annotations

from itertools import takewhile

from imgateway.errors import CloseCode
from imgateway.frames import DeliverAck, Pull
from imgateway.testing.conformance.abilities import Ability, with_unknown_fields
from imgateway.testing.conformance.play import Play

__all__ = ("acknowledging", "gaps", "greeting", "order", "repeats", "replaced_log", "resuming", "strangers")

LARGEST = 65_536


async def greeting(play: Play) -> None:
    stage = play.stage
    visit = await stage.visit()
    assert visit.hello is not None
    greeted_s = visit.times_s[0] - visit.came_s
    play.check("greets as soon as it is connected", greeted_s <= stage.patience_s, f"after {greeted_s:.1f} s")
    play.check("shows its token", visit.hello.token == stage.token, "it is another, or none")


async def acknowledging(play: Play) -> None:
    stage = play.stage
    visit = await stage.visit()
    await play.check_acked("acknowledges a message in time", stage.tell(visit, "hello"))
    stage.echoes = await stage.are_shown(["hello"])
    await play.check_shown("shows it", "hello")
    what = "acknowledges a range without messages"
    if play.can(Ability.RANGES, what):
        stage.head += 3
        stage.deliver(visit, stage.head - 3, stage.head)
        await play.check_acked(what, stage.head)
    what = f"takes a body of {LARGEST:,} bytes"
    after = stage.head
    if stage.deliver(visit, after, stage.append("x" * LARGEST)):
        await play.check_acked(what, stage.head)
    else:
        play.skip(what, "this wire, or this transport, cannot carry it")
        stage.forget(after)


async def order(play: Play) -> None:
    stage = play.stage
    visit = await stage.visit()
    texts = [f"number {number}" for number in range(20)]
    for part in (texts[:1], texts[1:8], texts[8:]):
        stage.tell(visit, *part)
    await play.check_acked("acknowledges twenty in a row", stage.head)
    await play.check_shown("shows them in their order, each once", *texts)


async def resuming(play: Play) -> None:
    stage = play.stage
    visit = await stage.visit()
    stage.tell(visit, "before the cut")
    await stage.is_acked(stage.head)
    acked, sent = stage.acked, stage.sent
    visit.cut()
    stage.append("while it was away")
    visit_2 = await stage.visit()
    play.check("comes again when its connection breaks", True)
    assert visit.hello is not None
    assert visit_2.hello is not None
    names = visit.hello.device, visit_2.hello.device
    play.check("is the same device as before", names[0] == names[1], f"first {names[0]!r}, then {names[1]!r}")
    what = "says how far it is"
    if play.can(Ability.POSITIONS, what):
        point = visit_2.point()
        ok = point is not None and point.epoch == stage.epoch and acked <= point.seq <= sent
        said = "nothing" if point is None else f"{point.seq} of epoch {point.epoch}"
        play.check(what, ok, f"it says {said}, and has acknowledged {acked} of epoch {stage.epoch}")
    await play.check_acked("takes what came while it was away", stage.head)
    await play.check_shown("shows both once", "before the cut", "while it was away")


async def repeats(play: Play) -> None:
    """The gateway knows less than the client, as after an acknowledgement that got lost."""
    stage = play.stage
    visit = await stage.visit()
    stage.tell(visit, "one", "two")
    await stage.is_acked(stage.head)
    known, stage.acked = stage.acked, stage.acked - 2
    stage.rewind = 2
    visit = await stage.again(visit)
    await play.check_acked("acknowledges again what it is sent again", known)
    texts = ["one", "two"]
    if Ability.RANGES in stage.abilities:
        stage.deliver(visit, stage.head - 1, stage.append("three"))
        await play.check_acked("takes the new part of what it has in part", stage.head)
        texts.append("three")
    else:
        stage.tell(visit, "three")
        await stage.is_acked(stage.head)
    what = "shows nothing twice"
    if play.can(Ability.ONCE, what) and play.echoes(what):
        await stage.are_shown(["three"])
        await play.check_shown(what, "one", "two", "three")


async def replaced_log(play: Play) -> None:
    stage = play.stage
    visit = await stage.visit()
    stage.renumber()
    visit.bye(CloseCode.STALE, "the log was replaced; resume")
    visit = await stage.visit()
    await play.check_acked("goes on in a new log, whose numbers begin anew", stage.tell(visit, "a new log"))
    await play.check_shown("shows what stands in it", "a new log")


async def gaps(play: Play) -> None:
    stage = play.stage
    visit = await stage.visit()
    after = stage.head
    stage.head += 4
    stage.append("after the gap")
    stage.deliver(visit, after, stage.head, gap=True)
    await play.check_acked("goes on behind a gap that it is told of", stage.head)
    after = stage.append("missing")
    before = len(stage.visits)
    known = len(visit.frames)
    upto = stage.append("behind a hole")
    stage.append("not delivered yet")
    stage.deliver(visit, after, upto)
    asked = await stage.until(lambda: bool(visit.of(Pull)) or len(stage.visits) > before)
    play.check("asks for what is missing, or comes again", asked, "it did neither")
    # It is answered as soon as it asks, with all that there is, and may acknowledge what was delivered.
    said = list(takewhile(lambda frame: not isinstance(frame, Pull), visit.frames[known:]))
    acks = [ack.upto for frame in said if isinstance(frame, DeliverAck) for ack in frame.acks]
    acked = max(acks, default=0)
    play.check("acknowledges nothing behind a hole", acked < after, f"it acknowledged {acked}")
    if not asked:
        stage.deliver(visit, after - 1, upto)
    await play.check_acked("takes both when it has them", upto)
    visit = await stage.visit()
    if stage.sent < stage.head:  # else it came again
        stage.deliver(visit, stage.sent, stage.head)
    await play.check_acked("acknowledges what an answer brought once it is delivered", stage.head)
    texts = "after the gap", "missing", "behind a hole", "not delivered yet"
    await play.check_shown("shows them in their order", *texts)


async def strangers(play: Play) -> None:
    """A gateway that is newer than the client."""
    stage = play.stage
    visit = await stage.visit()
    after = stage.head
    data = visit.codec.encode(stage.range(after, stage.append("from the future")))
    visit.connection.send(with_unknown_fields(stage.wire, visit.connection.stream, data))
    acked = await stage.is_acked(stage.head)
    said = "it left" if visit.over else "it did not acknowledge the message that they stand in"
    play.check("passes over fields that it does not know", acked and not visit.over, said)
    await play.check_shown("shows the message that they stand in", "from the future")
