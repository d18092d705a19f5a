"""The same broker with its own threads and the real reactor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.errors import StoreError
from imgateway.frames import Message, SessionKey, log_of, parse_address
from imgateway.interfaces import Claim, Publication
from imgateway.testing.disk import Recorder, opening


def publication(n: int, to: str) -> Publication:
    return Publication(Message(f"m{n}", "alice", "phone", body=b"hello"), (parse_address(to),))


@pytest.mark.parametrize("durable", [True, False], ids=["embedded", "memory"])
@pytest_twisted.ensureDeferred
async def test_publish_read_restart(tmp_path: Path, durable: bool) -> None:
    from twisted.internet import reactor

    def make() -> Any:
        return EmbeddedBroker(reactor=reactor, data_dir=tmp_path if durable else None)

    broker, listener = make(), Recorder()
    await broker.start(listener, "n.1")
    where = log_of(parse_address("user:u0"))
    await broker.watch(where)
    opened = await opening(broker, Claim(SessionKey("u0", "phone")))
    outcomes = await gatherResults([broker.publish(publication(n, f"user:u{n % 7}")) for n in range(3000)])
    for user in range(7):
        seqs = [outcome[0].seq for outcome in outcomes[user::7]]
        assert seqs == list(range(1, len(seqs) + 1))
    arrived = [entry.seq for event in listener.named("arrived") for entry in event[4]]
    assert arrived == list(range(1, len(outcomes[0::7]) + 1))
    broker.advance(SessionKey("u0", "phone"), opened.generation, [(where, 7)])
    await broker.stop()
    if durable:
        broker = make()
        await broker.start(listener, "n.2")
        again = await broker.publish(publication(0, "user:u0"))
        assert (again[0].code, again[0].seq) == (1, 1)
        assert (await opening(broker, Claim(SessionKey("u0", "phone")))).places[0].acked == 7
        second = make()
        with pytest.raises(StoreError):
            await second.start(listener, "n.3")
        await broker.stop()
