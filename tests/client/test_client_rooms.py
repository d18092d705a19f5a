"""Rooms: subscribing, leaving, coming again, Notify and Pull, compressed deliveries."""

from __future__ import annotations

from typing import Any

import pytest

from imgateway.client import Gap, Received, Subscription
from imgateway.client.inbox import Inbox
from imgateway.client.notices import Notices
from imgateway.errors import ClientError, CloseCode, FrameRefused, InvalidAddress
from imgateway.frames import (
    Address,
    Deliver,
    DeliverAck,
    Frame,
    Hello,
    Limits,
    LogKey,
    Mode,
    Notify,
    Publish,
    Pull,
    Refused,
    RefusedCode,
    Resumed,
    ResumePoint,
    Subscribe,
    Subscribed,
    Told,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
    parse_address,
)
from imgateway.wire.compression import zstd
from imgateway.wire.messages import decode_message
from tests.client.fake_gateway import EPOCH, ME, ROOM, World, deliver, done, entry

AREA = parse_address("area:games")


def block(after: int, upto: int, seqs: Any = None, **more: Any) -> Deliver:
    return deliver(after, upto, seqs, **{"address": ROOM, **more})


def part(after: int, upto: int, seqs: Any = None, **more: Any) -> Deliver:
    """Of an answer."""
    return block(after, upto, seqs, pulled=True, **more)


def joined(world: World, mode: str = "push", **options: Any) -> tuple[Any, Subscription, list[Any]]:
    """A client in room:7, and what it is shown: seqs, and gaps as pairs."""
    shown: list[Any] = []

    def on_gap(gap: Gap) -> None:
        shown.append((gap.after, gap.upto))

    client = world.up(on_message=lambda received: shown.append(received.seq), on_gap=on_gap, **options)
    subscribing = client.subscribe("room:7", mode)
    world.turn()
    return client, done(subscribing), shown


def resumes(world: World, *points: tuple[int, int], epoch: int = EPOCH, gap: bool = False) -> None:
    """The next Welcome resumes the room at (lane, position)."""
    world.gateway.resumed = (
        Resumed(ME, 0, EPOCH, 0, 0),
        *(Resumed(ROOM, lane, epoch, position, position, gap) for lane, position in points),
    )


def again(world: World) -> None:
    world.gateway.pipe.cut()
    world.wait(1)


# -------------------------------------------------------------------------------------------------- joining


def test_messages_of_a_room_come_as_all_others_do(world: World) -> None:
    got: list[Received] = []
    client = world.up(on_message=got.append)
    subscribing = client.subscribe("room:7")
    world.turn()
    room = done(subscribing)
    assert (room.address, room.mode, room.active, room.ended) == (ROOM, Mode.PUSH, True, None)
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(ROOM)]
    world.gateway.pipe.say(block(0, 2), block(0, 1, lane=1))
    assert [(one.address, one.lane, one.epoch, one.seq) for one in got] == [
        (ROOM, 0, EPOCH, 1),
        (ROOM, 0, EPOCH, 2),
        (ROOM, 1, EPOCH, 1),
    ]
    world.wait(1)
    assert world.gateway.pipe.of(DeliverAck) == []  # nobody has custody of a room


def test_lane_1_is_asked_for_if_the_answer_leaves_it_out(world: World) -> None:
    world.gateway.tells = (0,)
    world.gateway.heads = {(ROOM, 0): 5, (ROOM, 1): 9}
    _client, room, _shown = joined(world)
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(ROOM), Subscribe(ROOM, lane=1)]
    assert room.active
    again(world)
    assert world.gateway.pipe.of(Hello)[0].resume[1:] == (
        ResumePoint(ROOM, 0, EPOCH, 5),
        ResumePoint(ROOM, 1, EPOCH, 9),
    )


def test_a_subscription_waits_for_a_link(world: World) -> None:
    client = world.client()
    subscribing = client.subscribe(ROOM)
    client.start()
    world.turn()
    assert done(subscribing).active


def test_who_is_in_already_is_that(world: World) -> None:
    client, room, _ = joined(world)
    assert done(client.subscribe("room:7")) is room
    assert len(world.gateway.pipe.of(Subscribe)) == 1


def test_two_who_ask_at_once_get_the_same(world: World) -> None:
    client = world.up()
    asked = [client.subscribe("room:7") for _ in range(2)]
    asked[0].addErrback(lambda reason: None).cancel()
    world.turn()
    assert done(asked[1]).active
    assert len(world.gateway.pipe.of(Subscribe)) == 1


def test_the_mode_may_change(world: World) -> None:
    client, room, _ = joined(world)
    changing = client.subscribe("room:7", "notify")
    world.turn()
    assert done(changing) is room
    assert room.mode is Mode.NOTIFY
    assert world.gateway.pipe.of(Subscribe)[1] == Subscribe(ROOM, Mode.NOTIFY, 0, EPOCH, 0)


