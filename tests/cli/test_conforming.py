"""The program under test: how it is started, watched and ended. The processes are not real."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import Clock

from imgateway.cli.conforming import ENDING_S, LOOK_S, Program, Trial, run_trial
from imgateway.testing.conformance.report import Report, Verdict
from imgateway.testing.network import Network


class Process:
    """What a shell line becomes. `stubborn`: SIGTERM does not end it."""

    def __init__(self, house: House, pid: int, args: tuple[str, ...], options: dict[str, Any]) -> None:
        self.house = house
        self.pid = pid
        self.args = args
        self.options = options
        self.returncode: int | None = None
        self.children = 0
        self.waited = False

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> int:
        assert self.returncode is not None, "it would wait for ever"
        self.waited = True
        return self.returncode


class House:
    """The processes that were started, and the signals that their groups were sent."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.signals: list[tuple[int, int]] = []
        self.is_stubborn = False
        self.returns: int | None = None
        """The status that a process has as soon as it is started."""

    def popen(self, args: tuple[str, ...], **options: Any) -> Process:
        process = Process(self, 1000 + len(self.processes), args, options)
        process.returncode = self.returns
        self.processes.append(process)
        return process

    def killpg(self, pid: int, number: int) -> None:
        (process,) = [one for one in self.processes if one.pid == pid]
        if process.returncode is not None and not process.children:
            raise ProcessLookupError
        if number:
            self.signals.append((pid, number))
        if number == signal.SIGKILL or (number == signal.SIGTERM and not self.is_stubborn):
            process.children = 0
            if process.returncode is None:
                process.returncode = -number


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    house = House()
    monkeypatch.setattr(subprocess, "Popen", house.popen)
    monkeypatch.setattr(os, "killpg", house.killpg)
    return house


class Watched:
    """A program on a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ended: list[str] = []
        self.program = Program(self.clock, "./it --now", {"IMGATEWAY_URL": "tcp://here:1"}, self.ended.append)

    def end(self) -> Deferred[None]:
        return ensureDeferred(self.program.end())

    def elapse(self, seconds: float) -> None:
        self.clock.pump([LOOK_S] * round(seconds / LOOK_S))


def test_it_is_a_line_for_the_shell_in_a_session_of_its_own(house: House) -> None:
    Watched().program.start()
    (process,) = house.processes
    assert process.args == ("/bin/sh", "-c", "./it --now")
    assert process.options["env"]["IMGATEWAY_URL"] == "tcp://here:1"
    assert process.options["env"]["PATH"] == os.environ["PATH"]
    assert (process.options["stdout"], process.options["start_new_session"]) == (2, True)


def test_it_is_asked_to_end(house: House) -> None:
    watched = Watched()
    watched.program.start()
    watched.elapse(1.0)
    ending = watched.end()
    assert ending.called
    assert house.signals == [(1000, signal.SIGTERM)]
    assert house.processes[0].waited
    assert watched.ended == [""]  # it did not end by itself
    assert watched.clock.getDelayedCalls() == []


def test_it_is_killed_if_it_does_not(house: House) -> None:
    house.is_stubborn = True
    watched = Watched()
    watched.program.start()
    ending = watched.end()
    watched.elapse(ENDING_S - 0.5)
    assert house.signals == [(1000, signal.SIGTERM)]
    watched.elapse(0.6)
    assert ending.called
    assert house.signals == [(1000, signal.SIGTERM), (1000, signal.SIGKILL)]


def test_it_is_killed_at_once_if_somebody_is_impatient(house: House) -> None:
    house.is_stubborn = True
    watched = Watched()
    watched.program.start()
    ending = watched.end()
    ending.addErrback(lambda failure: failure.trap(CancelledError) and None)
    ending.cancel()
    assert house.signals == [(1000, signal.SIGTERM), (1000, signal.SIGKILL)]
    assert house.processes[0].waited


def test_what_the_shell_has_started_is_ended_with_it(house: House) -> None:
    watched = Watched()
    watched.program.start()
    house.processes[0].returncode = 0
    house.processes[0].children = 2
    watched.elapse(1.0)
    assert watched.ended == [""]  # its children live
    assert watched.end().called
    assert house.processes[0].children == 0


def test_ending_what_was_not_started_or_has_ended(house: House) -> None:
    watched = Watched()
    assert watched.end().called
    watched.program.start()
    assert watched.end().called
    assert watched.end().called
    assert house.signals == [(1000, signal.SIGTERM)]


@pytest.mark.parametrize(("status", "how"), [(3, "with status 3"), (0, "with status 0"), (-9, "by signal 9")])
def test_it_ends_by_itself(house: House, status: int, how: str) -> None:
    watched = Watched()
    watched.program.start()
    watched.elapse(1.0)
    house.processes[0].returncode = status
    watched.elapse(2 * LOOK_S)
    assert watched.ended == ["", f"the program has ended, {how}"]
    assert watched.clock.getDelayedCalls() == []
    assert watched.end().called
    assert house.signals == []


def test_it_is_started_anew(house: House) -> None:
    watched = Watched()
    watched.program.start()
    assert ensureDeferred(watched.program.restart()).called
    assert house.signals == [(1000, signal.SIGTERM)]
    assert len(house.processes) == 2
    assert watched.ended == ["", ""]


def test_a_command_that_does_not_exist(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell says so, with status 127; nobody waits for a client then."""
    house.returns = 127
    network = Network()
    report = Report()
    scenes: list[str] = []
    trial = Trial("native", "tcp", "127.0.0.1:7901", "./no-such", ("order",), 5.0, 60.0)
    ended: list[Any] = []
    running = ensureDeferred(run_trial(network, trial, report, lambda scene: scenes.append(scene.name)))
    running.addBoth(ended.append)
    network.elapse(1.0)
    assert ended == [0]
    assert scenes == ["greeting"]
    assert [(line.scene, line.verdict, line.detail) for line in report.lines] == [
        ("greeting", Verdict.WRONG, "the program has ended, with status 127"),
        ("ack", Verdict.NOT_APPLICABLE, "the client is gone"),
        ("order", Verdict.NOT_APPLICABLE, "the client is gone"),
    ]
    assert len(house.processes) == 1


def test_over_udp_the_token_has_a_key(house: House) -> None:
    network = Network()
    trial = Trial("native", "udp", "127.0.0.1:7901", "./it", ("order",), 5.0, 3.0)
    ended: list[Any] = []
    ensureDeferred(run_trial(network, trial, Report())).addBoth(ended.append)
    network.elapse(10.0)
    assert ended == [0]
    environment = house.processes[0].options["env"]
    assert environment["IMGATEWAY_URL"] == "udp://127.0.0.1:7901"
    assert "~" in environment["IMGATEWAY_TOKEN"]
    assert house.signals == [(1000, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("transport", "url"), [("tcp", "tcp://127.0.0.1:1883"), ("websocket", "ws://127.0.0.1:1883/mqtt")]
)
def test_a_path_is_for_websocket(house: House, transport: str, url: str) -> None:
    network = Network()
    trial = Trial("mqtt", transport, "127.0.0.1:1883", "./it", ("order",), 5.0, 3.0)
    ensureDeferred(run_trial(network, trial, Report()))
    assert house.processes[0].options["env"]["IMGATEWAY_URL"] == url
    network.elapse(10.0)
