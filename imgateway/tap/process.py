"""What a node and a router have in common as processes under twistd: log, signals, a start that fails."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from imgateway.auth.keys import secret_path
from imgateway.config import Settings, describe
from imgateway.errors import OperatorError
from imgateway.ops.health import Health
from imgateway.ops.logs import observer
from imgateway.tap.logfile import log_file
from imgateway.tap.options import SettingsOptions

__all__ = ("API_STARTS", "Process", "first", "tell")

log = Logger()

TRIES = 10
"""Of reading the keys, while their files change."""
API_STARTS = frozenset(
    {"router.public", "router.private", "router.allocation", "router.drain_s"}
    | {"router.tasks_url", "router.tasks_window", "router.tasks_at_once", "router.tasks_keep_s"}
)
"""What whoever has the HTTP API reads at its start alone."""


class Process(Service):
    """A program with its log and its signals, as a Twisted service.

    A first SIGTERM or SIGINT stops it in order, a second one at once; SIGHUP reads anew what can be. Whoever
    inherits gives it `_start`, `_hurry` and `_read`, and hands a failed start to `_refused`.
    """

    read_anew: ClassVar[str]
    """What SIGHUP reads, for the log."""
    reloads: ClassVar[frozenset[str]]
    """Sections and settings that need no restart: SIGHUP takes them over, or nothing here goes by them."""
    starts: frozenset[str]
    """Settings of such sections that do."""

    def __init__(self, options: SettingsOptions, reactor: Any) -> None:
        self.options = options
        self.health = Health()
        self._reactor = reactor
        self._failed = False
        self._why = ""
        """The signal that stops it."""
        self._ends = False
        """The reactor was told to stop, of which the service hears a turn later. Told twice, it raises."""

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and write its log."""
        super().setServiceParent(parent)
        if isinstance(parent, Componentized):  # the application itself, not a service in between
            out = log_file(self.options.parent or {})
            if out is not None:
                parent.setComponent(ILogObserver, observer(self.options.settings.log, out))

    def startService(self) -> None:
        """Start once the reactor runs."""
        super().startService()
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        self._catch_signals()
        self._start()

    def _start(self) -> None:
        """The reactor runs."""
        raise NotImplementedError

    def _hurry(self) -> None:
        """It stops already, and shall do so at once."""
        raise NotImplementedError

    def _check(self, settings: Settings) -> object:
        """:raises OperatorError: it would not start with these."""
        raise NotImplementedError

    def _read(self, settings: Settings) -> Callable[[], None]:
        """Read anew what can be. Nothing changes until what this returns is called, which must not fail: half
        of it would be in use.

        :raises OperatorError: something cannot be used.
        """
        raise NotImplementedError

    def _refused(self, failure: Failure) -> None:
        """The start failed: one line for the operator, exit status 1."""
        self._fail(failure)

    def _fail(self, failure: Failure, more: Sequence[str] = ()) -> None:
        """:param more: lines that come behind the one, on the terminal alone."""
        if failure.check(CancelledError) and not self.running:
            log.info("stopped before it was ready")
            return
        if isinstance(failure.value, OperatorError):
            why = self.options.told(failure.value)
            for line in (why, *more):
                tell(f"{self.name}: {line}\n")
            log.error("the start failed", why=why)
        else:
            log.failure("the start failed", failure)
        if not self._failed:
            self._failed = True
            # twistd has no way to say that a service failed, and exits with 0.
            atexit.register(os._exit, 1)
            if self.running and not self._ends:
                self._ends = True
                self._reactor.stop()

    def _catch_signals(self) -> None:
        before = signal.getsignal(signal.SIGTERM)

        def terminate(number: int, frame: Any) -> None:
            self._why = signal.Signals(number).name
            if self.running and callable(before):
                if not self._ends:  # else this one came with the first, such as to a whole group
                    self._ends = True
                    before(number, frame)
            else:
                self._reactor.callFromThread(self._hurry)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, terminate)
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reload))

    def reload(self) -> None:
        """SIGHUP. What cannot be read is logged, and everything stays as it was."""
        try:
            settings = self.options.load()
            use = self._read_at_rest(settings)
        except OperatorError as error:
            log.error("reload refused, nothing changed: {why}", why=str(error))
        except Exception:  # an authenticator's, which may be anybody's
            log.failure("reload refused, nothing changed")
        else:
            use()
            log.info("reloaded {what}", what=self.read_anew)
            self._look_ahead(settings)

    def _read_at_rest(self, settings: Settings) -> Callable[[], None]:
        """Each part reads the keys of tokens for itself. With a file that is replaced in between, tokens
        would be made with one secret and checked with another."""
        for _ in range(TRIES):
            files = self._key_files()
            use = self._read(settings)
            if self._key_files() == files:
                return use
        raise OperatorError(
            "the key files change while they are read; send SIGHUP again when they are written"
        )

    def _key_files(self) -> list[tuple[int, int, int]]:
        """The files as they stand: one that is replaced is another, one that is written over is newer."""
        settings, found = self.options.settings, []
        auth = settings.auth
        for path in (auth.public_key_file, auth.jwks_file, secret_path(auth, settings.node.data_dir)):
            with suppress(OSError):
                status = os.stat(path)
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return found

    def _look_ahead(self, settings: Settings) -> None:
        """Log what the operator will have of a restart only. No values, which may be passwords."""
        waiting = ", ".join(self._waiting(settings))
        if waiting:
            log.warn("not taken over before a restart: {settings}", settings=waiting)
        try:
            self._check(settings)
        except Exception as error:  # plugins are tried, which may be anybody's
            log.warn("the next start would fail: {why}", why=str(error))

    def _waiting(self, settings: Settings) -> Iterator[str]:
        """The settings that are not those it was started with, and need a restart."""
        for one in describe():
            value, started = (
                getattr(getattr(all_, one.section), one.key) for all_ in (settings, self.options.settings)
            )
            needs_none = {one.section, one.path} & self.reloads and one.path not in self.starts
            if value != started and not needs_none:
                yield one.path


def first(failure: Failure) -> Failure:
    """The failure itself, not that something failed."""
    found: Failure = failure.value.subFailure  # type: ignore[union-attr]
    return found


def tell(text: str) -> None:
    """Say something to the person at the terminal: twistd turns sys.stderr into log lines."""
    if sys.__stderr__ is not None:
        sys.__stderr__.write(text)
        sys.__stderr__.flush()
