"""The command ``imgateway`` against a real node, as people and scripts use it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .nodes import CLI, Node, imgateway

pytestmark = pytest.mark.network


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node().start()


def command(node: Node, what: str, *arguments: str, url: str = "", **more: Any) -> Any:
    """``imgateway WHAT URL --data-dir …``"""
    return imgateway(what, url or node.url, "--data-dir", node.data, *arguments, **more)


def test_a_first_conversation(node: Node) -> None:
    sent = command(node, "send", "--user", "alice", "user:bob", "grüße", "--msg-id", "m1")
    assert (sent.returncode, sent.stderr) == (0, "")
    (said,) = lines(sent.stdout)
    assert (said["msg_id"], said["address"], said["code"], said["seq"]) == ("m1", "user:bob", "OK", 1)
    again = command(node, "send", "--user", "alice", "user:bob", "grüße", "--msg-id", "m1")
    assert lines(again.stdout)[0]["code"] == "DUPLICATE"
    heard = command(node, "listen", "--user", "bob", "--count", "1")
    assert (heard.returncode, heard.stderr) == (0, "")
    (message,) = lines(heard.stdout)
    assert (message["address"], message["seq"], message["msg_id"]) == ("user:bob", 1, "m1")
    assert (message["sender"], message["body"]) == ("alice", "grüße")
    assert message["epoch"]
    silence = command(node, "listen", "--user", "bob", "--timeout", "0.3")
    assert (silence.returncode, silence.stdout) == (0, "")


@pytest.mark.parametrize("protocol", ["native", "json"])
def test_many_messages_over_websocket(node: Node, protocol: str) -> None:
    more = ("--protocol", protocol)
    sent = command(node, "send", "--user", "alice", "user:bob", "x", "--count", "120", *more, url=node.ws_url)
    assert sent.returncode == 0
    assert [line["seq"] for line in lines(sent.stdout)] == list(range(1, 121))
    heard = command(node, "listen", "--user", "bob", "--count", "120", *more, url=node.ws_url)
    assert heard.returncode == 0
    assert [line["seq"] for line in lines(heard.stdout)] == list(range(1, 121))


def test_a_listener_prints_at_once_and_ends_with_a_signal(node: Node) -> None:
    listener = subprocess.Popen(
        [*CLI, "listen", node.url, "--user", "bob", "--data-dir", str(node.data)],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert command(node, "send", "--user", "alice", "user:bob", "now").returncode == 0
        assert listener.stdout is not None
        assert json.loads(listener.stdout.readline())["body"] == "now"
        listener.send_signal(signal.SIGINT)
        assert listener.wait(10) in (0, 130)
    finally:
        listener.kill()
        listener.communicate()


def test_a_token_is_printed_alone_and_good(node: Node) -> None:
    made = imgateway("token", "carol", "--device", "d", "--ttl", "1m", "--data-dir", node.data)
    assert made.returncode == 0
    (token,) = made.stdout.split()
    sent = imgateway("send", node.url, "--token", token, "--device", "d", "user:bob", "hi")
    assert sent.returncode == 0
    other = imgateway("send", node.url, "--token", token, "--device", "e", "user:bob", "hi")
    assert other.returncode == 1
    assert len(other.stderr.splitlines()) == 1


def test_a_service_may_what_others_may_not(node: Node) -> None:
    refused = command(node, "send", "--user", "alice", "service:orders,all", "x")
    assert refused.returncode == 1
    assert "FORBIDDEN" in refused.stderr
    made = imgateway("token", "billing", "--service", "--data-dir", node.data)
    sent = imgateway("send", node.url, "--token", made.stdout.strip(), "topic:news", "x")
    assert sent.returncode == 0


def test_errors_are_one_line(node: Node, tmp_path: Path) -> None:
    assert (node.data / "secrets").exists()
    wrong: list[tuple[str, ...]] = [
        ("send", "tcp://127.0.0.1:1", "--user", "a", "--data-dir", str(node.data), "user:bob", "x"),
        ("send", node.url, "--token", "nonsense", "user:bob", "x"),
        ("listen", node.url, "--user", "bob", "--data-dir", str(tmp_path / "nowhere"), "--count", "1"),
        ("restore", str(tmp_path / "nothing"), "--data-dir", str(tmp_path / "new")),
    ]
    for arguments in wrong:
        done = imgateway(*arguments)
        assert done.returncode == 1, arguments
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert done.stdout == ""
    assert imgateway("send").returncode == 2


def test_chat_in_a_pipe(node: Node) -> None:
    said = imgateway(
        "chat", node.url, "--user", "alice", "--data-dir", node.data, input="bob hello\n/to bob\nagain\n"
    )
    assert said.returncode == 0, said.stderr
    heard = command(node, "listen", "--user", "bob", "--count", "2")
    assert [line["body"] for line in lines(heard.stdout)] == ["hello", "again"]


def test_backup_while_it_works_and_restore(
    node: Node, make_node: Callable[..., Node], tmp_path: Path
) -> None:
    assert command(node, "send", "--user", "alice", "user:bob", "x", "--count", "5").returncode == 0
    heard = command(node, "listen", "--user", "bob", "--count", "3")
    before = lines(heard.stdout)
    time_of_copy = time.monotonic()
    copied = imgateway("backup", tmp_path / "copy", "--data-dir", node.data)
    assert copied.returncode == 0, copied.stderr
    assert time.monotonic() - time_of_copy < 20
    assert node.ask("readyz")[0] == 200
    # Not over a node that works, nor over what is there.
    refused = imgateway("restore", tmp_path / "copy", "--force", "--data-dir", node.data)
    assert refused.returncode == 1
    assert "in use" in refused.stderr
    other = make_node()
    restored = imgateway("restore", tmp_path / "copy", "--data-dir", other.data)
    assert restored.returncode == 0, restored.stderr
    other.start()
    listened = command(
        other, "listen", "--user", "bob", "--start", "oldest", "--device", "new", "--count", "5"
    )
    after = lines(listened.stdout)
    assert [line["seq"] for line in after] == [1, 2, 3, 4, 5]
    assert after[0]["epoch"] != before[0]["epoch"]  # and so everybody is told


def test_a_configuration_that_was_generated_runs(make_node: Callable[..., Node], tmp_path: Path) -> None:
    made = imgateway("genconfig")
    config = tmp_path / "imgateway.toml"
    config.write_text(made.stdout)
    assert imgateway("checkconfig", config).stdout.strip() == "ok"
    make_node(options=["--config", str(config)]).start()
    config.write_text(made.stdout.replace("heartbeat_s = 30.0", "heartbeat_s = 300.0"))
    wrong = imgateway("checkconfig", config)
    assert wrong.returncode == 1
    assert "session.dead_s" in wrong.stderr


def test_version() -> None:
    from imgateway import __version__

    assert __version__ in imgateway("version").stdout
