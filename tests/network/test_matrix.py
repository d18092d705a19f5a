"""Everybody to everybody: each wire on each transport sends to each other, and the page in the docs says so.

``IMGATEWAY_WRITE_MATRIX=1`` writes what is observed into the page.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted

from tests.certificate import write_certificate

from .carriers import CARRIERS
from .matrix_page import ABSENT, ARRIVES, PARKED, REFUSED, looks, on_the_page, outcomes, refusals, said
from .nodes import Node, holding_ports, soon
from .speakers import Look, Peer

pytestmark = pytest.mark.network
TEXTS = {"text": 0, "300 B": 300, "3 KB": 3_000, "60 KB": 60_000}
WHATS = ("text", "binary", "300 B", "3 KB", "60 KB")
LAST, MARKER = "last", b"marker"
WIDER = {
    "mobileimsdk over UDP": "mobileimsdk over WebSocket",
    "mobileimsdk over TCP": "mobileimsdk over WebSocket",
}
"""Another transport of the same wire that can say more, if there is one."""
ALL = "native over TCP"
"""Who can say everything."""
CLOSED, NO_ANSWER = "the connection is closed", "nothing comes back, no receipt either"

SPEAKERS = {
    "native": ("native over TCP", "anna"),
    "json": ("json over WebSocket", "anna"),
    "mobileimsdk": ("mobileimsdk over TCP", "9"),
    "chat": ("chat over TCP", "7"),
    "mqtt 5": ("mqtt over TCP", "motor"),
    "mqtt 3.1.1": ("mqtt over WebSocket", "motor"),
}
"""Who shows how messages look elsewhere: some have numbers for names, and some have not."""

Peers = dict[str, Peer]
Table = dict[tuple[str, str], tuple[str, ...]]
Place = tuple[Node, dict[str, int]]


@pytest.fixture
def place(make_node: Callable[..., Node], tmp_path: Path) -> Place:
    """A node that listens for everybody, and on which ports."""
    write_certificate(tmp_path)
    with holding_ports() as ports:
        taken = {name: ports.take() for name in CARRIERS}
        listen = [CARRIERS[name][0].format(port=port, keys=tmp_path) for name, port in taken.items()]
        return make_node(listen=listen).start(), taken


def body(sender: str, receiver: str, what: str) -> bytes:
    """Tells itself from all others."""
    name = f"{what} from {sender} to {receiver} "
    if what == "binary":
        return b"\xff\x00" + name.encode()
    return name.encode().ljust(TEXTS.get(what, 0), b"x")


def may_send(peer: Peer, what: str) -> bool:
    return peer.binary if what == "binary" else TEXTS.get(what, 0) <= peer.largest


def too_long(peer: Peer) -> list[str]:
    return [what for what in TEXTS if not may_send(peer, what)]


@pytest_twisted.ensureDeferred
async def test_everybody_to_everybody(place: Place) -> None:
    node, ports = place
    peers: Peers = {}
    for number, (name, (_, kind)) in enumerate(CARRIERS.items(), 1):
        peers[name] = kind(node, ports[name], str(number))
        await peers[name].log_in()
    for one, sender in peers.items():
        for other, receiver in peers.items():
            for what in (*WHATS, LAST):
                if may_send(sender, what):
                    sender.send(receiver.user, body(one, other, what), what != "binary")
    await all_came(peers, [(one, LAST) for one in peers])
    # Now: who logs in anew is offered them again, and they count again.
    set_aside = node.measure("imgateway_parked_entries_total")
    noticed = {(one, what): await refused(one, what, peers) for one in peers for what in too_long(peers[one])}
    await all_came(peers, [(one, f"after {what}") for one, what in noticed])
    table: Table = {
        (one, other): tuple(outcome(sender, one, receiver, other, what) for what in WHATS)
        for one, sender in peers.items()
        for other, receiver in peers.items()
    }
    assert set_aside == sum(cell.count(PARKED) for cell in table.values())
    for name, peer in peers.items():
        assert len(peer.got) == len(set(peer.got)), f"{name} was shown something twice"
        await peer.leave()
    for name, peer in peers.items():
        aside = {body(one, name, what) for one in peers for what in WHATS if may_send(peers[one], what)}
        await comes_elsewhere(name, peer, aside - set(peer.got), ports)
    on_the_page("outcomes", outcomes(list(CARRIERS), WHATS, table))
    on_the_page("refusals", refusals(noticed))


async def all_came(peers: Peers, sent: list[tuple[str, str]]) -> None:
    """What these senders have sent to everybody."""
    for other, receiver in peers.items():
        wanted = {body(one, other, what) for one, what in sent}

        def came(receiver: Peer = receiver, wanted: set[bytes] = wanted) -> bool:
            receiver.collect()
            return wanted <= set(receiver.got)

        await soon(came, 60.0, f"the last messages to {other}")


async def refused(one: str, what: str, peers: Peers) -> str:
    """Send what is too long to everybody: what the sender notices. Then something that does arrive."""
    sender = peers[one]
    noticed = set()

    async def answer(sent: str) -> None:
        await soon(lambda: sender.lost or sender.was_taken(sent), what=f"an answer to {one}")

    for other, receiver in peers.items():
        after = body(one, other, f"after {what}")
        sent = sender.send(receiver.user, body(one, other, what), True)
        await answer(sender.send(receiver.user, after, True))
        assert not sender.was_taken(sent)
        noticed.add(CLOSED if sender.lost else NO_ANSWER)
        if sender.lost:
            await sender.leave()
            await sender.log_in()
            await answer(sender.send(receiver.user, after, True))
            assert not sender.lost
    (same,) = noticed
    return same


def outcome(sender: Peer, one: str, receiver: Peer, other: str, what: str) -> str:
    arrived = body(one, other, what) in receiver.got
    if may_send(sender, what):
        return ARRIVES if arrived else PARKED
    assert not arrived
    return ABSENT if what == "binary" else REFUSED


async def comes_elsewhere(name: str, peer: Peer, aside: set[bytes], ports: dict[str, int]) -> None:
    """What was set aside comes when the same device comes on a wire that can say it, and once."""
    shown = set(peer.got)
    wider = WIDER.get(name)
    if wider is not None:
        texts = {text for text in aside if not text.startswith(b"\xff")}
        await comes(wider, peer, texts, shown, ports)
        aside = aside - texts
    await comes(ALL, peer, aside, shown, ports)


async def comes(
    carrier: str, peer: Peer, wanted: set[bytes], shown: set[bytes], ports: dict[str, int]
) -> None:
    """:param shown: what the user has seen; its newest may come again, if their receipts got lost."""
    again = CARRIERS[carrier][1](peer.node, ports[carrier], peer.user)
    again.device = peer.device
    await again.log_in()
    marker = MARKER + carrier.encode()
    again.send(peer.user, marker, True)
    await soon(lambda: marker in again.got, what=f"what user {peer.user} sends itself on {carrier}")
    fresh = [text for text in again.got if text not in shown and not text.startswith(MARKER)]
    assert sorted(fresh) == sorted(wanted)
    shown.update(fresh)
    await again.leave()


@pytest_twisted.ensureDeferred
async def test_as_what_it_arrives(place: Place) -> None:
    node, ports = place
    receivers: Peers = {}
    for number, (name, (carrier, _)) in enumerate(SPEAKERS.items(), 11):
        receivers[name] = CARRIERS[carrier][1](node, ports[carrier], str(number))
        await receivers[name].log_in()
    seen: dict[str, dict[tuple[str, bool], Look]] = {name: {} for name in receivers}
    for one, (carrier, user) in SPEAKERS.items():
        sender = CARRIERS[carrier][1](node, ports[carrier], user)
        await sender.log_in()
        for is_rich in (False, True):
            sent = sender.say([receiver.user for receiver in receivers.values()], is_rich)
            for name, receiver in receivers.items():
                seq = len(seen[name]) + 1
                look = await newest(receiver, seq)
                if "id" in look:
                    look["id"] = whose(look["id"], sent, seq, on_mobileimsdk=name == "mobileimsdk")
                seen[name][one, is_rich] = look
        await sender.leave()
    for receiver in receivers.values():
        await receiver.leave()
    says = {one: (user, CARRIERS[carrier][1].says) for one, (carrier, user) in SPEAKERS.items()}
    on_the_page("said", said(says))
    on_the_page("looks", looks(seen))


async def newest(receiver: Peer, seq: int) -> Look:
    """The receiver's message of that number, which is its last one."""

    def came() -> bool:
        receiver.collect()
        return len(receiver.looks) >= seq

    await soon(came, what=f"a message to {receiver.user}")
    assert len(receiver.looks) == seq
    return dict(receiver.looks[-1])


def whose(name: str, sent: str, seq: int, on_mobileimsdk: bool) -> str:
    """Where the id that a receiver is shown comes from."""
    if name == sent:
        return "the sender's"
    if on_mobileimsdk:
        assert name.endswith(f"-{seq:x}")
        return "of its place in the mailbox"
    assert name, "a message without an id"
    assert not sent, "the sender's id got lost"
    return "the gateway's"