def test_the_answer_to_a_mode_before_is_not_that_to_the_next(world: World) -> None:
    client, room, _ = joined(world)
    world.gateway.admits = False
    pipe = world.gateway.pipe
    before = len(pipe.of(Subscribe))
    asked = [client.subscribe("room:7", mode) for mode in ("notify", "push", "notify", "push")]
    pipe.say(Subscribed(ROOM, 0, EPOCH, 0, False, Mode.NOTIFY, 0, 0))
    assert not any(one.called for one in asked)
    assert not room.active
    assert [(frame.lane, frame.mode) for frame in pipe.of(Subscribe)[before:]] == [
        (0, Mode.NOTIFY),
        (0, Mode.PUSH),
    ]
    pipe.say(Subscribed(ROOM, 0, EPOCH, 0, False, Mode.PUSH, 0, 0))
    assert [done(one) for one in asked] == [room] * 4
    assert (room.active, room.mode) == (True, Mode.PUSH)
    last = client.subscribe("room:7", "notify")
    pipe.say(Subscribed(ROOM, 0, EPOCH, 0, False, Mode.PUSH, 0, 0))  # the gateway chose so
    assert (done(last).mode, len(pipe.of(Subscribe))) == (Mode.PUSH, before + 3)


@pytest.mark.parametrize("mode", ["push", "notify"])
def test_a_mode_that_changes_between_hello_and_welcome_is_asked_for(world: World, mode: str) -> None:
    client, room, _ = joined(world)
    resumes(world, (1, 0), (0, 0))
    world.gateway.welcomes = False
    again(world)
    assert world.gateway.pipe.of(Hello)[0].resume[-1].mode is Mode.PUSH
    changing = client.subscribe(ROOM, mode)
    world.gateway.pipe.say(world.gateway.welcome())
    world.turn()
    assert done(changing) is room
    asked = [Subscribe(ROOM, Mode.NOTIFY, 0, EPOCH, 0)] if mode == "notify" else []
    assert world.gateway.pipe.of(Subscribe) == asked
    assert room.mode is (Mode.NOTIFY if asked else Mode.PUSH)


@pytest.mark.parametrize("what", ["subscribe", "unsubscribe"])
@pytest.mark.parametrize(
    "address", [Address("room", "x" * 65), Address("topic", "a\nb"), Address("x", "y"), 7]
)
def test_no_address_is_no_error_of_the_link(world: World, what: str, address: Any) -> None:
    client = world.up()
    with pytest.raises(InvalidAddress):
        getattr(client, what)(address)


def test_what_is_wrong_is_wrong_at_once(world: World) -> None:
    client = world.up()
    for wrong in (lambda: client.subscribe("room:7", "pull"), lambda: client.subscribe("nowhere")):
        with pytest.raises(ValueError):
            wrong()


def test_a_refusal_is_an_exception(world: World) -> None:
    world.gateway.admits = False
    client = world.up()
    told: list[Any] = []
    client.on_unsubscribed = told.append
    subscribing = client.subscribe("room:7")
    world.gateway.pipe.say(
        Refused("subscribe", "nowhere", 2),
        Refused("subscribe", "room:8", 2),
        Refused("subscribe", "room:7", 2, "not you"),
    )
    with pytest.raises(FrameRefused) as caught:
        done(subscribing)
    assert caught.value.code is RefusedCode.FORBIDDEN
    assert told == []
    retry = client.subscribe("room:7")  # nothing is left of it
    world.gateway.pipe.say(Subscribed(ROOM, 3))
    with pytest.raises(FrameRefused):
        done(retry)


def test_a_wire_that_cannot_say_it(world: World) -> None:
    client = world.up()
    link = client._session._link
    assert link is not None
    link.send = lambda frame: not isinstance(frame, Subscribe)  # type: ignore[method-assign]
    with pytest.raises(FrameRefused):
        done(client.subscribe("room:7"))


def test_who_is_refused_may_ask_for_another_room_at_once(world: World) -> None:
    client = world.client()
    asked: list[Any] = []
    refused = client.subscribe("room:7")
    refused.addErrback(lambda reason: asked.append(client.subscribe("room:8")))
    asked.append(client.subscribe("room:9"))
    ended: list[Any] = []

    def on_up(welcome: Any) -> None:
        link = client._session._link
        assert link is not None
        send = link.send
        link.send = lambda frame: frame != Subscribe(ROOM) and send(frame)  # type: ignore[method-assign]

    client.on_up = on_up
    client.on_down = lambda *how: ended.append(how)
    client.start()
    world.turn()
    assert [done(one).address.id for one in asked] == ["9", "8"]
    assert ended == []


def test_the_pace_is_kept(world: World) -> None:
    world.gateway.limits = Limits(subscribe_rate=2)
    client = world.up()
    asked = [client.subscribe(f"room:{n}") for n in range(5)]
    asked[4].addErrback(lambda reason: reason.trap(ClientError))
    client.unsubscribe("room:4")
    world.turn()
    assert len(world.gateway.pipe.of(Subscribe)) == 1
    for _ in range(12):
        world.wait(0.25)
    assert [frame.address.id for frame in world.gateway.pipe.of(Subscribe)] == ["0", "1", "2", "3"]
    assert all(done(one).active for one in asked[:4])


