"""However logins, goodbyes and positions overlap: no position goes back, and in the end nothing is left."""

from __future__ import annotations

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imgateway.frames import SessionKey, Start, log_of, parse_address
from imgateway.interfaces import LoginPolicy, Verdict
from imgateway.testing.disk import Rig, opening

MAILBOX = log_of(parse_address("user:bob"))
TOPICS = [log_of(parse_address(f"topic:{name}")) for name in "ab"]
DEVICES = ("phone", "web", "pad")
BRIEF = "nameless"
HEAD = 9

device = st.sampled_from((*DEVICES, BRIEF))
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), device, st.sampled_from(LoginPolicy)),
        st.tuples(st.just("withdraw"), device, st.none()),
        st.tuples(st.just("close"), device, st.booleans()),
        st.tuples(st.just("ack"), device, st.integers(1, HEAD)),
        st.tuples(st.just("park"), device, st.integers(1, HEAD)),
        st.tuples(st.just("unpark"), device, st.integers(1, HEAD)),
        st.tuples(st.just("record"), device, st.binary(min_size=1, max_size=2)),
        st.tuples(st.sampled_from(["follow", "unfollow"]), device, st.sampled_from(TOPICS)),
        st.tuples(st.just("watch"), st.booleans(), st.none()),
        st.tuples(st.just("hours"), st.none(), st.none()),
        st.tuples(st.just("step"), st.integers(0, 9), st.none()),
        st.tuples(st.just("run"), st.none(), st.none()),
    ),
    max_size=40,
)


class Known:
    """What the broker must know of a device at its next login."""

    def __init__(self, acked: int) -> None:
        self.acked = acked
        self.parked: set[int] = set()
        self.record = b""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), ACTIONS, st.booleans())
@example(
    0,
    [
        ("open", "phone", LoginPolicy.MANY),
        ("run", None, None),
        ("follow", "phone", TOPICS[0]),
        ("unfollow", "phone", TOPICS[0]),
    ],
    False,
)
def test_no_position_goes_back_and_nothing_is_left(seed: int, actions: list[Any], crowded: bool) -> None:
    """One device ends with its session, unless it comes with a certain policy. `crowded`: the user has more
    devices than are kept, so each may be forgotten while it is away. On disk, where the reader may see what
    is older than what is about to be written."""
    with TemporaryDirectory() as folder:
        play(Rig(Path(folder) / "data", max_devices=2 if crowded else 9).start(), seed, actions, crowded)


def play(rig: Rig, seed: int, actions: list[Any], crowded: bool) -> None:
    for number in range(HEAD):
        rig.publish("user:bob", *(f"topic:{name}" for name in "ab"), msg_id=f"m{number}")
    rig.run()
    broker: Any = rig.broker
    live: dict[str, int] = {}
    known: dict[str, Known] = {}
    claims: dict[str, Any] = {}
    watched, pending = False, 0

    def displaced(session: SessionKey, generation: int, code: int, reason: str) -> None:
        if live.get(session.device) == generation:
            del live[session.device]

    rig.listener.displaced = displaced  # type: ignore[method-assign]

    def answered(found: Any, name: str) -> None:
        nonlocal pending
        pending -= 1
        if found.verdict != Verdict.OK:
            return
        live[name] = found.generation
        place, before = found.places[0], known.get(name)
        if name == BRIEF:
            known[name] = Known(place.acked)
        elif found.known and before is not None:
            assert (place.acked, set(place.parked)) == (before.acked, before.parked)
            assert found.record == before.record
        else:
            assert crowded or before is None, "a position is lost"
            known[name] = Known(place.acked)

    for action, *values in actions:
        name, value = values
        session, generation = SessionKey("bob", str(name)), live.get(name, 0)
        if action == "open":
            pending += 1
            brief = name == BRIEF and value is not LoginPolicy.ONE_PER_PLATFORM
            start = Start.HEAD if brief else Start.OLDEST
            claims[name] = rig.claim("bob", name, policy=value, start=start, brief=brief)
            opening(broker, claims[name]).addCallback(answered, name)
        elif action == "withdraw":
            if name in claims:
                broker.withdraw(claims[name])
        elif action == "watch":
            watched = name
            broker.watch(MAILBOX) if watched else broker.unwatch(MAILBOX)
        elif action == "hours":
            rig.wall_ms += 7_200_000
        elif action == "step":
            if found := rig.steps.choices():
                found[name % len(found)]()
        elif action == "run":
            rig.run(Random(seed))
        elif not generation:
            continue
        elif action == "close":
            del live[name]
            if value:
                del known[name]
            broker.close_session(session, generation, value)
        elif action == "ack":
            broker.advance(session, generation, [(MAILBOX, value)])
            known[name].acked = max(known[name].acked, value)
        elif action == "park":
            broker.advance(session, generation, [], [(MAILBOX, value)])
            known[name].parked |= {value}
        elif action == "unpark":
            broker.unpark(session, generation, MAILBOX, value)
            known[name].parked -= {value}
        elif action == "record":
            broker.record(session, generation, value)
            known[name].record = value
        else:
            getattr(broker, action)(session, generation, value, *([1] if action == "follow" else []))
    rig.run(Random(seed))
    assert not pending
    for name in tuple(live):
        broker.close_session(SessionKey("bob", name), live.pop(name))
    if watched:
        broker.unwatch(MAILBOX)
    rig.run(Random(seed))
    broker._sessions.flush()
    rig.run(Random(seed))
    sessions = broker._sessions
    assert sessions.online == 0
    assert len(broker._tails) == 0
    unsaved = sessions._unsaved
    counts = (broker._tails.pins, unsaved.under_way, sessions._unfollowing)
    assert list(counts) == [{}, {}, {}]
    assert (unsaved.seen, unsaved._dirty, unsaved._moved, unsaved._ended) == ({}, {}, {}, {})
    assert (sessions.waiting, sessions._brief) == (0, set())
    assert (sessions._waiting, sessions._forgotten, sessions._entering, sessions._following) == (
        {},
        {},
        {},
        {},
    )
    rig.stop()
