"""Everybody to everybody: each wire on each transport sends to each other, and the table in the docs says so.

``IMGATEWAY_WRITE_MATRIX=1`` writes the table anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import pytest_twisted

from imgateway.client import Client

from .carriers import CARRIERS, Peer
from .nodes import Node, holding_ports, soon, until

pytestmark = pytest.mark.network
PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol" / "matrix.md"
TEXTS = {"text": 0, "300 B": 300, "3 KB": 3_000, "60 KB": 60_000}
WHATS = ("text", "binary", "300 B", "3 KB", "60 KB")
LAST = "last"
ARRIVES, PARKED, UNSENT = "+", "p", "-"


def body(sender: str, receiver: str, what: str) -> bytes:
    """Tells itself from all others."""
    name = f"{what} from {sender} to {receiver} "
    if what == "binary":
        return b"\xff\x00" + name.encode()
    return name.encode().ljust(TEXTS.get(what, 0), b"x")


def may_send(peer: Peer, what: str) -> bool:
    return peer.binary if what == "binary" else TEXTS.get(what, 0) <= peer.largest


@pytest_twisted.ensureDeferred
async def test_everybody_to_everybody(tmp_path: Path) -> None:
    with holding_ports() as ports:
        taken = {name: ports.take() for name in CARRIERS}
        listen = [CARRIERS[name][0].format(port=port) for name, port in taken.items()]
        node = Node(tmp_path, ports, listen=listen)
        await node.started()
        try:
            await everybody(node, taken)
        finally:
            node.end()


async def everybody(node: Node, ports: dict[str, int]) -> None:
    peers: dict[str, Peer] = {}
    for number, (name, (_, kind)) in enumerate(CARRIERS.items(), 1):
        peers[name] = kind(node, ports[name], str(number))
        await peers[name].log_in()
    for one, sender in peers.items():
        for other, receiver in peers.items():
            for what in (*WHATS, LAST):
                if may_send(sender, what):
                    sender.send(receiver.user, body(one, other, what), what != "binary")
    for other, receiver in peers.items():
        wanted = {body(one, other, LAST) for one in peers}

        def came(receiver: Peer = receiver, wanted: set[bytes] = wanted) -> bool:
            receiver.collect()
            return wanted <= set(receiver.got)

        await soon(came, 60.0, f"the last one of everybody at {other}")
    table = {
        (one, other): "".join(outcome(sender, one, receiver, other, what) for what in WHATS)
        for one, sender in peers.items()
        for other, receiver in peers.items()
    }
    for name, peer in peers.items():
        assert len(peer.got) == len(set(peer.got)), f"{name} was shown something twice"
        await peer.leave()
    parked = sum(cell.count(PARKED) for cell in table.values())
    assert node.measure("imgateway_parked_entries_total") == parked
    page = PAGE.read_text()
    written = re.sub(r"(?<=<!-- drawn by a test -->\n).*?(?=\n\n)", drawn(table), page, flags=re.S)
    if os.environ.get("IMGATEWAY_WRITE_MATRIX"):
        PAGE.write_text(written)
    else:
        assert page == written, "the table is not what happens: write it anew"
    for name, peer in peers.items():
        aside = {body(one, name, what) for one in peers for what in WHATS if may_send(peers[one], what)}
        aside -= set(peer.got)
        if aside:
            await find(aside, node, ports["native, TCP"], peer)


async def find(bodies: set[bytes], node: Node, port: int, peer: Peer) -> None:
    """What was set aside comes when the same device comes on a wire that can say it."""
    found: set[bytes] = set()
    client = Client(
        f"tcp://127.0.0.1:{port}",
        token=node.token(peer.user),
        device=peer.device,
        on_message=lambda received: found.add(received.message.body),
    )
    await until(client.start())
    await soon(lambda: bodies <= found, what=f"what was set aside for {peer.device}")
    await until(client.close(1.0))


def outcome(sender: Peer, one: str, receiver: Peer, other: str, what: str) -> str:
    if not may_send(sender, what):
        return UNSENT
    return ARRIVES if body(one, other, what) in receiver.got else PARKED


def drawn(table: dict[tuple[str, str], str]) -> str:
    lines = ["| from \\ to | " + " | ".join(CARRIERS) + " |", "|---" * (len(CARRIERS) + 1) + "|"]
    for one in CARRIERS:
        cells = [f"`{table[one, other]}`" for other in CARRIERS]
        lines.append(f"| **{one}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)
