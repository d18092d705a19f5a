"""Durable logs on a real Redis against a plain model: whatever two nodes do, in whatever order, while time
passes and Redis dies and comes back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from imgateway.brokers.redis.packing import pack
from imgateway.config import RetentionSettings
from imgateway.frames import OutcomeCode
from imgateway.wire.messages import decode_message
from tests.brokers.redis_logs import LogsDesk, Reader
from tests.brokers.redis_server import Loop, RedisServer

pytestmark = pytest.mark.server

OK, DUPLICATE, FULL = OutcomeCode.OK, OutcomeCode.DUPLICATE, OutcomeCode.FULL
TEXTS = ("user:bob", "user:carol", "service:orders")
MOST, AGE_S, DEDUP_S, STEP_S = 6, 450, 350, 100
JUMP = 1 << 20


class Modelled:
    """One log: its entries as seq → (name, when it came, when it expires), how far it lost any, what it
    remembers."""

    def __init__(self) -> None:
        self.head = self.lost = self.floor = 0
        self.entries: dict[int, tuple[str, int, float]] = {}
        self.brief: set[int] = set()
        self.ever: set[int] = set()
        self.jumps: list[int] = []
        self.known: dict[str, tuple[int, int]] = {}

    def append(self, name: str, now: int, ttl_s: int) -> tuple[int, int]:
        seq, until = self.known.get(name, (0, 0))
        if seq and now < until:
            return DUPLICATE, seq
        if len(self.entries) >= MOST:
            oldest = min(self.entries)
            if oldest > self.floor:
                return FULL, 0
            self.lose(oldest)
        self.head += 1
        self.ever.add(self.head)
        self.entries[self.head] = (name, now, now + ttl_s if ttl_s else float("inf"))
        if ttl_s:
            self.brief.add(self.head)
        self.known[name] = (self.head, now + DEDUP_S)
        return OK, self.head

    def jump(self) -> None:
        self.head += JUMP
        self.jumps.append(self.head)

    def lose(self, seq: int) -> None:
        del self.entries[seq]
        self.lost = max(self.lost, seq)

    def pass_to(self, now: int) -> None:
        for seq, (_, at, expires) in list(self.entries.items()):
            if expires <= now:
                del self.entries[seq]
            elif now - at > AGE_S:
                self.lose(seq)


class Logs(RuleBasedStateMachine):
    server: RedisServer

    @initialize()
    def begin(self) -> None:
        if self.server._process is None:
            self.server.restart()
        self.server.cli("FLUSHALL")
        self.loop = Loop()
        retention = RetentionSettings(entries=MOST, age_s=AGE_S)
        self.nodes = [
            LogsDesk(
                self.server, loop=self.loop, incarnation=f"n.{n}", retention=retention, dedup_s=DEDUP_S
            ).start()
            for n in range(2)
        ]
        self.readers = {text: Reader(self.nodes[1], text) for text in TEXTS}
        self.model = {text: Modelled() for text in TEXTS}
        self.now = 0
        self.waiting: list[tuple[list[Any], list[tuple[int, int]]]] = []

    @rule(
        node=st.integers(0, 1),
        texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3, unique=True),
        number=st.integers(0, 11),
        ttl_s=st.sampled_from((0, 0, STEP_S // 2)),
        size=st.sampled_from((3, 2_000)),
    )
    def publish(self, node: int, texts: list[str], number: int, ttl_s: int, size: int) -> None:
        # Two nodes have two lines: whose comes first is not fixed, so only one of them has calls under way.
        if self.waiting and self.node != node:
            self.answer()
        self.node = node
        box = self.nodes[node].publish(*texts, msg_id=str(number), body=bytes(size), ttl_s=ttl_s)
        expected = [self.model[text].append(str(number), self.now, ttl_s) for text in texts]
        self.waiting.append((box, expected))

    @rule()
    def answer(self) -> None:
        self.nodes[0].answered(*[box for box, _ in self.waiting])
        for box, expected in self.waiting:
            for outcome, (code, seq) in zip(box[0], expected, strict=True):
                # A repeat that joined what was under way has its outcome.
                assert outcome.seq == seq
                assert outcome.code == code or (outcome.code, code) == (OK, DUPLICATE)
        self.waiting.clear()

    @rule(text=st.sampled_from(TEXTS[:2]), share=st.floats(0, 1))
    def acknowledge(self, text: str, share: float) -> None:
        self.answer()
        log = self.model[text]
        log.floor = max(log.floor, int(log.head * share))
        user = text[5:]
        _, bucket = self.nodes[0].primaries.of(user)
        packed = pack((1, b"n.0", log.floor, 0, 0, b"", 0, 0, b"", b"", 0, 0))
        self.server.cli("HSET", f"ig:{{{bucket}}}:u:{user}", "d:phone", packed)

    @rule()
    def time_passes(self) -> None:
        self.answer()
        self.now += STEP_S
        for node in self.nodes:
            node.shift_ms = self.now * 1000
        self.nodes[0].pass_time(0)
        self.loop.shift_s += STEP_S  # the sweeps are due
        self.loop.spin(0.005)
        for node in self.nodes:
            node.settle()
        for log in self.model.values():
            log.pass_to(self.now)

    @rule(gently=st.booleans())
    def redis_dies(self, gently: bool) -> None:
        (self.server.stop if gently else self.server.kill9)()
        self.loop.spin(0.002)
        self.server.restart()

    @rule()
    def another_takes_over(self) -> None:
        """As far as logs can tell: whether it misses something, nobody knows."""
        self.answer()
        self.server.cli("HINCRBY", "ig:primary", "n", 1)
        for log in self.model.values():
            log.jump()
        for node in self.nodes:
            node.logs.renewed(node.primary)

    @rule(node=st.integers(0, 1))
    def hints_are_lost(self, node: int) -> None:
        self.nodes[node].primary.subscription.drop(ConnectionError("lost"))

    @rule(
        text=st.sampled_from(TEXTS),
        after=st.integers(0, 30),
        life=st.integers(0, 2),
        limit=st.integers(1, 4),
    )
    def read(self, text: str, after: int, life: int, limit: int) -> None:
        self.answer()
        log = self.model[text]
        after += life * JUMP
        batch = self.nodes[0].read(text, after, limit)
        there = [seq for seq in sorted(log.entries) if seq > after][:limit]
        assert [entry.seq for entry in batch.entries] == there
        assert [decode_message(entry.message).msg_id for entry in batch.entries] == [
            log.entries[seq][0] for seq in there
        ]
        assert batch.head == log.head
        is_over_jump = any(after < jump <= batch.upto for jump in log.jumps)
        assert batch.gap == ((after < log.lost and after < log.head) or is_over_jump)
        if after < log.head:
            is_whole = len([seq for seq in log.entries if seq > after]) <= limit
            assert batch.upto == (log.head if is_whole else there[-1])

    @rule()
    def listen(self) -> None:
        """Everything was shown, or told to be gone, or had expired; once, rising."""
        self.answer()
        for text, reader in self.readers.items():
            log = self.model[text]
            reader.go_on()
            assert reader.at == log.head
            seqs = [seq for seq, _ in reader.shown]
            assert seqs == sorted(set(seqs))
            assert set(seqs) <= log.ever
            for seq in log.ever.difference(seqs, log.brief).union(log.jumps):
                assert any(after < seq <= upto for after, upto in reader.gaps), seq

    @invariant()
    def not_too_much_is_waiting(self) -> None:
        if len(self.waiting) > 8:
            self.answer()

    def teardown(self) -> None:
        if hasattr(self, "nodes"):
            self.listen()
            for text, log in self.model.items():
                batch = self.nodes[0].read(text)
                assert [entry.seq for entry in batch.entries] == sorted(log.entries)
            for node in self.nodes:
                node.stop()
            self.loop.close()


def test_logs_are_as_the_model_has_them() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        try:

            class OnThis(Logs):
                pass

            OnThis.server = server
            case: Any = OnThis.TestCase
            case.settings = settings(
                max_examples=15,
                stateful_step_count=25,
                deadline=None,
                derandomize=True,
                suppress_health_check=[HealthCheck.too_slow],
            )
            case("runTest").runTest()
        finally:
            server.kill9()
