"""Topics: subscribed to again on every link, from where they were taken; acknowledged, kept in the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from imgateway.client import Client, Gap, Received, Subscription
from imgateway.client.inbox import Inbox
from imgateway.errors import ClientError, FrameRefused, StoreBusy
from imgateway.frames import (
    Acked,
    Address,
    Deliver,
    DeliverAck,
    Hello,
    LogKey,
    Refused,
    RefusedCode,
    Resumed,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
    parse_address,
)
from imgateway.testing.conditions import LinkConditions
from imgateway.wire.messages import decode_message
from tests.client.fake_gateway import EPOCH, ME, ROOM, World, deliver, done
from tests.client.test_client_against_node import Town
from tests.conformance.wires import CONNECTED, UDP, WIRES

NEWS, SPORT = parse_address("topic:news"), parse_address("topic:sport")


def news(after: int, upto: int, seqs: Any = None, address: Address = NEWS, **more: Any) -> Deliver:
    return deliver(after, upto, seqs, address=address, **more)


def following(world: World, *, last: bool = False, **options: Any) -> tuple[Any, Subscription, list[Any]]:
    """A client that follows the news, and what it is shown: (address id, seq), and gaps as pairs."""
    shown: list[Any] = []

    def on_gap(gap: Gap) -> None:
        shown.append((gap.after, gap.upto))

    def on_message(received: Received) -> None:
        shown.append((received.address.id, received.seq))

    client = world.up(**{"on_message": on_message, "on_gap": on_gap, **options})
    subscribing = client.subscribe("topic:news", last=last)
    world.turn()
    return client, done(subscribing), shown


def acked(world: World, address: Address = NEWS) -> list[int]:
    frames = world.gateway.pipe.of(DeliverAck)
    return [one.upto for frame in frames for one in frame.acks if one.address == address]


def test_messages_come_and_are_acknowledged(world: World) -> None:
    world.gateway.heads = {(NEWS, 0): 4}
    _, topic, shown = following(world)
    assert (topic.address, topic.active) == (NEWS, True)
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(NEWS)]
    world.gateway.pipe.say(news(4, 6), deliver(0, 1))
    assert shown == [("news", 5), ("news", 6), ("me", 1)]
    world.wait(1)
    assert world.gateway.pipe.of(DeliverAck) == [DeliverAck((Acked(ME, EPOCH, 1), Acked(NEWS, EPOCH, 6)))]


def test_the_newest_first(world: World) -> None:
    following(world, last=True)
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(NEWS, last=True)]


def test_a_new_link_subscribes_from_where_it_was_taken(world: World) -> None:
    client, topic, _ = following(world, on_message=None)
    world.gateway.pipe.say(news(0, 3))
    for seq in (1, 2):
        assert done(client.next_message()).seq == seq
    waiting = world.gateway.pipe
    waiting.cut()
    world.wait(1)
    assert [point.address for point in world.gateway.pipe.of(Hello)[0].resume] == [ME]
    # The second is in the application's hands and may be lost there; the third is in our queue.
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(NEWS, epoch=EPOCH, seq=1)]
    assert topic.active
    world.gateway.pipe.say(news(1, 4))
    assert [done(client.next_message()).seq for _ in range(2)] == [3, 4]
    world.wait(1)
    assert acked(world) == [3]


def test_nothing_is_acknowledged_before_the_subscription(world: World) -> None:
    _, _, shown = following(world)
    world.gateway.pipe.say(news(0, 2))
    world.gateway.admits = False
    world.gateway.pipe.cut()
    world.wait(2)
    assert world.gateway.pipe.of(Subscribe)
    assert world.gateway.pipe.of(DeliverAck) == []
    assert shown == [("news", 1), ("news", 2)]


def test_another_epoch_is_a_gap(world: World) -> None:
    _, _, shown = following(world)
    world.gateway.pipe.say(news(0, 2))
    world.gateway.admits = False
    world.gateway.pipe.cut()
    world.wait(1)
    world.gateway.pipe.say(Subscribed(NEWS, 0, 8, 9, True, position=7))
    world.gateway.pipe.say(news(7, 9, epoch=8))
    assert shown[2:] == [(0, 7), ("news", 8), ("news", 9)]


def test_the_file_has_it(world: World, tmp_path: Any) -> None:
    path = str(tmp_path / "state")
    client, _, _ = following(world, state=path)
    world.gateway.pipe.say(news(0, 2), deliver(0, 1))
    world.wait(1)
    client.close()
    world.wait(4)
    client, _, shown = following(world, state=path)
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(NEWS, epoch=EPOCH, seq=2)]
    world.gateway.pipe.say(news(0, 3))
    assert shown == [("news", 3)]


def test_a_place_without_messages_is_in_the_file_too(world: World, tmp_path: Any) -> None:
    path = str(tmp_path / "state")
    world.gateway.heads = {(NEWS, 0): 7}
    client, _, _ = following(world, state=path)
    client.close()
    world.wait(4)
    following(world, state=path)
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(NEWS, epoch=EPOCH, seq=7)]


@pytest.mark.parametrize("shows", [True, False])
def test_unsubscribe_forgets_it_in_the_file(world: World, tmp_path: Any, shows: bool) -> None:
    path = str(tmp_path / "state")
    client, topic, _ = following(world, state=path, on_message=None)
    world.gateway.pipe.say(news(0, 3))
    if shows:
        done(client.next_message())
    leaving = client.unsubscribe(NEWS)
    world.turn()
    assert done(leaving) is None
    assert not topic.active
    assert world.gateway.pipe.of(Unsubscribe) == [Unsubscribe(NEWS)]
    if shows:
        client.take()  # it came before
        assert done(client.next_message()).seq == 2
    world.wait(1)
    assert acked(world) == []
    client.close()
    world.wait(4)
    following(world, state=path)
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(NEWS)]


@pytest.mark.parametrize("when", ["without a link", "the link is stalled", "the gateway did not"])
def test_the_file_forgets_when_the_gateway_has(world: World, tmp_path: Any, when: str) -> None:
    """Until then the gateway may go on for this device from an older place."""
    path = str(tmp_path / "state")
    client, _, shown = following(world, state=path)
    world.gateway.pipe.say(news(0, 2))
    world.wait(1)
    world.gateway.admits = False
    if when == "without a link":
        world.gateway.pipe.cut()
    leaving = client.unsubscribe(NEWS).addErrback(lambda reason: reason.trap(ClientError))
    if when == "the gateway did not":
        world.gateway.pipe.say(Refused("unsubscribe", "topic:news", RefusedCode.UNAVAILABLE))
    client.close()
    world.wait(4)
    assert leaving.called
    world.gateway.admits = True
    _, _, again = following(world, state=path)
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(NEWS, epoch=EPOCH, seq=2)]
    world.gateway.pipe.say(news(0, 3))
    assert (shown, again) == ([("news", 1), ("news", 2)], [("news", 3)])


def test_who_is_put_out_begins_anew_in_the_next_run(world: World, tmp_path: Any) -> None:
    path = str(tmp_path / "state")
    client, topic, _ = following(world, state=path)
    world.gateway.pipe.say(news(0, 2))
    world.gateway.pipe.say(Unsubscribed(NEWS, UnsubscribedCode.REMOVED))
    assert topic.ended is UnsubscribedCode.REMOVED
    client.close()
    world.wait(4)
    following(world, state=path)
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(NEWS)]


@pytest.mark.parametrize("where", ["topic:news", "room:7"])
def test_deliveries_that_unsubscribed_overtook(world: World, tmp_path: Any, where: str) -> None:
    """Over UDP what was lost comes later than what the gateway said after it, but for Subscribed."""
    address, path = parse_address(where), str(tmp_path / "state")
    shown: list[Any] = []

    def run() -> Client:
        return world.up(
            state=path, on_message=lambda one: shown.append(one.seq), on_gap=lambda gap: shown.append("gap")
        )

    client = run()
    client.subscribe(where)
    world.turn()
    world.gateway.pipe.say(news(0, 1, address=address))
    leaving = client.unsubscribe(where)
    world.turn()
    assert done(leaving) is None
    world.gateway.pipe.say(news(1, 3, address=address))
    assert shown == [1]
    client.close()
    world.wait(4)
    world.gateway.heads = {(address, 0): 6, (address, 1): 0}
    client = run()
    subscribing = client.subscribe(where)
    world.gateway.pipe.say(news(3, 4, address=address))
    world.turn()
    assert done(subscribing).active
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(address)]
    world.gateway.pipe.say(news(4, 5, address=address), news(6, 7, address=address))
    assert shown == [1, 7]
    client.subscribe(where, "notify")  # the old mode goes on until there is an answer
    world.gateway.pipe.say(news(7, 8, address=address))
    assert shown == [1, 7, 8]


def test_unsubscribe_without_a_file(world: World) -> None:
    client, _, shown = following(world)
    world.gateway.pipe.say(news(0, 2))
    client.unsubscribe(NEWS)
    world.gateway.pipe.say(news(2, 3))
    world.wait(1)
    assert shown == [("news", 1), ("news", 2)]
    world.gateway.heads = {(NEWS, 0): 3}
    client.subscribe(NEWS)
    world.turn()
    assert world.gateway.pipe.of(Subscribe)[-1] == Subscribe(NEWS)


def test_leaving_without_a_link_waits_for_one(world: World) -> None:
    client, topic, shown = following(world)
    world.gateway.pipe.cut()
    leaving, too = client.unsubscribe(NEWS), client.unsubscribe(NEWS)
    coming = client.subscribe(NEWS)
    gone = client.unsubscribe(NEWS)
    coming.addErrback(lambda reason: reason.trap(ClientError))
    coming = client.subscribe(NEWS)
    assert (topic.ended, leaving.called) == (UnsubscribedCode.ASKED, False)
    world.wait(1)
    assert [done(one) for one in (leaving, too, gone)] == [None] * 3
    assert world.gateway.pipe.of(Unsubscribe, Subscribe) == [Unsubscribe(NEWS), Subscribe(NEWS)]
    assert done(coming).active
    world.gateway.pipe.say(news(0, 1))
    assert shown == [("news", 1)]


def test_leaving_is_said_until_it_is_answered(world: World) -> None:
    client, _, shown = following(world)
    world.gateway.admits = False
    leaving = client.unsubscribe(NEWS)
    client.subscribe(NEWS).addErrback(lambda reason: reason.trap(ClientError))
    gone = client.unsubscribe(NEWS)
    assert world.gateway.pipe.of(Unsubscribe) == [Unsubscribe(NEWS)] * 2
    for _ in range(2):
        world.gateway.pipe.cut()
        world.wait(1)
        assert world.gateway.pipe.of(Unsubscribe) == [Unsubscribe(NEWS)]
    world.gateway.pipe.say(news(0, 1))
    assert (leaving.called, gone.called) == (False, False)
    world.gateway.pipe.say(Unsubscribed(NEWS), Unsubscribed(NEWS, UnsubscribedCode.REMOVED))
    assert (done(leaving), done(gone), shown) == (None, None, [])
    world.gateway.pipe.cut()
    world.wait(1)
    assert world.gateway.pipe.of(Unsubscribe) == []


def test_a_topic_of_an_earlier_run_is_left(world: World, tmp_path: Any) -> None:
    path = str(tmp_path / "state")
    client, _, _ = following(world, state=path)
    client.close()
    world.wait(4)
    client = world.up(state=path)
    leaving = client.unsubscribe(NEWS)
    world.turn()
    assert (done(leaving), world.gateway.pipe.of(Unsubscribe)) == (None, [Unsubscribe(NEWS)])
    world.gateway.heads = {(NEWS, 0): 7}
    client.subscribe(NEWS)
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(NEWS)]


def test_who_closes_before_it_is_answered_hears_so(world: World) -> None:
    client, _, _ = following(world)
    world.gateway.admits = False
    leaving, cancelled = client.unsubscribe(NEWS), client.unsubscribe(SPORT)
    cancelled.addErrback(lambda reason: None).cancel()
    client.close()
    world.turn()
    with pytest.raises(ClientError):
        done(leaving)


@pytest.mark.parametrize("later", [False, True])
def test_a_connection_that_cannot_carry_it(world: World, later: bool) -> None:
    client = world.up()
    world.gateway.watch = lambda pipe, frame: setattr(pipe, "max_send_bytes", 1)
    if later:
        world.gateway.pipe.cut()
    else:
        client.publish("user:bob", b"x")
    leaving = client.unsubscribe(NEWS)
    world.wait(1)
    with pytest.raises(FrameRefused):
        done(leaving)
    assert world.gateway.pipe.of(Unsubscribe) == []


def test_a_room_that_was_left_after_hello_had_named_it(world: World) -> None:
    shown: list[int] = []
    client = world.up(on_message=lambda one: shown.append(one.seq))
    client.subscribe(ROOM)
    world.turn()
    world.gateway.pipe.say(news(0, 2, address=ROOM))
    world.gateway.welcomes = False
    world.gateway.pipe.cut()
    world.wait(1)
    pipe = world.gateway.pipe
    assert ROOM in [point.address for point in pipe.of(Hello)[0].resume]
    assert done(client.unsubscribe(ROOM)) is None
    world.gateway.resumed = (Resumed(ME, 0, EPOCH, 0, 0), Resumed(ROOM, 0, EPOCH, 2, 2))
    pipe.say(world.gateway.welcome(), news(2, 3, address=ROOM))
    world.turn()
    assert pipe.of(Unsubscribe) == [Unsubscribe(ROOM)]
    client.subscribe(ROOM)
    world.turn()
    assert pipe.of(Subscribe) == [Subscribe(ROOM)]
    assert shown == [1, 2]


@pytest.mark.parametrize("where", ["topic:news", "room:7"])
def test_in_and_out_in_one_turn(world: World, where: str) -> None:
    """Each answer is for its own question."""
    client = world.up(on_message=lambda received: None)
    told: list[Any] = []
    client.on_unsubscribed = told.append
    asked = [client.subscribe(where)]
    world.turn()
    left = [client.unsubscribe(where)]
    asked.append(client.subscribe(where))
    asked[1].addErrback(lambda reason: reason.trap(ClientError))
    left.append(client.unsubscribe(where))
    world.gateway.pipe.say(Unsubscribed(parse_address(where)))
    assert [one.called for one in left] == [True, False]
    world.gateway.pipe.say(Subscribed(parse_address(where), 0, EPOCH, 3, position=3))
    world.gateway.pipe.say(Unsubscribed(parse_address(where)))
    assert [done(one) for one in left] == [None, None]
    assert told == []
    assert client._rooms._inbox.position(LogKey(parse_address(where))) == (0, 0)


def test_a_refusal(world: World) -> None:
    world.gateway.admits = False
    client = world.up(on_message=lambda received: None)
    subscribing = client.subscribe("topic:news")
    world.turn()
    world.gateway.pipe.say(Refused("subscribe", "topic:news", RefusedCode.FORBIDDEN, "no"))
    with pytest.raises(FrameRefused, match="no"):
        done(subscribing)


@pytest.mark.parametrize("code", [RefusedCode.UNAVAILABLE, RefusedCode.NOT_SUPPORTED])
def test_who_cannot_unsubscribe_just_now_hears_so_and_may_try_again(world: World, code: RefusedCode) -> None:
    client, _, _ = following(world)
    world.gateway.admits = False
    leaving = client.unsubscribe(NEWS)
    world.turn()
    world.gateway.pipe.say(Refused("unsubscribe", "topic:news", code, "not now"))
    if code is RefusedCode.UNAVAILABLE:
        with pytest.raises(FrameRefused, match="not now"):
            done(leaving)
    else:
        assert done(leaving) is None, "there is nothing that could be left"
    world.gateway.admits = True
    again = client.unsubscribe(NEWS)
    world.turn()
    assert len(world.gateway.pipe.of(Unsubscribe)) == 2
    assert done(again) is None


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_who_cannot_unsubscribe_and_subscribes_again_is_shown_nothing_twice(
    world: World, tmp_path: Any, file: bool, at_once: bool
) -> None:
    client, _, shown = following(world, **({"state": str(tmp_path / "state")} if file else {}))
    world.gateway.pipe.say(news(0, 5))
    assert acked(world) == []
    world.gateway.admits = False
    leaving = client.unsubscribe(NEWS)
    assert acked(world) == [5], "who asks to be forgotten says first how far it has got"
    if at_once:
        client.subscribe(NEWS)
        assert world.gateway.pipe.of(Subscribe)[-1] == Subscribe(NEWS)
    world.gateway.pipe.say(Refused("unsubscribe", "topic:news", RefusedCode.UNAVAILABLE))
    with pytest.raises(FrameRefused):
        done(leaving)
    if not at_once:
        client.subscribe(NEWS)
        assert world.gateway.pipe.of(Subscribe)[-1] == Subscribe(NEWS, epoch=EPOCH, seq=5)
    world.gateway.pipe.say(Subscribed(NEWS, 0, EPOCH, 5, position=3), news(3, 6))
    assert shown == [("news", seq) for seq in range(1, 7)]
    world.wait(1)
    assert acked(world) == [5, 6]


def test_what_comes_of_a_topic_that_is_being_left_is_not_acknowledged(world: World) -> None:
    """The gateway may count anew from where it lets us in again."""
    client, _, _ = following(world, on_message=None)
    world.gateway.pipe.say(news(0, 2))
    first = client.next_message()
    world.gateway.admits = False
    client.unsubscribe(NEWS).addErrback(lambda reason: reason.trap(ClientError))
    client.subscribe(NEWS)
    assert [done(first).seq, done(client.next_message()).seq] == [1, 2]
    world.wait(1)
    world.gateway.pipe.say(Refused("unsubscribe", "topic:news", RefusedCode.UNAVAILABLE))
    world.wait(1)
    assert acked(world) == []
    world.gateway.pipe.say(Subscribed(NEWS, 0, EPOCH, 2, position=0))
    world.wait(1)
    assert acked(world) == []
    world.gateway.pipe.say(news(0, 2))
    world.wait(1)
    assert acked(world) == [1]


def test_a_forgotten_place_moves_nothing() -> None:
    inbox = Inbox(decode_message)
    inbox.resumed(Resumed(NEWS, 0, EPOCH, 0, 0))
    inbox.deliver(news(0, 1))
    item = inbox.next()
    assert item is not None
    inbox.forget(NEWS)
    inbox.take(item)
    assert (inbox.moved, inbox.acks(), inbox.resume_points()) == ({}, (), ())


# ------------------------------------------------------------------------------------- against a whole node


@pytest.fixture(params=WIRES, ids=[wire.name for wire in WIRES])
def town(request: pytest.FixtureRequest) -> Iterator[Town]:
    town = Town(request.param)
    yield town
    town.end()


def test_followers_of_a_real_node_miss_and_repeat_nothing(town: Town) -> None:
    got: list[str] = []
    sender = town.client("!svc")
    bob = town.client("bob+news+sport", on_message=lambda one: got.append(one.message.msg_id))
    for topic in ("topic:news", "topic:sport"):
        town.house.result(bob.subscribe(topic))
    sent: list[str] = []
    for turn in range(4):
        for n in range(6):
            name = f"{turn}.{n}"
            sender.publish(("topic:news", "topic:sport", "user:bob")[n % 3], b"x", msg_id=name)
            sent.append(name)
        if turn % 2:
            town.cut()
        town.house.advance(3)
    town.house.advance(5)
    assert sorted(got) == sorted(sent)
    for kind in range(3):
        mine = [name for name in sent if int(name[-1]) % 3 == kind]
        assert [name for name in got if name in mine] == mine


def test_the_node_knows_where_a_client_without_a_file_was(town: Town) -> None:
    got: list[str] = []
    sender = town.client("!svc")
    bob = town.client("bob+news", on_message=lambda one: got.append(one.message.msg_id))
    town.house.result(bob.subscribe("topic:news"))
    sender.publish("topic:news", b"x", msg_id="1")
    town.house.advance(1)
    closing = bob.close()
    town.house.advance(5)
    town.house.result(closing)
    sender.publish("topic:news", b"x", msg_id="2")
    bob = town.client("bob+news", on_message=lambda one: got.append(one.message.msg_id))
    town.house.result(bob.subscribe("topic:news"))
    town.house.advance(1)
    assert got == ["1", "2"]
    town.house.result(bob.unsubscribe("topic:news"))
    sender.publish("topic:news", b"x", msg_id="3")
    town.house.result(bob.subscribe("topic:news", last=True))
    town.house.advance(1)
    assert got == ["1", "2", "3"]


@pytest.mark.parametrize("where", ["topic:news", "room:7"])
def test_out_and_in_and_out_and_in(town: Town, where: str) -> None:
    got: list[str] = []
    told: list[Any] = []
    bob = town.client("bob+news", on_message=lambda one: got.append(one.message.msg_id))
    bob.on_unsubscribed = told.append
    town.house.result(bob.subscribe(where))
    first = bob.unsubscribe(where)
    bob.subscribe(where).addErrback(lambda reason: reason.trap(ClientError))
    second = bob.unsubscribe(where)
    coming = bob.subscribe(where)
    town.house.advance(1)
    assert (town.house.result(first), town.house.result(second)) == (None, None)
    assert town.house.result(coming).active
    town.client("!svc").publish(where, b"x", msg_id="1")
    town.house.advance(1)
    assert (got, told) == (["1"], [])


def test_a_refusal_behind_an_unsubscribe_that_is_late(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    bob = town.client("bob+news")
    town.house.result(bob.subscribe("topic:news"))
    late: Deferred[None] = Deferred()
    broker = town.house.broker
    with monkeypatch.context() as away:
        away.setattr(broker, "unfollow", lambda *about: late)
        away.setattr(broker, "watch", lambda log: fail(StoreBusy()))
        leaving = bob.unsubscribe("topic:news")
        town.house.advance(3)
        coming = bob.subscribe("topic:news")
        town.house.advance(3)
        assert not leaving.called
        late.callback(None)
        town.house.advance(1)
    town.house.result(leaving)
    with pytest.raises(FrameRefused):
        town.house.result(coming)


@pytest.mark.parametrize("comes_back", [True, False])
@pytest.mark.parametrize("where", ["topic:news", "room:7"])
def test_what_was_lost_on_its_way_is_not_shown_to_who_left(where: str, comes_back: bool) -> None:
    """Over UDP it arrives after the answer, and perhaps when its client is in again."""
    town = Town(UDP)
    shown: list[str] = []
    gaps: list[Gap] = []
    bob = town.client("bob+news", on_message=lambda one: shown.append(one.message.msg_id), on_gap=gaps.append)
    town.house.result(bob.subscribe(where))
    town.wire = CONNECTED[0]
    sender = town.client("!svc")
    datagrams = town.house.network.datagrams
    clean, datagrams.conditions = datagrams.conditions, LinkConditions(loss=1.0)
    for n in range(3):
        town.house.result(sender.publish(where, b"x", msg_id=f"lost {n}"))
    town.house.advance(1)
    datagrams.conditions = clean
    town.house.result(bob.unsubscribe(where))
    if comes_back:
        town.house.result(sender.publish(where, b"x", msg_id="for others"))
        town.house.result(bob.subscribe(where))
    town.house.advance(10)
    if not comes_back:
        town.house.result(bob.subscribe(where))
    town.house.result(sender.publish(where, b"x", msg_id="last"))
    town.house.advance(2)
    assert (shown, gaps) == (["last"], [])
    town.end()


@pytest.mark.parametrize("when", ["without a link", "as the link breaks", "in another run"])
def test_who_left_is_told_nothing_of_what_came_since(town: Town, when: str, tmp_path: Any) -> None:
    got: list[str] = []
    path = str(tmp_path / "state")

    def run() -> Client:
        return town.client("bob+news", state=path, on_message=lambda one: got.append(one.message.msg_id))

    sender = town.client("!svc")
    bob = run()
    town.house.result(bob.subscribe("topic:news"))
    town.house.result(sender.publish("topic:news", b"x", msg_id="1"))
    town.house.advance(1)
    if when == "without a link":
        town.cut()
        leaving = bob.unsubscribe("topic:news")
    elif when == "as the link breaks":
        leaving = bob.unsubscribe("topic:news")
        town.cut()
    else:
        closing = bob.close()
        town.house.advance(5)
        town.house.result(closing)
        bob = run()
        leaving = bob.unsubscribe("topic:news")
    town.house.advance(4)
    assert town.house.result(leaving) is None
    town.house.result(sender.publish("topic:news", b"x", msg_id="2"))
    town.house.result(bob.subscribe("topic:news"))
    town.house.result(sender.publish("topic:news", b"x", msg_id="3"))
    town.house.advance(1)
    assert got == ["1", "3"]


def test_another_mode_meanwhile_does_not_keep_acknowledgements_back(town: Town) -> None:
    """With a window that is full, nothing more would come without them."""
    waiting: list[Deferred[None]] = []

    def on_message(received: Received) -> Deferred[None]:
        waiting.append(Deferred())
        return waiting[-1]

    bob = town.client("bob+news", on_message=on_message)
    town.house.result(bob.subscribe("topic:news"))
    ended: list[int] = []
    bob.on_down = lambda code, why: ended.append(code)
    sender = town.client("!svc")
    for _ in range(100):
        sender.publish("topic:news", b"x")
    town.house.advance(1)
    town.house.result(bob.subscribe("topic:news", "notify"))
    for n in range(100):
        if n == len(waiting):
            town.house.advance(1)
        waiting[n].callback(None)
    town.house.advance(40)
    assert (len(waiting), ended) == (100, [])
