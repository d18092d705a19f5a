"""What the embedded broker makes of a cluster: itself."""

from __future__ import annotations

from pathlib import Path

from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.frames import SessionKey, log_of, parse_address
from imgateway.interfaces import Mailbox
from imgateway.testing.disk import Recorder, Rig, opening

BOB = SessionKey("bob", "phone")
MAIL = log_of(parse_address("user:bob"))


def test_nobody_hears_before_the_start_or_after_the_stop() -> None:
    rig = Rig(None)
    assert rig.now(rig.broker.tell("n.1", b"x")) is False
    assert rig.now(rig.broker.tell("", b"x")) is False
    rig.start()
    rig.later(rig.broker.tell("n.1", b"1"))
    rig.later(rig.broker.tell("n.1", b"2"))
    rig.pass_time(0.1)
    assert rig.listener.named("control") == [(b"1",), (b"2",)]
    rig.later(rig.broker.tell("n.1", b"3"))
    rig.stop()
    assert rig.now(rig.broker.tell("n.1", b"4")) is False
    assert rig.clock.getDelayedCalls() == []
    assert len(rig.listener.named("control")) == 2, "at most once"


def test_a_listener_that_raises(flush_logged_errors: object) -> None:
    class Deaf(Recorder):
        def control(self, payload: bytes) -> None:
            super().control(payload)
            raise ZeroDivisionError

    rig = Rig(None)
    rig.listener = Deaf()
    rig.start()
    for payload in (b"1", b"2"):
        rig.later(rig.broker.tell("n.1", payload))
    rig.pass_time(0.1)
    assert rig.listener.named("control") == [(b"1",), (b"2",)]
    assert len(flush_logged_errors(ZeroDivisionError)) == 2  # type: ignore[operator]


def test_a_mailbox_counts_what_is_not_on_disk_yet_and_what_was_before(tmp_path: Path) -> None:
    rig = Rig(tmp_path).start()
    for n in range(3):
        rig.publish("user:bob", msg_id=str(n))
    rig.run()
    opened = rig.now(opening(rig.broker, rig.claim("bob")))
    epoch = opened.places[0].epoch
    rig.broker.advance(BOB, opened.generation, [(MAIL, 2)])
    assert rig.now(rig.broker.mailbox("bob")) == Mailbox(epoch, 1, 3, 2)
    rig.crash()  # the position was not written
    assert rig.now(rig.broker.mailbox("bob")) == Mailbox(epoch, 1, 3, 0)
    opened = rig.now(opening(rig.broker, rig.claim("bob")))
    rig.broker.advance(BOB, opened.generation, [(MAIL, 3)])
    rig.now(rig.broker.close_session(BOB, opened.generation))
    rig.stop()
    rig.new()
    rig.start()
    assert rig.now(rig.broker.mailbox("bob")) == Mailbox(epoch, 1, 3, 3)


def test_whether_a_session_was_there() -> None:
    rig = Rig(None).start()
    broker: EmbeddedBroker = rig.broker
    first = rig.now(opening(broker, rig.claim("bob")))
    second = rig.now(opening(broker, rig.claim("bob")))
    rig.now(broker.close_session(BOB, second.generation))
    third = rig.now(opening(broker, rig.claim("bob")))
    assert [one.resumed for one in (first, second, third)] == [False, True, False]
    assert rig.now(opening(broker, rig.claim("bob", "pad"))).resumed is False