def test_a_link_that_ends_before_our_turn(world: World) -> None:
    world.gateway.limits = Limits(subscribe_rate=1)
    client = world.up()
    asked = [client.subscribe(f"room:{n}") for n in range(2)]
    again(world)
    for _ in range(8):
        world.wait(1)
    assert all(done(one).active for one in asked)
    assert len(world.gateway.pipe.of(Subscribe)) == 2


def test_an_answer_for_lane_0_that_came_first(world: World) -> None:
    world.gateway.tells = (0, 1)
    client = world.up()
    subscribing = client.subscribe("room:7")
    world.turn()
    assert done(subscribing).active
    assert len(world.gateway.pipe.of(Subscribe)) == 2  # nobody knew that the other was on its way


def test_the_business_may_put_us_in(world: World) -> None:
    shown: list[int] = []
    client = world.up(on_message=lambda received: shown.append(received.seq))
    world.gateway.pipe.say(
        Subscribed(ROOM, 0, EPOCH, 4, False, Mode.PUSH, 1, 4),
        Subscribed(ROOM, 0, EPOCH, 4, False, Mode.PUSH, 0, 4),
        block(4, 5),
    )
    assert shown == [5]
    assert done(client.subscribe("room:7")).active
    assert world.gateway.pipe.of(Subscribe) == []


def test_what_was_asked_before_we_were_taken_out_does_not_bring_us_in_again(world: World) -> None:
    """It reaches the gateway after that, and there it is wanted as any other."""
    client = world.up()
    ended: list[Subscription] = []
    client.on_unsubscribed = ended.append
    pipe = world.gateway.pipe
    world.gateway.admits = False
    pipe.say(Subscribed(ROOM, 0, EPOCH, 4, False, Mode.PUSH, 0, 4))  # and so lane 1 is asked for
    assert [frame.lane for frame in pipe.of(Subscribe)] == [1]
    pipe.say(Unsubscribed(ROOM, UnsubscribedCode.REMOVED))
    assert pipe.of(Unsubscribe) == [Unsubscribe(ROOM)]
    pipe.say(Subscribed(ROOM, 0, EPOCH, 4, False, Mode.PUSH, 1, 4), block(4, 5))
    pipe.say(Unsubscribed(ROOM, UnsubscribedCode.ASKED))
    assert [(one.active, one.ended) for one in ended] == [(False, UnsubscribedCode.REMOVED)]
    coming = client.subscribe("room:7")
    world.gateway.admits = True
    for lane in (1, 0):
        pipe.say(Subscribed(ROOM, 0, EPOCH, 4, False, Mode.PUSH, lane, 4))
    assert done(coming).active
    assert len(ended) == 1


def test_who_comes_again_at_once_after_it_was_taken_out_is_in(world: World) -> None:
    client = world.up()
    came: list[Any] = []
    client.on_unsubscribed = lambda one: came.append(client.subscribe("room:7"))
    pipe = world.gateway.pipe
    pipe.say(Subscribed(ROOM, 0, EPOCH, 4, False, Mode.PUSH, 0, 4))
    pipe.say(Unsubscribed(ROOM, UnsubscribedCode.REMOVED))
    assert [type(frame) for frame in pipe.got[1:]] == [Subscribe, Unsubscribe, Subscribe]
    world.turn()
    [coming] = came
    assert done(coming).active


# -------------------------------------------------------------------------------------------------- leaving


def test_leaving(world: World) -> None:
    client, room, shown = joined(world)
    leaving = client.unsubscribe("room:7")
    world.gateway.pipe.say(block(0, 2))  # on its way already
    assert world.gateway.pipe.of(Unsubscribe) == [Unsubscribe(ROOM)]
    world.turn()
    assert done(leaving) is None
    assert (room.active, room.ended, shown) == (False, UnsubscribedCode.ASKED, [])
    assert done(client.unsubscribe("room:7")) is None
    world.gateway.heads = {(ROOM, 0): 30, (ROOM, 1): 30}
    coming = client.subscribe("room:7")
    world.turn()
    assert done(coming) is not room
    world.gateway.pipe.say(block(28, 31))
    assert shown == [31]


def test_leaving_before_the_answer(world: World) -> None:
    client = world.up()
    subscribing, leaving = client.subscribe("room:7"), client.unsubscribe("room:7")
    second = client.unsubscribe("room:7")
    with pytest.raises(ClientError):
        done(subscribing)
    coming = client.subscribe("room:7")
    world.turn()
    assert (done(leaving), done(second)) == (None, None)
    assert done(coming).active


def test_leaving_without_a_link_is_not_coming_again(world: World) -> None:
    client, _, _ = joined(world)
    world.gateway.pipe.cut()
    assert done(client.unsubscribe("room:7")) is None
    world.wait(1)
    assert world.gateway.pipe.of(Hello)[0].resume == (ResumePoint(ME, 0, EPOCH, 0),)
    assert world.gateway.pipe.of(Subscribe) == []


def test_a_link_that_ends_on_the_way_out_is_one_way_out(world: World) -> None:
    client, _, _ = joined(world)
    world.gateway.admits = False
    leaving = client.unsubscribe("room:7")
    again(world)
    assert done(leaving) is None
    assert world.gateway.pipe.of(Subscribe) == []


