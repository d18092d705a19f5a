"""SIGTERM, a second SIGTERM, SIGHUP, on a real process."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted

from imgateway.client import Client
from imgateway.errors import CloseCode

from .flows import Flow
from .nodes import Node, soon, until

pytestmark = pytest.mark.network
MANY = ("--set", "retention.entries=1000000", "--set", "quota.pair_rate=0")


@pytest_twisted.ensureDeferred
async def test_sigterm_drains_and_the_clients_move_on(make_node: Callable[..., Node], tmp_path: Path) -> None:
    node = await make_node(options=MANY).started()
    flow = Flow(node, tmp_path, (node.url, node.ws_url), outbox=False)
    flow.go()
    try:
        for round_ in range(2):
            await soon(lambda: flow.listener.client.connected, what="the listener")
            await soon(lambda round_=round_: flow.acked > 100 * (round_ + 1), what="load")
            began = time.monotonic()
            node.signal(signal.SIGTERM)
            await soon(node.exited, what="the end")
            assert time.monotonic() - began < 10
            assert node.process.returncode in (0, -signal.SIGTERM)
            await node.started()
        await flow.stop()
        flow.check()
        # It comes back after 0.3 to 5.7 s; the next node may take longer to start, and is not there till
        ends = [(code, reason) for code, reason in flow.listener.downs if "onnection refused" not in reason]
        assert [code for code, _ in ends] == [CloseCode.GOING_AWAY] * 2, ends
        text = node.errors.read_text() + node.log.read_text()
        assert "Traceback" not in text
        assert "nhandled" not in text
    finally:
        await flow.close()


@pytest_twisted.ensureDeferred
async def test_health_says_draining_and_a_second_sigterm_ends_at_once(make_node: Callable[..., Node]) -> None:
    node = await make_node(options=["--set", "node.drain_rate=1"]).started()
    clients = [
        Client(node.url, token=node.token(f"u{number}"), device="x", backoff=lambda attempt: 0.05)
        for number in range(40)
    ]
    for client in clients:
        await until(client.start())
        client.when_closed().addErrback(lambda _: None)
    try:
        node.signal(signal.SIGTERM)

        def draining() -> bool:
            status, text = node.ask("readyz")
            return status == 503 and "drain" in text

        await soon(draining, what="the word draining")
        assert node.ask("healthz")[0] == 200
        assert not node.exited()  # 40 clients, one a second
        began = time.monotonic()
        node.signal(signal.SIGTERM)
        await soon(node.exited, what="the end")
        assert time.monotonic() - began < 10
    finally:
        for client in clients:
            await until(client.close(0))


@pytest_twisted.ensureDeferred
async def test_sighup_reads_limits_and_keys_anew_and_keeps_the_old_if_it_cannot(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    config = tmp_path / "imgateway.toml"
    config.write_text("[limits]\nmax_body_bytes = 1000\n")
    node = await make_node(options=["--config", str(config)]).started()

    async def body_limit() -> int:
        client = Client(node.url, token=node.token("bob"), device="x")
        await until(client.start())
        assert client.welcome is not None
        limit = client.welcome.limits.max_body_bytes
        await until(client.close())
        return limit

    def said(text: str) -> bool:
        return text in node.log.read_text()

    assert await body_limit() == 1000
    config.write_text("[limits]\nmax_body_bytes = 2000\n")
    node.signal(signal.SIGHUP)
    await soon(lambda: said("reloaded"), what="the reload")
    assert await body_limit() == 2000

    config.write_text("[limits]\nmax_body_bytes = 'large'\n")
    node.signal(signal.SIGHUP)
    await soon(lambda: said("reload refused"), what="the refusal")
    assert said("limits.max_body_bytes")
    assert await body_limit() == 2000

    # A new secret: tokens of the old one are no longer taken.
    config.write_text("[limits]\nmax_body_bytes = 3000\n")
    old = node.token("bob")
    (node.data / "secrets" / "token.key").write_text("k" * 43)
    node.signal(signal.SIGHUP)
    await soon(lambda: node.log.read_text().count("reloaded") == 2, what="the reload")
    assert await body_limit() == 3000
    refused = Client(node.url, token=old, device="x")
    with pytest.raises(Exception, match="token"):
        await until(refused.start())
