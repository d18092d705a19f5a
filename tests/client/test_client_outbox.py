"""The pure half of sending, against a model: order, custody, what is said of repeats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgateway.client.outbox import Outbox
from imgateway.frames import Limits, Publish
from tests.client.fake_gateway import BOB, ROOM


def publish(name: str, qos: int = 1) -> Publish:
    return Publish(name, (BOB,), body=b"x", qos=qos)


@given(st.lists(st.tuples(st.sampled_from(["add", "send", "ack", "cut"]), st.integers(0, 9)), max_size=80))
def test_every_link_carries_what_is_left_in_order(steps: list[tuple[str, int]]) -> None:
    outbox = Outbox()
    left: list[str] = []  # without final word, in the order of the calls
    link: list[str] = []  # sent on this link and not settled
    sent_ever: set[str] = set()
    for number, (step, choice) in enumerate(steps):
        if step == "add":
            outbox.add(publish(f"m{number}"))
            left.append(f"m{number}")
        elif step == "send":
            parcel = outbox.next(window=3)
            assert (parcel is None) == (len(link) >= 3 or len(link) == len(left))
            if parcel is not None:
                frame = outbox.send(float(number))
                assert frame.msg_id == next(name for name in left if name not in link)
                assert frame.resent == (frame.msg_id in sent_ever)
                link.append(frame.msg_id)
                sent_ever.add(frame.msg_id)
        elif step == "ack" and left:
            name = left.pop(choice % len(left))
            assert outbox.settle(name) is not None
            assert outbox.settle(name) is None
            if name in link:
                link.remove(name)
        elif step == "cut":
            assert outbox.link_lost() == []
            link.clear()
        assert len(outbox) == len(left)
        assert outbox.in_flight == len(link)
    assert [parcel.publish.msg_id for parcel in outbox.clear()] == left
    assert outbox.has_room()


def test_qos_0_leaves_with_the_link() -> None:
    outbox = Outbox()
    outbox.add(publish("keep"))
    outbox.add(publish("drop", qos=0))
    assert [parcel.publish.msg_id for parcel in outbox.link_lost()] == ["drop"]
    assert len(outbox) == 1


def test_a_gateway_that_says_nothing_of_rooms_means_the_same_for_them() -> None:
    outbox = Outbox()
    outbox.add(Publish("sent", (ROOM,)))
    outbox.send(100.0)
    outbox.link_lost()
    assert outbox.overdue(159.0, Limits(dedup_s=60)) == []
    assert outbox.overdue(159.0, Limits(dedup_s=60, rooms_dedup_s=90)) == []
    assert len(outbox.overdue(160.0, Limits(dedup_s=60))) == 1


def test_a_gateway_that_knows_all_others_for_ever_may_know_those_to_rooms_for_a_while() -> None:
    outbox = Outbox()
    outbox.add(Publish("sent", (ROOM,)))
    outbox.send(100.0)
    outbox.link_lost()
    assert outbox.overdue(189.0, Limits(dedup_s=0, rooms_dedup_s=90)) == []
    assert len(outbox.overdue(190.0, Limits(dedup_s=0, rooms_dedup_s=90))) == 1


def test_time_runs_from_the_first_sending_and_only_off_the_link() -> None:
    outbox = Outbox()
    outbox.add(publish("sent"))
    outbox.add(publish("unsent"))
    outbox.send(100.0)
    limits = Limits(dedup_s=60)
    assert outbox.overdue(1_000.0, limits) == []
    outbox.link_lost()
    assert outbox.overdue(159.0, limits) == []
    assert outbox.overdue(1_000.0, Limits(dedup_s=0)) == []
    assert [parcel.publish.msg_id for parcel in outbox.overdue(160.0, limits)] == ["sent"]
    assert len(outbox) == 1