def test_a_refused_goodbye_is_one_too(world: World) -> None:
    client, _, _ = joined(world)
    world.gateway.admits = False
    leaving = client.unsubscribe("room:7")
    world.gateway.pipe.say(
        Unsubscribed(ROOM, UnsubscribedCode.NOT_PULLING),  # crossed with ours, which is answered, too
        Subscribed(ROOM),
        Refused("subscribe", "room:7", 2),
        Notify((Told(ROOM, 0, EPOCH, 9),)),
    )
    world.wait(1)
    assert world.gateway.pipe.of(Pull) == []
    world.gateway.pipe.say(Refused("unsubscribe", "room:7", 1))
    assert done(leaving) is None
    world.gateway.pipe.say(Refused("unsubscribe", "room:7", 1))
    again(world)
    assert len(world.gateway.pipe.of(Hello)[0].resume) == 1


@pytest.mark.parametrize("code", [UnsubscribedCode.NOT_PULLING, UnsubscribedCode.REMOVED, 77])
def test_the_gateway_may_end_it(world: World, code: int) -> None:
    client, room, shown = joined(world)
    told: list[Subscription] = []
    client.on_unsubscribed = told.append
    assert client.on_unsubscribed == told.append
    world.gateway.pipe.say(block(0, 2), Unsubscribed(ROOM, code), Unsubscribed(ROOM, code))
    assert told == [room]
    assert (room.active, room.ended) == (False, code)
    coming = client.subscribe("room:7")  # is told what was missed, unless it was put out
    world.turn()
    assert done(coming) is not room
    point = (0, 0) if code == UnsubscribedCode.REMOVED else (EPOCH, 2)
    assert world.gateway.pipe.of(Subscribe)[1] == Subscribe(ROOM, Mode.PUSH, 0, *point)
    assert shown == [1, 2]


def test_an_application_that_fails_on_it_is_logged(world: World, flush_logged_errors: Any) -> None:
    client, _room, _ = joined(world)
    client.on_unsubscribed = lambda subscription: 1 / 0
    world.gateway.pipe.say(Unsubscribed(ROOM, 2))
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_the_end_before_the_answer(world: World) -> None:
    world.gateway.admits = False
    client = world.up()
    subscribing = client.subscribe("room:7")
    world.gateway.pipe.say(Unsubscribed(ROOM, 2))
    with pytest.raises(ClientError, match="REMOVED"):
        done(subscribing)


def test_closing_fails_who_waits(world: World) -> None:
    world.gateway.admits = False
    client = world.up()
    subscribing = client.subscribe("room:7")
    cancelled = client.subscribe("room:8")
    cancelled.addErrback(lambda reason: None).cancel()
    leaving = client.unsubscribe("room:8")
    client.close()
    world.wait(1)
    with pytest.raises(ClientError):
        done(subscribing)
    assert done(leaving) is None
    for late in (lambda: client.subscribe("room:7"), lambda: client.unsubscribe("room:7")):
        with pytest.raises(ClientError):
            late()


# -------------------------------------------------------------------------------------------- coming again


def test_a_new_link_resumes_both_lanes(world: World) -> None:
    world.gateway.heads = {(ROOM, 0): 3, (ROOM, 1): 3}
    _client, room, shown = joined(world, "notify")
    world.gateway.pipe.say(block(3, 5), block(3, 4, lane=1))
    resumes(world, (0, 5), (1, 4))
    again(world)
    assert set(world.gateway.pipe.of(Hello)[0].resume[1:]) == {
        ResumePoint(ROOM, 0, EPOCH, 5, Mode.NOTIFY),
        ResumePoint(ROOM, 1, EPOCH, 4, Mode.NOTIFY),
    }
    assert world.gateway.pipe.of(Subscribe) == []
    assert room.active
    world.gateway.pipe.say(block(3, 7))
    assert shown == [4, 5, 4, 6, 7]


def test_positions_are_kept_in_no_file(world: World, tmp_path: Any) -> None:
    path = str(tmp_path / "state")
    client, _, _ = joined(world, state=path)
    world.gateway.pipe.say(block(0, 5))
    client.close()
    world.wait(1)
    world.up(state=path)
    assert [point.address for point in world.gateway.pipe.of(Hello)[0].resume] == [ME]


def test_what_welcome_does_not_resume_is_subscribed_to_with_its_position(world: World) -> None:
    _client, room, shown = joined(world)
    world.gateway.pipe.say(block(0, 5), block(0, 3, lane=1))
    again(world)
    assert world.gateway.pipe.of(Subscribe) == [
        Subscribe(ROOM, Mode.PUSH, 0, EPOCH, 5),
    ]
    assert room.active
    resumes(world, (0, 5))
    again(world)
    assert world.gateway.pipe.of(Subscribe) == [Subscribe(ROOM, Mode.PUSH, 1, EPOCH, 3)]
    assert room.active
    assert shown == [1, 2, 3, 4, 5, 1, 2, 3]


