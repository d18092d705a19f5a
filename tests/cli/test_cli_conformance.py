"""``imgateway conformance``: what it is asked, what it prints, how it exits. The scenes have tests of their
own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from twisted.internet.defer import ensureDeferred
from twisted.python.failure import Failure

from imgateway.cli.world import Main, World
from imgateway.testing.network import Network
from tests.testing.scripted_client import ScriptedClient

Run = Callable[..., Result]


class Memory:
    """A world whose reactor is a network in memory, with a client on it."""

    def __init__(self, *faults: str) -> None:
        self.faults = frozenset(faults)
        self.world = World(run=self.run)

    def run(self, main: Main) -> int:
        network = Network()
        ended: list[Any] = []
        ensureDeferred(main(network)).addBoth(ended.append)
        if not ended:
            ScriptedClient(network, self.faults).start()
        while not ended:
            assert network.seconds() < 1_000
            network.elapse(1.0)
        if isinstance(ended[0], Failure):
            ended[0].raiseException()
        status: int = ended[0]
        return status


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.cli.conforming.mint", lambda *_, **__: "token")


def conformance(run: Run, *args: str, faults: tuple[str, ...] = ()) -> Result:
    memory: Any = Memory(*faults)
    return run("conformance", "--listen", "127.0.0.1:7901", *args, stage=memory)


def test_a_good_client(run: Run) -> None:
    result = conformance(run, "--only", "order, kick")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "ok     greeting   greets as soon as it is connected",
        "ok     greeting   shows its token",
        "ok     ack        acknowledges a message in time",
        "ok     ack        shows it",
        "ok     ack        acknowledges a range without messages",
        "ok     ack        takes a body of 65,536 bytes",
        "ok     order      acknowledges twenty in a row",
        "ok     order      shows them in their order, each once",
        "ok     kick       stays away when it is told to",
        "ok     all        sends nothing that a gateway does not take",
        "10 right, 0 wrong, 0 not applicable",
    ]
    assert result.stderr.splitlines() == [
        "IMGATEWAY_URL=tcp://127.0.0.1:7901",
        "IMGATEWAY_TOKEN=token",
        "IMGATEWAY_PROTOCOL=native",
        "IMGATEWAY_USER=client",
        "IMGATEWAY_ECHO_TO=user:conformance",
    ]


def test_a_bad_client(run: Run) -> None:
    result = conformance(run, "--only", "order,refuse", faults=("no empty acks",))
    assert result.exit_code == 1
    assert (
        "WRONG  ack        acknowledges a range without messages: "
        "1 is acknowledged after 5 s, 4 was sent" in result.stdout.splitlines()
    )
    assert "-      refuse     it is not let in: the program must be started anew: let --run do it" in (
        result.stdout.splitlines()
    )


def test_at_a_terminal_each_scene_is_announced(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.cli.lines.at_a_terminal", lambda: True)
    result = conformance(run, "--only", "kick")
    announced = [line for line in result.stderr.splitlines() if line.startswith("...")]
    assert announced == [
        "...    greeting   it logs in",
        "...    ack        it acknowledges messages",
        "...    kick       it is told to go",
    ]
    assert "..." not in result.stdout
    assert "..." not in conformance(run, "--only", "kick", "--json").stderr


def test_for_programs(run: Run) -> None:
    result = conformance(run, "--only", "ack", "--json", "--patience", "2s", faults=("no echo",))
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[3] == {
        "scene": "ack",
        "check": "shows it",
        "verdict": "not applicable",
        "detail": "the program does not send back what it is shown",
    }
    assert lines[-1] == {"right": 6, "wrong": 0, "not applicable": 1}


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("--only", "order,dance"), 2, "there is no such scene; there are greeting, ack, order"),
        (("--protocol", "telepathy"), 1, "telepathy"),
        (("--protocol", "chat"), 1, "acknowledge nothing"),
        (("--transport", "pigeon"), 1, "pigeon"),
        (("--protocol", "json", "--transport", "tcp"), 1, "Error: json+tcp:127.0.0.1:7901: json does"),
        (("--listen", "nowhere at all"), 1, "Error: --listen: cannot listen on nowhere at all: not a valid"),
    ],
)
def test_what_cannot_be(run: Run, args: tuple[str, ...], status: int, said: str) -> None:
    result = conformance(run, *args)
    assert result.exit_code == status
    assert said in result.stderr


def test_json_takes_websocket_by_itself(run: Run) -> None:
    # The client of this test speaks another wire, and is not understood.
    result = conformance(run, "--protocol", "json", "--absence", "3s")
    assert result.exit_code == 1
    assert "IMGATEWAY_URL=ws://127.0.0.1:7901" in result.stderr
