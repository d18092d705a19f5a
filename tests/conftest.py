"""What holds for every test: nothing logged as an error that was not expected, no delayed call left behind.

A test that provokes errors takes them away itself::

    def test_garbage_closes_the_link(flush_logged_errors):
        ...
        assert len(flush_logged_errors(DecodeError)) == 1

Coroutine tests carry ``@pytest_twisted.ensureDeferred`` and run on the real reactor. Time belongs to a
``task.Clock``; where the real clock cannot be avoided, clean up what was scheduled.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import pytest_twisted
from twisted.internet import task
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

# Examples may be slow under coverage on a small machine; what failed comes with the line that repeats it.
hypothesis.settings.register_profile("imgateway", deadline=None, print_blob=True)
hypothesis.settings.load_profile("imgateway")


def pytest_configure(config: pytest.Config) -> None:
    # Temporary files go beside the installed packages, to a real disk: /tmp may be memory, and fsync a no-op.
    if sys.prefix != sys.base_prefix and "PYTEST_DEBUG_TEMPROOT" not in os.environ:
        root = Path(sys.prefix) / "tmp"
        root.mkdir(exist_ok=True)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(root)


def pytest_collection_finish(session: pytest.Session) -> None:
    # The check below collects garbage after every test; what all tests share need not be looked at each time.
    gc.collect()
    gc.freeze()


class ErrorLog:
    """An observer that keeps the events that say error."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_format") == "Unhandled error in Deferred:":
            return  # the heading of the event that carries the failure
        if event.get("log_level") in (LogLevel.error, LogLevel.critical) or event.get("isError"):
            self.events.append(event)

    def flush(self, *kinds: type[BaseException] | str) -> list[LogEvent]:
        # A Deferred that nobody asked logs its failure when it is collected, and is often part of a cycle.
        gc.collect()
        taken = [event for event in self.events if not kinds or any(_matches(event, kind) for kind in kinds)]
        self.events = [event for event in self.events if not any(event is other for other in taken)]
        return taken


def _matches(event: LogEvent, kind: type[BaseException] | str) -> bool:
    if isinstance(kind, str):
        return kind in _text(event)
    failure = _failure(event)
    return failure is not None and failure.check(kind) is not None


def _failure(event: LogEvent) -> Failure | None:
    found: Failure | None = event.get("log_failure") or event.get(
        "failure"
    )  # the latter from twisted.python.log
    return found


def _text(event: LogEvent) -> str:
    text, failure = formatEvent(event), event.get("log_failure")
    return "\n".join(part for part in (text, failure.getTraceback() if failure else "") if part)


@pytest.fixture(autouse=True)
def _logged_errors(request: pytest.FixtureRequest) -> Iterator[ErrorLog]:
    """Autouse and first in this file: set up before every other fixture of a test, torn down after them."""
    log = ErrorLog()
    before = set(_delayed_calls())
    globalLogPublisher.addObserver(log)
    try:
        yield log
        left = _left_behind(before)
        unexpected = log.flush()
    finally:
        globalLogPublisher.removeObserver(log)
    complaints = [f"logged an error that it did not expect: {_text(event)}" for event in unexpected]
    complaints += [f"left a delayed call behind: {call}" for call in left]
    for call in left:  # the next test is not to blame
        call.cancel()
    if complaints:
        pytest.fail(f"{request.node.nodeid} " + "\nand ".join(complaints), pytrace=False)


@pytest.fixture
def flush_logged_errors(_logged_errors: ErrorLog) -> Callable[..., list[LogEvent]]:
    """``flush_logged_errors(*kinds)`` takes the errors logged so far and returns their events, oldest first.

    A kind is an exception class (the event's failure is one) or a part of the event's text. Without kinds all
    are taken.
    """
    return _logged_errors.flush


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A path for a unix socket. The kernel takes 107 bytes of it, which ``tmp_path`` may already exceed."""
    with tempfile.TemporaryDirectory(prefix="imgw") as directory:
        yield Path(directory) / "s"


def _delayed_calls() -> list[Any]:
    from twisted.internet import reactor

    return list(reactor.getDelayedCalls())  # type: ignore[attr-defined]


def _left_behind(before: set[Any]) -> list[Any]:
    from twisted.internet import reactor

    for turn in range(3):
        left = [call for call in _delayed_calls() if call not in before and call.active()]
        if not left or turn == 2:
            return left
        # What is due now is on its way out: a connection that was just lost says so in the next turn.
        pytest_twisted.blockon(task.deferLater(reactor, 0))  # type: ignore[arg-type]
    return []