def test_gaps_are_told_on_coming_again(world: World) -> None:
    _, _, shown = joined(world)
    world.gateway.pipe.say(block(0, 2))
    resumes(world, (0, 9), (1, 9), epoch=8, gap=True)
    again(world)
    assert shown == [1, 2, (0, 9), (0, 9)]
    world.gateway.pipe.say(block(9, 10, epoch=8))
    assert shown[4:] == [10]


def test_gaps_of_a_subscription_that_is_made_again_are_told(world: World) -> None:
    _, _, shown = joined(world)
    world.gateway.pipe.say(block(0, 2))
    world.gateway.admits = False
    again(world)
    world.gateway.pipe.say(Subscribed(ROOM, 0, EPOCH, 9, True, Mode.PUSH, 0, 9))
    assert shown == [1, 2, (2, 9)]


def test_a_refusal_on_coming_again_ends_it(world: World) -> None:
    client, room, _ = joined(world)
    told: list[Subscription] = []
    client.on_unsubscribed = told.append
    world.gateway.admits = False
    again(world)
    assert not room.active
    world.gateway.pipe.say(Refused("subscribe", "room:7", 2))
    assert told == [room]
    assert room.ended is UnsubscribedCode.REMOVED


def not_just_now(world: World, address: str = "room:7") -> None:
    world.gateway.pipe.say(Refused("subscribe", address, RefusedCode.UNAVAILABLE, "subscribe again"))


@pytest.mark.parametrize("address", ["room:7", "topic:news"])
def test_a_gateway_that_cannot_just_now_is_asked_again(world: World, address: str) -> None:
    ended: list[Subscription] = []
    client = world.up(on_message=lambda received: None)
    client.on_unsubscribed = ended.append
    client._rooms._patience_s = lambda tries: 2.0**tries
    subscribing = client.subscribe(address)
    world.turn()
    room = done(subscribing)
    world.gateway.admits = False
    again(world)
    for tries in range(3):
        not_just_now(world, address)
        assert not room.active
        asked = len(world.gateway.pipe.of(Subscribe))
        world.wait(2**tries - 0.5)
        assert len(world.gateway.pipe.of(Subscribe)) == asked
        world.gateway.admits = tries == 2
        world.wait(0.5)
        assert len(world.gateway.pipe.of(Subscribe)) > asked
    assert room.active
    assert done(client.subscribe(address)) is room
    world.gateway.admits = False
    again(world)
    not_just_now(world, address)
    world.gateway.admits = True
    world.wait(1)  # as after the first
    assert room.active
    assert ended == []


def test_who_is_in_may_wait_for_lane_1_and_for_another_mode(world: World) -> None:
    world.gateway.tells = (0,)
    world.gateway.watch = lambda pipe, frame: (
        setattr(world.gateway, "admits", not frame.lane) if isinstance(frame, Subscribe) else None
    )
    client = world.up(on_message=lambda received: None)
    subscribing = client.subscribe("room:7")
    world.turn()
    not_just_now(world)
    world.gateway.watch = lambda pipe, frame: None
    world.gateway.admits = True
    assert not subscribing.called
    world.wait(1)
    room = done(subscribing)
    world.gateway.admits = False
    changing = client.subscribe("room:7", "notify")
    not_just_now(world)
    not_just_now(world)
    world.gateway.admits = True
    assert (changing.called, room.ended) == (False, None)
    world.wait(1)
    assert done(changing).mode is Mode.NOTIFY
    assert len(world.gateway.pipe.of(Subscribe)) == 5


def test_who_leaves_is_not_asked_for_again(world: World) -> None:
    client, _, _ = joined(world)
    world.gateway.admits = False
    again(world)
    not_just_now(world)
    assert done(client.unsubscribe("room:7")) is None
    world.wait(60)
    assert len(world.gateway.pipe.of(Subscribe)) == 1


def test_a_link_that_ends_before_it_asks_again(world: World) -> None:
    _, room, _ = joined(world)
    world.gateway.admits = False
    again(world)
    not_just_now(world)
    world.gateway.admits = True
    again(world)
    assert room.active
    world.wait(60)
    assert len(world.gateway.pipe.of(Subscribe)) == 1


def test_who_was_never_in_hears_that_it_cannot_be_just_now(world: World) -> None:
    world.gateway.admits = False
    client = world.up(on_message=lambda received: None)
    subscribing = client.subscribe("room:7")
    not_just_now(world)
    with pytest.raises(FrameRefused):
        done(subscribing)
    not_just_now(world)
    world.wait(60)
    assert len(world.gateway.pipe.of(Subscribe)) == 1


def test_more_rooms_than_hello_takes_are_subscribed_to(world: World) -> None:
    client = world.up()
    names = [f"room:{'x' * 50}{n}" for n in range(200)]
    for name in names:
        client.subscribe(name)
    world.turn()
    again(world)
    (hello,) = world.gateway.pipe.of(Hello)
    assert hello.resume[0] == ResumePoint(ME, 0, EPOCH, 0)
    assert len(hello.resume) < 200
    assert len(world.gateway.wire.codec(False, 1 << 20).encode(hello) or b"") <= 8_000
    assert len(world.gateway.pipe.of(Subscribe)) == 200


