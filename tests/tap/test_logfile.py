"""Twistd's own options decide where the log goes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgateway.tap.logfile import log_file


@pytest.fixture(autouse=True)
def usr1() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(
    "twistd", [{}, {"nodaemon": 1}, {"nodaemon": 1, "logfile": "-"}, {"nodaemon": 1, "logfile": None}]
)
def test_in_the_foreground_it_is_the_standard_output(twistd: dict[str, object]) -> None:
    assert log_file(twistd) is sys.stdout


@pytest.mark.parametrize("twistd", [{"syslog": 1}, {"nodaemon": 1, "logger": "a.b"}])
def test_twistds_own_loggers(twistd: dict[str, object]) -> None:
    assert log_file(twistd) is None


@pytest.mark.parametrize(
    ("twistd", "name"),
    [
        ({"nodaemon": 1, "logfile": "x.log"}, "x.log"),
        ({"nodaemon": 0}, "twistd.log"),
        ({"logfile": "y"}, "y"),
    ],
)
def test_a_file(
    twistd: dict[str, object], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twisted.internet import reactor

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reactor, "callFromThread", lambda call: call())
    file = log_file(twistd)
    assert file is not None
    file.write("one\n")
    file.flush()
    assert (tmp_path / name).read_text() == "one\n"
    signal.raise_signal(signal.SIGUSR1)
    file.write("two\n")
    file.close()
    assert (tmp_path / name).read_text() == "two\n"
    assert (tmp_path / f"{name}.1").read_text() == "one\n"


@pytest.mark.parametrize(
    ("twistd", "words"),
    [
        ({"nodaemon": 0, "logfile": "-"}, "a daemon has no standard output"),
        ({"nodaemon": 1, "logfile": "/nowhere/x"}, "cannot write /nowhere/x: No such file"),
    ],
)
def test_no_place(twistd: dict[str, object], words: str) -> None:
    with pytest.raises(SystemExit, match=f"imgateway: .*{words}"):
        log_file(twistd)
