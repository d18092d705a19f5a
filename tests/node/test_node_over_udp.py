"""A whole node and the client SDK over UDP, in memory: tokens, keys and settings as they are in life."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from imgateway.auth.token import TokenAuthenticator
from imgateway.config import Settings
from imgateway.errors import ConnectRefused, LinkLost
from imgateway.frames import OutcomeCode
from imgateway.tap.doors import transport_options, udp_keys
from imgateway.testing.conditions import LinkConditions
from tests.node.udp_place import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(str(tmp_path))
    yield place
    place.end()


def test_login_publish_receive(place: Place) -> None:
    shown: list[bytes] = []
    bob = place.client("bob", on_message=lambda message: shown.append(message.message.body))
    place.result(bob.start())
    alice = place.client("alice")
    place.result(alice.start())
    (outcome,) = place.result(alice.publish("user:bob", b"over UDP"))
    assert outcome.code == OutcomeCode.OK
    place.settle()
    assert shown == [b"over UDP"]
    assert alice.user == "alice"
    assert not any(b"over UDP" in one.data for one in place.network.datagrams.captured or ())
    assert not any(b"eyJ" in one.data for one in place.network.datagrams.captured or ())


def test_the_key_stays_at_home(place: Place) -> None:
    """On no transport the gateway is shown more than the token."""
    token = place.token("bob")
    seen: list[str] = []
    inner = TokenAuthenticator.authenticate

    def spy(self: Any, hello: Any, peer: str) -> Any:
        seen.append(hello.token)
        return inner(self, hello, peer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenAuthenticator, "authenticate", spy)
        client = place.client("bob", lambda: token)
        place.result(client.start())
        place.pass_time(3_600)  # renewed on the way, with the same token
    assert len(seen) > 1
    assert set(seen) == {token.partition("~")[0]}


def test_a_large_message_both_ways(place: Place) -> None:
    shown: list[bytes] = []
    bob = place.client("bob", on_message=lambda message: shown.append(message.message.body))
    place.result(bob.start())
    body = bytes(range(256)) * 240
    (outcome,) = place.result(bob.publish("user:bob", body, copy_self=False), 5)
    assert outcome.code == OutcomeCode.OK
    place.pass_time(3)
    alice = place.client("alice")
    place.result(alice.start())
    place.result(alice.publish("user:bob", body), 5)
    place.pass_time(3)
    assert body in shown


def test_through_loss(place: Place) -> None:
    place.network.datagrams.conditions = LinkConditions(
        loss=0.2, duplicate=0.05, reorder=0.1, delay_s=0.05, jitter_s=0.02
    )
    shown: list[bytes] = []
    bob = place.client("bob", on_message=lambda message: shown.append(message.message.body))
    alice = place.client("alice")
    place.result(bob.start(), 20)
    place.result(alice.start(), 20)
    publishing = [alice.publish("user:bob", b"%d" % number) for number in range(100)]
    for one in publishing:
        assert place.result(one, 60)[0].code == OutcomeCode.OK
    place.pass_time(20)
    assert shown == [b"%d" % number for number in range(100)]
    assert alice.connected
    assert bob.connected


def test_a_restart_is_noticed_at_once(place: Place) -> None:
    reasons: list[str] = []
    client = place.client("bob")
    client.on_down = lambda code, reason: reasons.append(reason)
    place.result(client.start())
    listener: Any = place.node.listeners[0]
    place.node.stop()
    listener.transport.stopListening()  # as if killed: no goodbye
    listener.transport = None
    place.pass_time(4)
    place.network.settle()
    place.start()
    outcome = client.publish("user:bob", b"are you there?")
    assert place.result(outcome, 10)[0].code == OutcomeCode.OK
    assert len(reasons) == 1
    assert client.connected


def test_without_a_key(place: Place) -> None:
    client = place.client("bob", lambda: place.token("bob", udp=False))
    with pytest.raises(LinkLost, match="imgateway token USER --udp"):
        place.result(client.start())


def test_with_a_key_that_is_none(place: Place) -> None:
    client = place.client("bob", lambda: place.token("bob", udp=False) + "~cut")
    with pytest.raises(ConnectRefused, match="was it cut off"):
        place.result(client.start())


def test_unsealed(tmp_path: Path) -> None:
    place = Place(str(tmp_path), "native+udp:127.0.0.1:7901:insecure=1")
    client = place.client("bob", lambda: place.token("bob", udp=False))
    place.result(client.start())
    place.result(client.publish("user:bob", b"plain to see"))
    assert any(b"plain to see" in one.data for one in place.network.datagrams.captured or ())
    place.end()


def test_the_settings_reach_the_listener(tmp_path: Path) -> None:
    place = Place(str(tmp_path), max_resends=2)
    place.result(place.client("bob").start())
    listener: Any = place.node.listeners[0]
    assert listener.max_resends == 2
    place.end()


def test_no_udp_listener_no_udp_secret(tmp_path: Path) -> None:
    settings = Settings()
    settings = replace(settings, node=replace(settings.node, data_dir=str(tmp_path)))
    assert udp_keys(settings) is None
    assert set(transport_options(settings, None)) == {"origins", "max_resends"}
    assert list(tmp_path.iterdir()) == []
