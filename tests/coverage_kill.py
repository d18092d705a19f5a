"""A coverage plugin: a twistd that was told to stop leaves its figures.

After a clean shutdown twistd ends itself with the signal that it got, so that its parent sees it: what
is saved at exit never is. So this saves first. Coverage loads it in every process that it measures.
"""

from __future__ import annotations

import os
import signal

import coverage
from coverage.plugin_support import Plugins


def coverage_init(reg: Plugins, options: dict[str, str]) -> None:
    kill = os.kill

    def save_and_kill(pid: int, number: int) -> None:
        measuring = coverage.Coverage.current()
        if (
            number
            and pid == os.getpid()
            and signal.getsignal(number) == signal.SIG_DFL
            and measuring is not None
        ):
            measuring.save()
        kill(pid, number)

    os.kill = save_and_kill