def test_a_transport_may_take_less(world: World) -> None:
    client = world.up()
    for n in range(10):
        client.subscribe(f"room:{n}")
    world.turn()

    def narrow(url: str, *rest: Any) -> Any:
        connecting = connect(url, *rest)
        world.gateway.pipe.max_first_bytes = 60  # type: ignore[attr-defined]
        return connecting

    connect = world.gateway.connect
    world.gateway.connect = narrow  # type: ignore[method-assign,assignment]
    again(world)
    assert len(world.gateway.pipe.of(Hello)[0].resume) == 1
    assert len({frame.address for frame in world.gateway.pipe.of(Subscribe)}) == 10


def test_udp_names_what_fits_its_first_datagram() -> None:
    from imgateway.transports.datagram.client import ClientConnection

    assert 1_000 < ClientConnection.max_first_bytes < 1_200


# -------------------------------------------------------------------------------------------- area and all


def test_areas_come_by_themselves_and_are_resumed(world: World) -> None:
    client, _, shown = joined(world)
    world.gateway.pipe.say(block(8, 9, address=AREA), block(3, 4, address=parse_address("all")))
    assert shown == [9, 4]
    again(world)
    assert [point.address.kind for point in world.gateway.pipe.of(Hello)[0].resume] == [
        "user",
        "area",
        "all",
        "room",
        "room",
    ]
    client.unsubscribe("room:7")
    world.turn()
    again(world)
    assert [point.address.kind for point in world.gateway.pipe.of(Hello)[0].resume] == ["user", "all"]


def in_two_rooms(world: World) -> tuple[Any, list[Any]]:
    """And an area's first message has come."""
    client, _, shown = joined(world)
    client.subscribe("room:8")
    world.turn()
    world.gateway.pipe.say(area(0, 1))
    assert shown == [1]
    return client, shown


def area(after: int, upto: int, **more: Any) -> Deliver:
    return block(after, upto, address=AREA, **more)


@pytest.mark.parametrize("straggles", [False, True])
def test_what_an_area_had_while_we_were_out_of_it_is_not_missing(world: World, straggles: bool) -> None:
    client, shown = in_two_rooms(world)
    client.unsubscribe(ROOM)
    if straggles:
        world.gateway.pipe.say(area(1, 2))
    world.turn()
    client.subscribe(ROOM)
    world.turn()
    world.gateway.pipe.say(area(8, 9), area(9, 10))
    assert shown == ([1, 2, 9, 10] if straggles else [1, 9, 10])
    assert world.gateway.pipe.of(Pull) == []
    world.gateway.pipe.say(area(11, 12))  # this is
    assert [pull.after for pull in world.gateway.pipe.of(Pull)] == [10]


def test_a_straggler_of_the_last_rooms_area_is_no_place_to_come_back_to(world: World) -> None:
    client, _, shown = joined(world)
    client.unsubscribe(ROOM)
    world.gateway.pipe.say(area(0, 1))
    world.turn()
    client.subscribe(ROOM)
    world.turn()
    world.gateway.pipe.say(area(8, 9))
    assert shown == [1, 9]
    assert world.gateway.pipe.of(Pull) == []


def test_who_is_in_an_area_by_another_room_misses_what_is_missing(world: World) -> None:
    client, shown = in_two_rooms(world)
    client.unsubscribe(ROOM)
    world.turn()
    world.gateway.pipe.say(area(1, 2), area(4, 5))
    assert [pull.after for pull in world.gateway.pipe.of(Pull)] == [2]
    assert shown == [1, 2]


def test_what_was_to_be_pulled_of_an_area_is_pulled(world: World) -> None:
    client, shown = in_two_rooms(world)
    world.gateway.pipe.say(area(2, 3))
    client.unsubscribe(ROOM)
    world.turn()
    world.gateway.pipe.say(area(3, 4), area(1, 4, pulled=True))
    assert shown == [1, 2, 3, 4]


@pytest.mark.parametrize("gap", [False, True])
def test_a_gap_of_an_area_is_told_whoever_was_out_of_it(world: World, gap: bool) -> None:
    client, shown = in_two_rooms(world)
    client.unsubscribe(ROOM)
    world.turn()
    world.gateway.pipe.say(area(8, 9, gap=gap))
    assert shown == ([1, (1, 8), 9] if gap else [1, 9])


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("how", ["after the link", "before its end", "put out"])
def test_an_area_that_the_next_link_goes_on_in_was_not_left(world: World, resumed: bool, how: str) -> None:
    client, shown = in_two_rooms(world)
    if resumed:
        world.gateway.resumed = (Resumed(ME, 0, EPOCH, 0, 0), Resumed(AREA, 0, EPOCH, 1, 1))
    if how == "after the link":
        world.gateway.pipe.cut()
        client.unsubscribe(ROOM)
    elif how == "before its end":
        client.unsubscribe(ROOM)
        world.gateway.pipe.say(area(1, 1, seqs=[]))  # that was on its way
        world.gateway.pipe.cut()
    else:
        world.gateway.pipe.say(Unsubscribed(ROOM, UnsubscribedCode.NOT_PULLING))
        world.gateway.pipe.cut()
    world.wait(1)
    world.gateway.pipe.say(area(8, 9))
    assert shown == ([1] if resumed else [1, 9])
    assert [pull.after for pull in world.gateway.pipe.of(Pull)] == ([1] if resumed else [])


