"""Where twistd's own options say that the log goes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import IO, Any

from twisted.python.logfile import LogFile

__all__ = ("log_file",)


def log_file(twistd: Mapping[str, Any]) -> IO[str] | None:
    """What to write the log into, by twistd's rules: the standard output in the foreground, else
    ``--logfile`` or twistd.log, which SIGUSR1 rotates. None: twistd has a logger of its own (``--syslog``,
    ``--logger``).

    :param twistd: the options that stand before the word ``imgateway``; empty: it is not twistd that runs us.
    :raises SystemExit: the file cannot be written; a daemon has no standard output.
    """
    if twistd.get("syslog") or twistd.get("logger"):
        return None
    daemon = bool(twistd) and not twistd.get("nodaemon")
    path = twistd.get("logfile") or ("twistd.log" if daemon else "-")
    if path == "-":
        if daemon:
            raise SystemExit(
                "imgateway: a daemon has no standard output: give --logfile a file, or twistd -n"
            )
        return sys.stdout
    try:
        file = LogFile.fromFullPath(path)
    except OSError as error:
        raise SystemExit(
            f"imgateway: --logfile: cannot write {os.fsdecode(path)}: {error.strerror}"
        ) from None

    def rotate(number: int, frame: Any) -> None:
        from twisted.internet import reactor

        reactor.callFromThread(file.rotate)  # type: ignore[attr-defined]

    signal.signal(signal.SIGUSR1, rotate)
    return file  # type: ignore[no-any-return]
