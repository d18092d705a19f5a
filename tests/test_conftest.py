"""The checks that hold for every test do fail a test."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.logger import Logger

INNOCENT = """
def test_innocent():
    pass
"""
BROKEN = {
    "logs an error": """
from twisted.logger import Logger
def test_guilty():
    Logger().error("the store is gone")
""",
    "forgets a failure": """
from twisted.internet.defer import fail
def test_guilty():
    fail(KeyError("the store is gone"))
""",
    "leaves a delayed call": """
from twisted.internet import reactor
def test_guilty():
    reactor.callLater(60, print, "the store is gone")
""",
}
FORGETS_WITH_ITS_FILE = """
import pytest
from twisted.internet.defer import fail
class Shared:
    pass
@pytest.fixture(scope="module")
def shared():
    shared = Shared()
    shared.of_itself, shared.failed = shared, fail(KeyError("the store is gone"))
    return shared
def test_guilty(shared):
    pass
"""
INTERRUPTED = """
import signal
def test_it():
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
"""
IN_THE_BACKGROUND = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
OPTIONS = ("--reactor=default", "-p", "no:cacheprovider", "-p", "no:randomly")


def run_of(
    directory: Path, *wrapper: str, options: tuple[str, ...] = OPTIONS, **files: str
) -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).with_name("conftest.py"), directory)
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    return subprocess.run(
        [*wrapper, sys.executable, "-m", "pytest", *options, "."],
        cwd=directory,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("guilty", BROKEN.values(), ids=BROKEN.keys())
def test_a_test_fails_that(guilty: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, test_it=guilty + INNOCENT)
    assert run.returncode == 1, run.stdout
    assert "the store is gone" in run.stdout
    assert "2 passed, 1 error" in run.stdout  # the error comes after the test, and the other test has none


def test_what_a_file_forgets_is_told_once_by_the_next(tmp_path: Path) -> None:
    run = run_of(tmp_path, test_1=FORGETS_WITH_ITS_FILE, test_2=INNOCENT * 2, test_3=INNOCENT)
    assert run.returncode == 1, run.stdout
    assert "the store is gone" in run.stdout
    assert "3 passed, 1 error" in run.stdout


def test_what_tests_start_can_be_interrupted_in_the_background_too(tmp_path: Path) -> None:
    run = run_of(tmp_path, *IN_THE_BACKGROUND, test_it=INTERRUPTED)
    assert run.returncode == 0, run.stdout


def test_one_process_has_all_that_is_under_load(tmp_path: Path) -> None:
    (tmp_path / "tests" / "network").mkdir(parents=True)
    files = {f"tests/network/test_{n}": INNOCENT for n in range(4)}
    shared = ("-n", "2", "--dist", "loadfile", "--rootdir", ".", "-v")
    run = run_of(tmp_path, options=(*OPTIONS, *shared), test_other=INNOCENT, **files)
    workers = re.findall(r"\[(gw\d)\].* PASSED tests/network/", run.stdout)
    assert len(workers) == len(files), run.stdout
    assert len(set(workers)) == 1


@pytest.fixture
def returned() -> Iterator[list[bool]]:
    returned: list[bool] = []
    yield returned
    assert returned == [True]


@pytest_twisted.ensureDeferred
async def test_what_ends_a_test_returns_before_its_fixtures_go(returned: list[bool]) -> None:
    from twisted.internet import reactor

    def end() -> None:
        ended.callback(None)
        returned.append(True)

    ended: Deferred[None] = Deferred()
    reactor.callLater(0, end)  # type: ignore[attr-defined]
    await ended


def test_expected_errors_are_taken_by_class_or_by_text(flush_logged_errors) -> None:
    log = Logger()
    log.error("disk {state}", state="full")
    try:
        raise ValueError("odd")
    except ValueError:
        log.failure("could not write")
    assert [event["state"] for event in flush_logged_errors("disk full")] == ["full"]
    assert flush_logged_errors(KeyError) == []
    assert len(flush_logged_errors(ValueError)) == 1
