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
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import pytest_twisted
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

# Examples may be slow under coverage on a small machine; what failed comes with the line that repeats it.
hypothesis.settings.register_profile("imgateway", deadline=None, print_blob=True)
hypothesis.settings.load_profile("imgateway")

NETWORK = "tests/network/"


def pytest_configure(config: pytest.Config) -> None:
    # Temporary files go beside the installed packages, to a real disk: /tmp may be memory, and fsync a no-op.
    if sys.prefix != sys.base_prefix and "PYTEST_DEBUG_TEMPROOT" not in os.environ:
        root = Path(sys.prefix) / "tmp"
        root.mkdir(exist_ok=True)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(root)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell without a terminal starts what is in its background like this, and what tests start, and
        # interrupt, would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    pytest_twisted.blockon_default = partial(_blockon_next_turn, pytest_twisted.blockon_default)


def _blockon_next_turn(blockon: Callable[[Deferred[Any]], Any], deferred: Deferred[Any]) -> Any:
    """Leaves the reactor's greenlet in a turn of its own.

    pytest_twisted leaves it wherever a test's Deferred fires, which may be amid a function of ours. Coverage,
    which is not told of greenlets, would lose the rest of the function and take others' lines for ours.
    """
    from twisted.internet import reactor

    result: Deferred[Any] = Deferred()

    def fired(outcome: Any) -> None:
        reactor.callLater(0, result.callback, outcome)  # type: ignore[attr-defined]

    deferred.addBoth(fired)
    return blockon(result)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # They take the longest: where processes share the tests, one of them has to begin with these.
    items.sort(key=lambda item: not item.nodeid.startswith(NETWORK))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays in one process, and all of NETWORK does: a node under load, and killed, wants a core."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return NETWORK if nodeid.startswith(NETWORK) else str(super()._split_scope(nodeid))

    return Scheduling(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    # A check below collects garbage after every test; what all tests share need not be looked at each time.
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


@pytest.fixture(autouse=True, scope="module")
def _earlier_errors() -> list[LogEvent]:
    """What earlier files forgot and only now is found. Autouse and first, before all else of a file."""
    log = ErrorLog()
    globalLogPublisher.addObserver(log)
    gc.collect()
    globalLogPublisher.removeObserver(log)
    # The rest stays, such as modules that they brought. To look at it after every test took minutes.
    gc.freeze()
    return log.events


@pytest.fixture(autouse=True)
def _logged_errors(request: pytest.FixtureRequest, _earlier_errors: list[LogEvent]) -> Iterator[ErrorLog]:
    """Autouse and first in this file: set up before every other fixture of a test, torn down after them."""
    log = ErrorLog()
    log.events += _earlier_errors
    _earlier_errors.clear()  # one test tells
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