# ----------------------------------------------------------------------------------------- notify and pull


def notify(*heads: tuple[int, int], spread_ms: int = 0) -> Notify:
    return Notify(tuple(Told(ROOM, lane, EPOCH, head) for lane, head in heads), spread_ms)


def test_a_notify_is_pulled_lane_1_first(world: World) -> None:
    _, _, shown = joined(world, "notify")
    world.gateway.pipe.say(notify((0, 40), (1, 2)))
    assert world.gateway.pipe.of(Pull) == []
    world.turn()
    assert [(pull.lane, pull.after) for pull in world.gateway.pipe.of(Pull)] == [(1, 0), (0, 0)]
    world.gateway.pipe.say(part(0, 2, lane=1), part(0, 32, head=40))
    assert [(pull.lane, pull.after) for pull in world.gateway.pipe.of(Pull)][2:] == [(0, 32)]
    world.gateway.pipe.say(part(32, 40))
    assert shown == [1, 2, *range(1, 41)]
    assert len(world.gateway.pipe.of(Pull)) == 3


def test_a_push_subscriber_follows_a_notify_too(world: World) -> None:
    _, _, shown = joined(world, "push")
    world.gateway.pipe.say(block(0, 2), notify((0, 5)))
    world.turn()
    world.gateway.pipe.say(part(0, 5))
    assert shown == [1, 2, 3, 4, 5]


def test_the_spread_is_waited_for(world: World) -> None:
    joined(world, "notify")
    world.gateway.pipe.say(notify((0, 5), spread_ms=2_000))
    world.gateway.pipe.say(notify((0, 9), spread_ms=2_000))
    world.wait(2)
    assert len(world.gateway.pipe.of(Pull)) == 1


def test_a_notify_of_nothing_new_is_answered_with_one_pull(world: World) -> None:
    _, _, shown = joined(world, "notify")
    world.gateway.pipe.say(block(0, 5), notify((0, 5)))
    world.wait(1)
    assert world.gateway.pipe.of(Pull) == [Pull(ROOM, 0, EPOCH, 5, 64)]
    world.gateway.pipe.say(part(5, 5, []))
    world.gateway.pipe.say(notify((0, 5)), notify((0, 5)))
    world.wait(1)
    assert world.gateway.pipe.of(Pull)[1:] == [Pull(ROOM, 0, EPOCH, 5, 64)]
    assert shown == [1, 2, 3, 4, 5]


def test_what_comes_while_it_waits_does_not_keep_it_from_answering(world: World) -> None:
    joined(world, "notify")
    world.gateway.pipe.say(notify((0, 5)), block(0, 5))
    world.wait(1)
    assert world.gateway.pipe.of(Pull) == [Pull(ROOM, 0, EPOCH, 5, 64)]


def test_who_left_while_it_waits_pulls_nothing(world: World) -> None:
    client, _, _ = joined(world, "notify")
    world.gateway.pipe.say(notify((0, 5), spread_ms=1_000))
    client.unsubscribe("room:7")
    world.wait(1)
    assert world.gateway.pipe.of(Pull) == []


def test_a_link_that_ends_while_it_waits(world: World) -> None:
    joined(world, "notify")
    first = world.gateway.pipe
    first.say(notify((0, 5), spread_ms=10_000))
    again(world)
    world.live(10)
    assert (first.of(Pull), world.gateway.pipe.of(Pull)) == ([], [])


def test_how_long_it_waits() -> None:
    from twisted.internet.task import Clock

    clock, inbox = Clock(), Inbox(decode_message)
    sent: list[Any] = []
    notices = Notices(clock, inbox, sent.append, lambda: 0.25)
    others = Told(parse_address("room:8"), 0, EPOCH, 3)
    notices.notified([others, Told(ROOM, 1, EPOCH, 3)], 4_000)
    clock.advance(0.5)
    notices.notified([others, Told(ROOM, 0, EPOCH, 3)], 4_000)
    clock.advance(0.49)
    assert sent == []
    clock.advance(0.01)
    assert [(pull.address.id, pull.lane) for pull in sent] == [("7", 1), ("8", 0)]
    clock.advance(0.5)
    assert [(pull.address.id, pull.lane) for pull in sent[2:]] == [("7", 0)]
    assert inbox.position(LogKey(ROOM)) == (EPOCH, 2)
    notices.down()
    assert clock.getDelayedCalls() == []


def test_a_refused_pull_is_told_to_nobody(world: World) -> None:
    _, _, shown = joined(world, "notify")
    world.gateway.pipe.say(notify((0, 5)))
    world.turn()
    world.gateway.pipe.say(Refused("pull", "room:7", 5))
    assert shown == []


# ------------------------------------------------------------------------------------- history, publishing


