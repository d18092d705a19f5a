"""The checks that hold for every test do fail a test."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
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


@pytest.mark.parametrize("guilty", BROKEN.values(), ids=BROKEN.keys())
def test_a_test_fails_that(guilty: str, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_it.py").write_text(guilty + INNOCENT)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--reactor=default", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert run.returncode == 1, run.stdout
    assert "the store is gone" in run.stdout
    assert "2 passed, 1 error" in run.stdout  # the error comes after the test, and the other test has none


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
