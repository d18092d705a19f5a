"""What a node and a router have in common as processes under twistd: log, signals, a start that fails."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from imgateway.errors import OperatorError
from imgateway.ops.health import Health
from imgateway.ops.logs import observer
from imgateway.tap.logfile import log_file
from imgateway.tap.options import SettingsOptions

__all__ = ("Process", "tell")

log = Logger()


class Process(Service):
    """A program with its log and its signals, as a Twisted service.

    A first SIGTERM or SIGINT stops it in order, a second one at once; SIGHUP reads anew what can be. Whoever
    inherits gives it `_start`, `_hurry` and `_reload`, and hands a failed start to `_refused`.
    """

    def __init__(self, options: SettingsOptions, reactor: Any) -> None:
        self.options = options
        self.health = Health()
        self._reactor = reactor
        self._failed = False
        self._why = ""
        """The signal that stops it."""

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

    def _reload(self) -> str:
        """Read anew what can be; nothing changes if that fails. :returns: what was read, for the log.

        :raises OperatorError: something cannot be used.
        """
        raise NotImplementedError

    def _refused(self, failure: Failure) -> None:
        """The start failed: one line for the operator, exit status 1."""
        if failure.check(CancelledError) and not self.running:
            log.info("stopped before it was ready")
            return
        if isinstance(failure.value, OperatorError):
            why = self.options.told(failure.value)
            tell(f"{self.name}: {why}\n")
            log.error("the start failed", why=why)
        else:
            log.failure("the start failed", failure)
        if not self._failed:
            self._failed = True
            # twistd has no way to say that a service failed, and exits with 0.
            atexit.register(os._exit, 1)
            self._reactor.stop()

    def _catch_signals(self) -> None:
        before = signal.getsignal(signal.SIGTERM)

        def terminate(number: int, frame: Any) -> None:
            self._why = signal.Signals(number).name
            if self.running and callable(before):
                before(number, frame)
            else:
                self._reactor.callFromThread(self._hurry)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, terminate)
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reload))

    def reload(self) -> None:
        """SIGHUP. What cannot be read is logged, and everything stays as it was."""
        try:
            what = self._reload()
        except OperatorError as error:
            log.error("reload refused, nothing changed: {why}", why=str(error))
        else:
            log.info("reloaded {what}", what=what)


def tell(text: str) -> None:
    """Say something to the person at the terminal: twistd turns sys.stderr into log lines."""
    if sys.__stderr__ is not None:
        sys.__stderr__.write(text)
        sys.__stderr__.flush()