def test_history_of_a_room_is_from_where_it_was_asked_for(world: World) -> None:
    client, _, shown = joined(world)
    world.gateway.pipe.say(block(0, 2))
    asking = client.history("room:7", after=40)
    world.gateway.pipe.say(block(2, 3), part(32, 64, head=70))
    page = done(asking)
    assert (page.after, page.upto, page.head, [one.seq for one in page.messages][:2]) == (
        40,
        64,
        70,
        [41, 42],
    )
    assert shown == [1, 2, 3]
    asking = client.history("room:7", after=1)  # which the gateway counts as pulled
    world.gateway.pipe.say(part(0, 5))
    assert [one.seq for one in done(asking).messages] == [2, 3, 4, 5]
    assert shown == [1, 2, 3, 4, 5]
    client.unsubscribe("room:7")
    asking = client.history("room:7", after=5)
    world.gateway.pipe.say(part(0, 6))
    assert ([one.seq for one in done(asking).messages], shown) == ([6], [1, 2, 3, 4, 5])


def test_publishing_with_a_lane(world: World) -> None:
    client, _, _ = joined(world)
    client.publish("room:7", "a gift", lane=1)
    (publish,) = world.gateway.pipe.of(Publish)
    assert (publish.to, publish.lane) == ((ROOM,), 1)


# --------------------------------------------------------------------------------------------- compression


@pytest.mark.parametrize("name", ["zstd", "br"])
def test_compressed_deliveries_are_opened(world: World, name: str) -> None:
    _, _, shown = joined(world)
    assert world.gateway.pipe.of(Hello)[0].compressions == ("zstd", "br")
    world.gateway.pipe.say(block(0, 60, compression=name))
    assert shown == list(range(1, 61))


def test_what_was_not_offered_ends_the_link(world: World) -> None:
    client, _, shown = joined(world, compressions=())
    ended: list[Any] = []
    client.on_down = lambda *how: ended.append(how)
    assert world.gateway.pipe.of(Hello)[0].compressions == ()
    world.gateway.pipe.say(block(0, 60, compression="zstd"))
    world.turn()
    assert shown == []
    assert world.gateway.pipes[0].closed == CloseCode.BAD_FRAME
    assert ended[0][0] == CloseCode.LOST


def test_a_bomb_ends_the_link(world: World) -> None:
    _, _, shown = joined(world)
    bomb: Frame = Deliver(
        ROOM, 0, EPOCH, 0, 1, (), compression="zstd", compressed=zstd.compress(bytes(64 << 20))
    )
    world.gateway.pipe.say(block(0, 1), bomb)
    assert shown == [1]
    assert world.gateway.pipes[0].closed in (CloseCode.BAD_FRAME, CloseCode.FRAME_TOO_LARGE)


def test_entries_of_the_mailbox_may_be_compressed_as_well(world: World) -> None:
    _, _, shown = joined(world)
    world.gateway.pipe.say(deliver(0, 60, entries=tuple(map(entry, range(1, 61))), compression="br"))
    assert shown == list(range(1, 61))


# ------------------------------------------------------------------------------------------------- history


@pytest.mark.parametrize(
    ("epoch", "after", "seqs"), [(0, 2, [3, 4]), (EPOCH, 2, [3, 4]), (8, 1, [2, 3, 4])], ids=str
)
def test_history_of_a_ring_that_is_no_more_is_that_of_the_one_that_there_is(
    world: World, epoch: int, after: int, seqs: list[int]
) -> None:
    client = world.up()
    asked = client.history(ROOM, 2, epoch=epoch)
    world.gateway.pipe.say(part(1, 4, gap=True))
    page = done(asked)
    assert (page.epoch, page.after, page.upto) == (EPOCH, after, 4)
    assert [one.seq for one in page.messages] == seqs


def test_history_of_a_ring_makes_no_gap_of_what_we_had_before_it_was_lost(world: World) -> None:
    world.gateway.heads = {(ROOM, 0): 60}
    client, _room, shown = joined(world, "notify")
    asked = client.history(ROOM)
    world.gateway.pipe.say(part(50, 82, gap=True))
    assert done(asked).gap
    assert shown == list(range(61, 83))


def test_what_cannot_be_said_to_us_is_told_though_it_comes_first(world: World) -> None:
    world.gateway.heads = {(ROOM, 0): 60}
    client, _room, shown = joined(world, "notify")
    asked = client.history(ROOM)
    world.gateway.pipe.say(part(50, 62, [], gap=True))  # one message, too large for this link
    assert done(asked).gap
    assert shown == [(60, 62)]


@pytest.mark.parametrize(("code", "name"), [(UnsubscribedCode.REMOVED, "REMOVED"), (77, "77")])
def test_a_subscription_says_what_it_is(world: World, code: int, name: str) -> None:
    _client, room, _shown = joined(world, "notify")
    assert repr(room) == "<Subscription room:7, NOTIFY, active>"
    world.gateway.pipe.cut()
    assert repr(room) == "<Subscription room:7, NOTIFY, not active>"
    world.wait(1)
    world.gateway.pipe.say(Unsubscribed(ROOM, code))
    assert repr(room) == f"<Subscription room:7, NOTIFY, ended: {name}>"
