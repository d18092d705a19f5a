"""What the hub makes of rooms: session listeners are told who is in them."""

from __future__ import annotations

from typing import Any

from imgateway.errors import CloseCode
from imgateway.frames import Bye, OutcomeCode, PublishAck, SessionKey, log_of, parse_address
from imgateway.interfaces import Identity
from tests.node.rig import Diary, Rig


def test_listeners_are_told_of_rooms(flush_logged_errors: Any) -> None:
    diary, broken = Diary(), Diary(raises=True)
    rig = Rig("memory", listeners=[broken, diary])
    bob, room = rig.login("bob"), parse_address("room:7")
    session = rig.session("bob")
    rig.broker.join(SessionKey("bob", "phone"), session.generation, room)
    bob.send(Bye(0))
    rig.settle()
    events = [("opened", "phone"), ("entered", "phone", room), ("left", "phone", room)]
    assert diary.events == [*events, ("closed", "phone", CloseCode.NORMAL)] == broken.events
    assert rig.counters.plugin_errors == {"listener": 4}
    assert len(flush_logged_errors(ZeroDivisionError)) == 4


def test_a_ring_is_not_the_mailbox_of_a_user_with_its_id() -> None:
    rig = Rig("memory")
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    bob, svc = rig.login("bob"), rig.login("svc")
    rig.broker.watch(log_of(parse_address("room:bob")))
    svc.publish("1", "room:bob")
    rig.settle()
    assert svc.of(PublishAck)[0].outcomes[0].code == OutcomeCode.OK
    assert bob.shown() == []
