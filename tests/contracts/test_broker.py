"""What every broker must do, whatever keeps its logs.

A broker joins by a subclass of `BrokerContract` with a `make` that returns a `Desk`: a started broker whose
listener records.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from zope.interface.verify import verifyObject

from imgateway.core.counters import Counters
from imgateway.errors import CloseCode
from imgateway.frames import Message, OutcomeCode, SessionKey, Start, log_of, parse_address
from imgateway.interfaces import Followed, IBroker, IBrokerListener, LoginPolicy, Verdict
from imgateway.testing.disk import Rig, opening
from imgateway.wire.messages import decode_message
from tests.brokers.broker_desk import BrokerDesk
from tests.brokers.redis_server import RedisServer

OK, DUPLICATE, UNKNOWN = OutcomeCode.OK, OutcomeCode.DUPLICATE, OutcomeCode.UNKNOWN


def log(text: str) -> Any:
    return log_of(parse_address(text))


class BrokerContract:
    """Override `desk`. It needs what `Rig` has: broker, listener, now, later, publish, claim, run,
    wall_ms."""

    ids_in_memory = 2
    """Of two messages that were taken."""

    @pytest.fixture
    def desk(self, tmp_path: Path) -> Any:
        raise NotImplementedError

    def read(
        self, desk: Any, address: str, after: int = 0, limit: int = 100, max_bytes: int = 1 << 20
    ) -> Any:
        return desk.now(desk.broker.read(log(address), after, limit, max_bytes))

    def ids(self, desk: Any, address: str, after: int = 0) -> list[str]:
        return [decode_message(entry.message).msg_id for entry in self.read(desk, address, after).entries]

    def send(self, desk: Any, *to: str, msg_id: str, **more: Any) -> tuple[Any, ...]:
        box = desk.publish(*to, msg_id=msg_id, **more)
        desk.run()
        return box[0]

    # ------------------------------------------------------------------------------------------------ publish

    def test_provides_the_interface(self, desk: Any) -> None:
        assert verifyObject(IBroker, desk.broker)
        assert verifyObject(IBrokerListener, desk.listener)

    def test_seqs_rise_in_order_of_calls(self, desk: Any) -> None:
        boxes = [desk.publish("user:bob", msg_id=str(n)) for n in range(10)]
        desk.run()
        assert [box[0][0].seq for box in boxes] == list(range(1, 11))
        assert {box[0][0].code for box in boxes} == {OK}
        assert self.ids(desk, "user:bob") == [str(n) for n in range(10)]

    def test_a_repeat_gets_the_same_seq(self, desk: Any) -> None:
        first, while_pending = (
            desk.publish("user:bob", msg_id="1"),
            desk.publish("user:bob", msg_id="1"),
        )
        assert first == while_pending == []
        desk.run()
        assert first[0] == while_pending[0]
        again = self.send(desk, "user:bob", msg_id="1")[0]
        assert again == (DUPLICATE, *first[0][0][1:])
        assert self.ids(desk, "user:bob") == ["1"]

    def test_take_is_publish_with_a_plain_answer(self, desk: Any) -> None:
        told: list[tuple[str, Any]] = []

        def take(msg_id: str) -> None:
            message = Message(msg_id, "alice", "phone", body=b"b", sent_ms=desk.wall_ms)
            desk.broker.take(
                message,
                parse_address("user:bob"),
                lambda outcomes, name: told.append((name, outcomes)),
                (msg_id,),
            )

        take("1")
        between = desk.publish("user:bob", msg_id="2")
        take("3")
        take("1")
        assert (told, between) == ([], [])  # not before it is stored
        desk.run()
        assert sorted(told) == [("1", ((OK, ANY, 1),))] * 2 + [("3", ((OK, ANY, 3),))]
        assert between[0][0][2] == 2
        take("3")
        desk.run()
        assert told[-1] == ("3", ((DUPLICATE, ANY, 3),))
        assert self.ids(desk, "user:bob") == ["1", "2", "3"]

    def test_a_repeat_is_one_of_the_same_user_device_and_log(self, desk: Any) -> None:
        self.send(desk, "user:bob", msg_id="1")
        assert self.send(desk, "user:bob", msg_id="1", device="web")[0].code == OK
        assert self.send(desk, "user:bob", msg_id="1", sender="carol")[0].code == OK
        assert self.send(desk, "user:dave", msg_id="1")[0].code == OK

    def test_each_address_has_its_outcome(self, desk: Any) -> None:
        self.send(desk, "user:bob", msg_id="1")
        outcomes = self.send(desk, "user:carol", "node:7", "user:bob", "user:carol", "node:x", msg_id="1")
        assert [outcome.code for outcome in outcomes] == [OK, UNKNOWN, DUPLICATE, OK, UNKNOWN]
        assert outcomes[0] == outcomes[3]
        assert self.ids(desk, "user:carol") == ["1"]

    def test_nothing_with_a_log_named(self, desk: Any) -> None:
        assert self.send(desk, "node:7", msg_id="1") == ((UNKNOWN, 0, 0),)
        assert [one.code for one in self.send(desk, "node:x", "node:7", msg_id="1")] == [UNKNOWN] * 2

    def test_a_device_is_a_part_of_its_users_log(self, desk: Any) -> None:
        outcome = self.send(desk, "device:bob/phone", msg_id="1")[0]
        entries = self.read(desk, "user:bob").entries
        assert (entries[0].seq, entries[0].only_device) == (outcome.seq, "phone")

    def test_a_device_and_its_user_are_one_entry(self, desk: Any) -> None:
        outcomes = self.send(desk, "device:bob/phone", "user:bob", msg_id="1")
        assert outcomes[0] == outcomes[1]
        assert [entry.only_device for entry in self.read(desk, "user:bob").entries] == [""]

    def test_copy_self(self, desk: Any) -> None:
        outcomes = self.send(desk, "user:bob", msg_id="1", copy_self=True)
        assert len(outcomes) == 1
        (entry,) = self.read(desk, "user:alice").entries
        assert entry.except_device == "phone"
        assert decode_message(entry.message).to == (parse_address("user:bob"),)
        assert self.ids(desk, "user:bob") == ["1"]

    def test_copy_self_to_oneself_is_one_entry(self, desk: Any) -> None:
        self.send(desk, "user:alice", msg_id="1", copy_self=True)
        assert [entry.except_device for entry in self.read(desk, "user:alice").entries] == [""]

    def test_copy_self_is_the_message_for_the_senders_other_devices(self, desk: Any) -> None:
        """A device of the sender that is named gets the copy, and not the same message beside it."""
        to = ("device:alice/web", "user:bob", "device:alice/phone", "device:alice/pad", "device:alice/web")
        outcomes = self.send(desk, *to, msg_id="1", copy_self=True)
        entries = self.read(desk, "user:alice").entries
        assert [(one.only_device, one.except_device) for one in entries] == [("phone", ""), ("", "phone")]
        own, copy = (one.seq for one in entries)
        assert [outcome.seq for outcome in outcomes] == [copy, 1, own, copy, copy]
        assert {outcome.code for outcome in outcomes} == {OK}
        again = self.send(desk, *to, msg_id="1", copy_self=True)
        assert [outcome[::2] for outcome in again] == [(DUPLICATE, outcome.seq) for outcome in outcomes]

    def test_copies_of_a_repeat_are_one_entry(self, desk: Any) -> None:
        for _ in range(2):
            self.send(desk, "user:bob", msg_id="1", copy_self=True)
        assert self.ids(desk, "user:alice") == ["1"]

    @pytest.mark.parametrize("size", [1, 5_000])
    def test_many_addresses_all_get_the_body(self, desk: Any, size: int) -> None:
        users = [f"user:u{n}" for n in range(20)]
        body = bytes(n % 256 for n in range(size))
        outcomes = self.send(desk, *users, msg_id="1", body=body)
        assert [outcome.code for outcome in outcomes] == [OK] * 20
        for user in users:
            (entry,) = self.read(desk, user).entries
            assert decode_message(entry.message).body == body

    def test_emit_passes_now_or_never(self, desk: Any) -> None:
        from imgateway.frames import Message
        from imgateway.interfaces import Publication

        to = tuple(map(parse_address, ("user:bob", "device:bob/web", "topic:news", "service:x", "node:7")))
        desk.broker.emit(Publication(Message("1", "alice", "phone"), to))
        desk.run()
        passed = desk.listener.named("passed")
        assert [address for address, _ in passed] == list(to[:4])
        assert [(entry.seq, entry.only_device) for _, entry in passed] == [
            (0, ""),
            (0, "web"),
            (0, ""),
            (0, ""),
        ]
        assert self.ids(desk, "user:bob") == []

    # -------------------------------------------------------------------------------------- watching, reading

    def test_watch_tells_all_that_follows_its_position(self, desk: Any) -> None:
        self.send(desk, "user:bob", msg_id="1")
        box = desk.later(desk.broker.watch(log("user:bob")))
        for n in range(2, 6):
            desk.publish("user:bob", msg_id=str(n))
        desk.run()
        self.send(desk, "user:bob", msg_id="6")
        position = box[0]
        assert position.first == 1
        at = position.head
        for where, epoch, after, upto, entries in desk.listener.named("arrived"):
            assert (where, epoch, after) == (log("user:bob"), position.epoch, at)
            assert [entry.seq for entry in entries] == list(range(after + 1, upto + 1))
            at = upto
        assert at == 6

    def test_of_an_unwatched_log_nothing_is_told(self, desk: Any) -> None:
        desk.now(desk.broker.watch(log("user:bob")))
        desk.broker.unwatch(log("user:bob"))
        desk.broker.unwatch(log("user:never"))
        self.send(desk, "user:bob", msg_id="1")
        assert desk.listener.named("arrived") == []

    def test_watch_of_an_empty_log(self, desk: Any) -> None:
        position = desk.now(desk.broker.watch(log("user:bob")))
        assert (position.first, position.head) == (1, 0)
        assert position.epoch != 0

    def test_read_stops_at_the_limits_and_goes_on(self, desk: Any) -> None:
        for n in range(10):
            desk.publish("user:bob", msg_id=str(n), body=bytes(1000))
        desk.run()
        batch = self.read(desk, "user:bob", after=2, limit=3)
        assert ([entry.seq for entry in batch.entries], batch.upto, batch.head) == ([3, 4, 5], 5, 10)
        batch = self.read(desk, "user:bob", after=2, max_bytes=2500)
        assert ([entry.seq for entry in batch.entries], batch.upto) == ([3, 4, 5], 5)
        batch = self.read(desk, "user:bob", after=2, max_bytes=1)
        assert ([entry.seq for entry in batch.entries], batch.upto) == ([3], 3)
        batch = self.read(desk, "user:bob", after=7)
        assert (batch.after, batch.upto, batch.gap, len(batch.entries)) == (7, 10, False, 3)
        batch = self.read(desk, "user:bob", after=10)
        assert (batch.after, batch.upto, batch.entries, batch.head) == (10, 10, (), 10)
        assert self.read(desk, "user:bob", after=99).upto == 99
        assert self.read(desk, "user:nobody").entries == ()

    def test_expired_entries_are_skipped_without_a_gap(self, desk: Any) -> None:
        self.send(desk, "user:bob", msg_id="1", ttl_s=10)
        self.send(desk, "user:bob", msg_id="2")
        self.send(desk, "user:bob", msg_id="3", ttl_s=10)
        assert self.ids(desk, "user:bob") == ["1", "2", "3"]
        desk.wall_ms += 10_001
        batch = self.read(desk, "user:bob")
        assert ([entry.seq for entry in batch.entries], batch.upto, batch.gap) == ([2], 3, False)

    # ----------------------------------------------------------------------------------------------- sessions

    def open(self, desk: Any, user: str, device: str = "phone", **more: Any) -> Any:
        return desk.now(opening(desk.broker, desk.claim(user, device, **more)))

    def test_a_claim_is_answered_with_what_it_is_about(self, desk: Any) -> None:
        answers: list[Any] = []

        def answer(*values: Any) -> None:
            answers.append(values)

        first = self.open(desk, "bob")
        desk.broker.open_session(desk.claim("bob", "phone"), answer, ("a", 1))
        desk.broker.open_session(desk.claim("carol", "web"), answer, ())
        desk.run()
        by_about = {values[1:]: values[0] for values in answers}
        again, carol = by_about["a", 1], by_about[()]
        assert len(answers) == 2
        assert (again.verdict, again.known, carol.verdict, carol.known) == (
            Verdict.OK,
            True,
            Verdict.OK,
            False,
        )
        assert again.generation > first.generation
        assert self.open(desk, "bob").generation > again.generation

    def test_a_claim_that_is_tried_already_is_answered_though_it_is_withdrawn(self, desk: Any) -> None:
        answers: list[Any] = []
        claim = desk.claim("bob", "phone")
        desk.broker.open_session(claim, answers.append, ())
        desk.broker.withdraw(claim)
        desk.run()
        desk.broker.withdraw(claim)
        assert [opened.verdict for opened in answers] == [Verdict.OK]

    def test_who_can_say_at_once_where_a_log_stands_tells_what_follows(self, desk: Any) -> None:
        assert desk.broker.watch_now(log("user:bob")) is None, "nobody knows it yet"
        self.send(desk, "user:bob", msg_id="1")
        assert not desk.listener.named("arrived"), "it was not watched"
        self.open(desk, "bob")
        position = desk.broker.watch_now(log("user:bob"))
        if position is not None:
            assert position == desk.now(desk.broker.watch(log("user:bob")))
            self.send(desk, "user:bob", msg_id="2")
            assert len(desk.listener.named("arrived")) == 1

    def test_a_log_has_one_server(self, desk: Any) -> None:
        for text in ("user:bob", "topic:news", "room:7"):
            assert hash(desk.broker.server(log(text))) == hash(desk.broker.server(log(text)))

    def test_generations_rise(self, desk: Any) -> None:
        generations = [self.open(desk, user).generation for user in ("bob", "bob", "carol", "bob")]
        assert generations == sorted(set(generations))

    def test_a_new_device_starts_after_what_another_acknowledged_just_now(self, desk: Any) -> None:
        for n in range(4):
            self.send(desk, "user:bob", msg_id=str(n))
        first = self.open(desk, "bob", "first")
        desk.broker.advance(SessionKey("bob", "first"), first.generation, [(log("user:bob"), 3)])
        assert self.open(desk, "bob", "second").places[0].acked == 3

    def test_where_devices_start(self, desk: Any) -> None:
        for n in range(4):
            self.send(desk, "user:bob", msg_id=str(n))
        first = self.open(desk, "bob", "first")
        assert (first.known, first.places[0].acked, first.places[0].head) == (False, 0, 4)
        desk.broker.advance(SessionKey("bob", "first"), first.generation, [(log("user:bob"), 3)])
        desk.now(desk.broker.close_session(SessionKey("bob", "first"), first.generation))
        starts = {start: self.open(desk, "bob", start.name, start=start).places[0].acked for start in Start}
        assert starts == {Start.UNSEEN: 3, Start.HEAD: 4, Start.OLDEST: 0}
        again = self.open(desk, "bob", "first", start=Start.HEAD)
        assert (again.known, again.places[0].acked) == (True, 3)

    def test_who_starts_at_the_head_has_acknowledged_nothing(self, desk: Any) -> None:
        where, session = log("user:bob"), SessionKey("bob", "probe")
        for n in range(4):
            self.send(desk, "user:bob", msg_id=str(n))
        probe = self.open(desk, "bob", "probe", start=Start.HEAD)
        assert probe.places[0].acked == 4
        assert self.open(desk, "bob", "first").places[0].acked == 0
        desk.broker.advance(session, probe.generation, [], [(where, 2)])  # something is to be written of it
        desk.now(desk.broker.close_session(session, probe.generation))
        assert self.open(desk, "bob", "second").places[0].acked == 0
        assert desk.now(desk.broker.mailbox("bob")).seen == 0
        self.send(desk, "user:bob", msg_id="4")
        probe = self.open(desk, "bob", "probe")
        assert probe.places[0].acked == 4
        desk.broker.advance(session, probe.generation, [(where, 5)])
        assert self.open(desk, "bob", "third").places[0].acked == 5
        assert desk.now(desk.broker.mailbox("bob")).seen == 5

    def test_the_same_device_replaces_itself(self, desk: Any) -> None:
        old = self.open(desk, "bob")
        new = self.open(desk, "bob")
        ((session, generation, code, reason),) = desk.listener.named("displaced")
        assert (session, generation, code) == (SessionKey("bob", "phone"), old.generation, CloseCode.REPLACED)
        assert reason
        assert (new.verdict, new.known) == (Verdict.OK, True)

    def test_a_stale_generation_changes_nothing_and_is_told(self, desk: Any) -> None:
        session = SessionKey("bob", "phone")
        self.send(desk, "user:bob", msg_id="1")
        old = self.open(desk, "bob")
        new = self.open(desk, "bob")
        desk.listener.events.clear()
        desk.broker.advance(session, old.generation, [(log("user:bob"), 1)])
        desk.broker.unpark(session, old.generation, log("user:bob"), 1)
        for _ in range(2):
            assert desk.now(desk.broker.record(session, new.generation, b"new")) is True
        assert desk.now(desk.broker.record(session, old.generation, b"old")) is False
        assert [told[:3] for told in desk.listener.named("displaced")] == [
            (session, old.generation, CloseCode.STALE)
        ] * 3
        desk.now(desk.broker.close_session(session, old.generation))
        (here,) = desk.now(desk.broker.sessions("bob"))
        assert (here.online, here.generation) == (True, new.generation)
        third = self.open(desk, "bob")
        assert (third.places[0].acked, third.record) == (0, b"new")

    @pytest.mark.parametrize(
        ("policy", "verdict", "displaced"),
        [
            (LoginPolicy.MANY, Verdict.OK, []),
            (LoginPolicy.ONE_PER_PLATFORM, Verdict.OK, ["phone"]),
            (LoginPolicy.ONE, Verdict.OK, ["phone", "desk"]),
            (LoginPolicy.REFUSE, Verdict.CONFLICT, []),
        ],
    )
    def test_login_policies(self, desk: Any, policy: Any, verdict: Any, displaced: list[str]) -> None:
        self.open(desk, "bob", "phone", platform="mobile")
        self.open(desk, "bob", "desk", platform="pc")
        gone = self.open(desk, "bob", "gone", platform="mobile")
        desk.now(desk.broker.close_session(SessionKey("bob", "gone"), gone.generation))
        opened = self.open(desk, "bob", "tablet", platform="mobile", policy=policy)
        assert opened.verdict == verdict
        told = desk.listener.named("displaced")
        assert [session.device for session, *_ in told] == displaced
        assert {code for _, _, code, _ in told} <= {CloseCode.DISPLACED}
        online = {one.session.device for one in desk.now(desk.broker.sessions("bob")) if one.online}
        assert online == {"phone", "desk"} - set(displaced) | ({"tablet"} if verdict == Verdict.OK else set())

    def test_refuse_lets_the_same_device_back_in(self, desk: Any) -> None:
        self.open(desk, "bob", policy=LoginPolicy.REFUSE)
        assert self.open(desk, "bob", policy=LoginPolicy.REFUSE).verdict == Verdict.OK

    def test_newest_order_wins(self, desk: Any) -> None:
        rule = {"on_same_device": "newest-order-wins"}
        self.open(desk, "bob", order=5, **rule)
        assert self.open(desk, "bob", order=4, **rule).verdict == Verdict.OUTRUN
        assert self.open(desk, "bob", order=5, **rule).verdict == Verdict.OK
        assert self.open(desk, "bob", order=6, **rule).verdict == Verdict.OK
        assert self.open(desk, "bob", order=1).verdict == Verdict.OK
        stale, replaced = (
            (CloseCode.STALE, "a newer login has this session"),
            (CloseCode.REPLACED, "the same device logged in again"),
        )
        assert [told[2:] for told in desk.listener.named("displaced")] == [stale, replaced, replaced]

    def test_revocation(self, desk: Any) -> None:
        old = self.open(desk, "bob", "old", issued_at_s=100)
        self.open(desk, "bob", "new", issued_at_s=200)
        desk.now(desk.broker.revoke("bob", 150))
        desk.now(desk.broker.revoke("bob", 120))
        told = desk.listener.named("displaced")
        assert [one[:3] for one in told] == [(SessionKey("bob", "old"), old.generation, CloseCode.REVOKED)]
        assert self.open(desk, "bob", "old", issued_at_s=149).verdict == Verdict.REVOKED
        assert self.open(desk, "bob", "old", issued_at_s=150).verdict == Verdict.OK
        assert self.open(desk, "carol", issued_at_s=1).verdict == Verdict.OK

    def test_a_renewed_token_counts_from_then_on(self, desk: Any) -> None:
        session = SessionKey("bob", "phone")
        opened = self.open(desk, "bob", issued_at_s=100)
        assert desk.now(desk.broker.renew_session(session, opened.generation, 200)) == Verdict.OK
        desk.now(desk.broker.revoke("bob", 150))
        assert desk.listener.named("displaced") == []
        assert desk.now(desk.broker.renew_session(session, opened.generation, 149)) == Verdict.REVOKED
        assert desk.now(desk.broker.renew_session(session, opened.generation, 150)) == Verdict.OK
        assert desk.now(desk.broker.renew_session(session, opened.generation - 1, 300)) == Verdict.OUTRUN

    def test_what_it_measures(self, desk: Any) -> None:
        self.send(desk, "user:bob", "user:carol", msg_id="1")
        self.send(desk, "user:bob", msg_id="1")
        counters = Counters()
        desk.broker.measure(counters)
        assert (counters.store_entries, counters.store_waiting) == (2, 0)
        assert counters.store_dedup_ids == self.ids_in_memory
        assert counters.store_commits >= 1
        assert (counters.store_retries, counters.store_waiting_bytes) == (0, 0)

    def test_positions_only_rise(self, desk: Any) -> None:
        session = SessionKey("bob", "phone")
        for n in range(3):
            self.send(desk, "user:bob", msg_id=str(n))
        opened = self.open(desk, "bob")
        desk.broker.advance(session, opened.generation, [(log("user:bob"), 2)])
        desk.broker.advance(session, opened.generation, [(log("user:bob"), 1)])
        desk.now(desk.broker.close_session(session, opened.generation))
        assert self.open(desk, "bob").places[0].acked == 2

    def test_records_and_parked_entries_come_back(self, desk: Any) -> None:
        session, where = SessionKey("bob", "phone"), log("user:bob")
        for n in range(40):
            desk.publish("user:bob", msg_id=str(n))
        opened = self.open(desk, "bob")
        assert desk.now(desk.broker.record(session, opened.generation, b"\x00state")) is True
        assert desk.now(desk.broker.record(session, opened.generation, b"\x00state")) is True
        desk.broker.advance(session, opened.generation, [(where, 40)], [(where, n) for n in range(1, 36)])
        desk.broker.unpark(session, opened.generation, where, 35)
        desk.now(desk.broker.close_session(session, opened.generation))
        again = self.open(desk, "bob")
        assert again.record == b"\x00state"
        # 32 are kept; over it the oldest is left to the log.
        assert again.places[0].parked == tuple(range(4, 35))

    def test_cursors_in_further_logs(self, desk: Any) -> None:
        session, where = SessionKey("sink", "hook"), log("service:orders")
        for n in range(3):
            self.send(desk, "service:orders", msg_id=str(n))
        opened = self.open(desk, "sink", "hook")
        desk.broker.advance(session, opened.generation, [(where, 1)], [(where, 1), (where, 2)])
        desk.broker.advance(session, opened.generation, [(where, 2)])
        desk.broker.unpark(session, opened.generation, where, 1)
        desk.broker.unpark(session, opened.generation, log("service:other"), 1)
        for _ in range(2):
            again = self.open(desk, "sink", "hook")
            assert (again.places[0].log, again.places[0].acked) == (log("user:sink"), 0)
            follow = desk.broker.follow(session, again.generation, where, 3)
            assert desk.now(follow) == Followed(True, 2, (2,))
            desk.now(desk.broker.close_session(session, again.generation))

    def test_who_follows_a_log_has_a_place_in_it(self, desk: Any) -> None:
        session, where = SessionKey("bob", "phone"), log("topic:news")
        for n in range(3):
            self.send(desk, "topic:news", msg_id=str(n))
        opened = self.open(desk, "bob")
        follow = partial(desk.broker.follow, session)
        assert desk.now(follow(opened.generation, where, 2)) == Followed(False, 2)
        assert desk.now(follow(opened.generation, where, 3)) == Followed(True, 2)
        desk.broker.advance(session, opened.generation, [(where, 3)], [(where, 3)])
        assert desk.now(follow(opened.generation, where, 0)) == Followed(True, 3, (3,))
        desk.now(desk.broker.close_session(session, opened.generation))
        again = self.open(desk, "bob")
        assert desk.now(follow(again.generation, where, 0)) == Followed(True, 3, (3,))
        pad = self.open(desk, "bob", "pad")
        assert desk.now(desk.broker.follow(SessionKey("bob", "pad"), pad.generation, where, 1)).acked == 1

    def test_a_log_that_nothing_was_sent_to_can_be_followed(self, desk: Any) -> None:
        session, where = SessionKey("bob", "phone"), log("topic:news")
        opened = self.open(desk, "bob")
        assert desk.now(desk.broker.follow(session, opened.generation, where, 0)) == Followed(False, 0)
        self.send(desk, "topic:news", msg_id="1")
        desk.now(desk.broker.close_session(session, opened.generation))
        again = self.open(desk, "bob")
        assert desk.now(desk.broker.follow(session, again.generation, where, 1)) == Followed(True, 0)

    def test_who_unfollows_begins_anew(self, desk: Any) -> None:
        session, where, other = SessionKey("bob", "phone"), log("topic:news"), log("topic:sport")
        for n in range(3):
            self.send(desk, "topic:news", msg_id=str(n))
        opened = self.open(desk, "bob")
        for one in (where, other):
            desk.now(desk.broker.follow(session, opened.generation, one, 0))
        desk.broker.advance(session, opened.generation, [(where, 2)])
        desk.now(desk.broker.unfollow(session, opened.generation, where))
        desk.now(desk.broker.unfollow(session, opened.generation, where))
        assert desk.now(desk.broker.follow(session, opened.generation, where, 1)) == Followed(False, 1)
        # One right after the other.
        boxes = [
            desk.later(desk.broker.unfollow(session, opened.generation, where)),
            desk.later(desk.broker.follow(session, opened.generation, where, 3)),
            desk.later(desk.broker.unfollow(session, opened.generation, where)),
        ]
        desk.run()
        assert boxes == [[None], [Followed(False, 3)], [None]]
        desk.now(desk.broker.close_session(session, opened.generation))
        again = self.open(desk, "bob")
        assert desk.now(desk.broker.follow(session, again.generation, where, 1)) == Followed(False, 1)
        assert desk.now(desk.broker.follow(session, again.generation, other, 1)) == Followed(True, 0)

    def test_a_stale_generation_follows_nothing(self, desk: Any) -> None:
        session, where = SessionKey("bob", "phone"), log("topic:news")
        old, new = self.open(desk, "bob"), self.open(desk, "bob")
        desk.now(desk.broker.follow(session, new.generation, where, 0))
        desk.listener.events.clear()
        desk.now(desk.broker.follow(session, old.generation, log("topic:sport"), 0))
        desk.now(desk.broker.unfollow(session, old.generation, where))
        assert [told[:3] for told in desk.listener.named("displaced")] == [
            (session, old.generation, CloseCode.STALE)
        ] * 2
        follow = partial(desk.broker.follow, session, self.open(desk, "bob").generation)
        assert desk.now(follow(where, 1)) == Followed(True, 0)
        assert desk.now(follow(log("topic:sport"), 1)) == Followed(False, 1)

    def test_a_forgotten_device_follows_nothing(self, desk: Any) -> None:
        session, where = SessionKey("bob", "phone"), log("topic:news")
        opened = self.open(desk, "bob")
        desk.now(desk.broker.follow(session, opened.generation, where, 0))
        desk.now(desk.broker.close_session(session, opened.generation, forget=True))
        again = self.open(desk, "bob")
        assert desk.now(desk.broker.follow(session, again.generation, where, 7)) == Followed(False, 7)

    def test_a_forgotten_device_is_new(self, desk: Any) -> None:
        session = SessionKey("bob", "phone")
        self.send(desk, "user:bob", msg_id="1")
        opened = self.open(desk, "bob")
        done = desk.later(desk.broker.close_session(session, opened.generation, forget=True))
        again = desk.later(opening(desk.broker, desk.claim("bob", start=Start.HEAD)))
        desk.run()
        assert done
        assert (again[0].known, again[0].places[0].acked) == (False, 1)
        desk.now(desk.broker.close_session(session, again[0].generation, forget=True))
        assert desk.now(desk.broker.sessions("bob")) == ()

    def test_who_is_there(self, desk: Any) -> None:
        opened = self.open(desk, "bob", "phone", platform="ios")
        self.open(desk, "bob", "web", platform="web")
        desk.now(desk.broker.close_session(SessionKey("bob", "phone"), opened.generation))
        web, phone = desk.now(desk.broker.sessions("bob"))
        assert (web.session, web.platform, web.online, web.node) == (
            SessionKey("bob", "web"),
            "web",
            True,
            "n.1",
        )
        assert (phone.session.device, phone.platform, phone.online) == ("phone", "ios", False)
        assert desk.now(desk.broker.sessions("nobody")) == ()

    def test_a_session_whose_client_is_gone_is_not_online(self, desk: Any) -> None:
        session, rule = SessionKey("bob", "phone"), {"on_same_device": "newest-order-wins"}
        old = self.open(desk, "bob", order=5, **rule)
        web = self.open(desk, "bob", "web")
        desk.broker.linger(session, old.generation - 1)
        assert self.open(desk, "bob", order=4, **rule).verdict == Verdict.OUTRUN
        desk.broker.linger(session, old.generation)
        desk.run()
        there, away = desk.now(desk.broker.sessions("bob"))
        assert (there.session.device, there.online, there.generation) == ("web", True, web.generation)
        assert (away.online, away.node, away.generation) == (False, "n.1", old.generation)
        assert desk.now(desk.broker.members(parse_address("all"))) == 2, "it is still open"
        new = self.open(desk, "bob", order=4, **rule)
        assert (new.verdict, new.resumed) == (Verdict.OK, True)
        assert all(one.online for one in desk.now(desk.broker.sessions("bob")))
        desk.broker.linger(session, new.generation)
        desk.now(desk.broker.close_session(session, new.generation))
        assert [one.node for one in desk.now(desk.broker.sessions("bob"))] == ["n.1", ""]

    def test_mail_for_nobody_is_told(self, desk: Any) -> None:
        self.send(desk, "user:bob", msg_id="1")
        opened = self.open(desk, "bob")
        desk.now(desk.broker.watch(log("user:bob")))
        self.send(desk, "user:bob", msg_id="2")
        desk.broker.unwatch(log("user:bob"))
        desk.now(desk.broker.close_session(SessionKey("bob", "phone"), opened.generation))
        self.send(desk, "user:bob", "topic:x", msg_id="3")
        told = [(where, message.msg_id) for where, message in desk.listener.named("unattended")]
        assert told == [(log("user:bob"), "1"), (log("user:bob"), "3")]

    def test_mail_for_a_session_without_a_link_is_told(self, desk: Any) -> None:
        where = log("user:bob")
        self.open(desk, "bob")
        desk.now(desk.broker.watch(where))
        desk.listener.away.add(where)
        self.send(desk, "user:bob", msg_id="1")
        desk.listener.away.clear()
        self.send(desk, "user:bob", msg_id="2")
        assert [message.msg_id for _, message in desk.listener.named("unattended")] == ["1"]

    def test_a_reset_log_has_an_epoch_of_its_own(self, desk: Any) -> None:
        before = self.send(desk, "user:bob", msg_id="1")[0]
        position = desk.now(desk.broker.reset_log(log("user:bob")))
        assert position.epoch not in (0, before.epoch)
        assert (position.first, position.head) == (1, 1)
        assert self.send(desk, "user:bob", msg_id="2")[0].epoch == position.epoch
        assert self.read(desk, "user:bob").epoch == position.epoch
        assert self.open(desk, "bob").places[0].epoch == position.epoch
        assert self.send(desk, "user:carol", msg_id="1")[0].epoch == before.epoch

    # -------------------------------------------------------------------------------------------- the cluster

    def test_how_far_a_mailbox_has_got(self, desk: Any) -> None:
        def mailbox() -> tuple[int, int, int]:
            found = desk.now(desk.broker.mailbox("bob"))
            return found.first, found.head, found.seen

        assert mailbox()[1:] == (0, 0)
        outcomes = [self.send(desk, "user:bob", msg_id=str(n))[0] for n in range(5)]
        assert desk.now(desk.broker.mailbox("bob")).epoch == outcomes[0].epoch
        assert mailbox() == (1, 5, 0)
        phone, web = (
            desk.now(opening(desk.broker, desk.claim("bob", device))) for device in ("phone", "web")
        )
        desk.broker.advance(SessionKey("bob", "phone"), phone.generation, [(log("user:bob"), 4)])
        desk.broker.advance(SessionKey("bob", "web"), web.generation, [(log("user:bob"), 2)])
        desk.now(desk.broker.close_session(SessionKey("bob", "phone"), phone.generation))
        assert mailbox() == (1, 5, 4), "the furthest counts, also when it has gone"
        self.send(desk, "user:eve", msg_id="x")
        assert mailbox() == (1, 5, 4)

    def test_a_process_can_talk_to_itself_and_not_to_nobody(self, desk: Any) -> None:
        told = desk.later(desk.broker.tell("n.1", b"to \xff myself"))
        assert desk.listener.named("control") == [], "in a later turn"
        desk.pass_time(0.1)
        assert told == [True]
        assert desk.listener.named("control") == [(b"to \xff myself",)]
        assert desk.now(desk.broker.tell("n.9", b"anybody?")) is False
        assert len(desk.listener.named("control")) == 1


class TestEmbedded(BrokerContract):
    @pytest.fixture
    def desk(self, tmp_path: Path) -> Any:
        rig = Rig(tmp_path / "data").start()
        yield rig
        rig.stop()


class TestMemory(BrokerContract):
    @pytest.fixture
    def desk(self, tmp_path: Path) -> Any:
        rig = Rig(None).start()
        yield rig
        rig.stop()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill9()


@pytest.mark.server
class TestRedis(BrokerContract):
    ids_in_memory = 0  # Redis has them

    @pytest.fixture
    def desk(self, redis_server: RedisServer) -> Any:
        redis_server.cli("FLUSHALL")
        desk = BrokerDesk(redis_server).start()
        yield desk
        desk.stop()
