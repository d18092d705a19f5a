"""`IBroker.take` at the embedded broker: what waits counts, and who is told wrongly costs nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imgateway.config import BrokerSettings
from imgateway.frames import Message, OutcomeCode, user_address
from imgateway.testing.disk import Rig, disk_error

BOB = user_address("bob")


def take(rig: Rig, msg_id: str, answer: Any, body: bytes = b"b") -> None:
    rig.broker.take(Message(msg_id, "alice", "phone", body=body, sent_ms=rig.wall_ms), BOB, answer, (msg_id,))


@pytest.mark.parametrize(("count", "body"), [(12, b"b"), (1, bytes(200_000))])
def test_what_waits_counts(tmp_path: Path, count: int, body: bytes) -> None:
    limits = BrokerSettings(waiting_entries=10, waiting_bytes=100_000, batch_entries=3)
    rig = Rig(tmp_path / "data", settings=limits).start()
    told: list[Any] = []
    for n in range(count):
        take(rig, str(n), lambda outcomes, name: told.append((name, outcomes[0].seq)), body)
    assert rig.listener.named("congested") == [(True,)]
    rig.run()
    assert rig.listener.named("congested") == [(True,), (False,)]
    assert told == [(str(n), n + 1) for n in range(count)]


def test_nobody_is_told_before_it_is_stored(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data").start()
    assert rig.disk is not None
    rig.disk.fail(disk_error())
    told: list[Any] = []
    take(rig, "1", lambda outcomes, name: told.append(outcomes[0].code))
    rig.run()
    assert told == []
    rig.disk.mend()
    rig.pass_time(3)
    assert told == [OutcomeCode.OK]


def test_one_who_raises_at_the_answer(tmp_path: Path, flush_logged_errors: Any) -> None:
    rig = Rig(tmp_path / "data").start()
    told: list[str] = []

    def fails(outcomes: Any, name: str) -> None:
        raise ZeroDivisionError

    take(rig, "1", fails)
    take(rig, "2", lambda outcomes, name: told.append(name))
    rig.run()
    assert told == ["2"]
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
