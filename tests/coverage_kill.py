"""A coverage plugin: a twistd that was told to stop leaves its figures.

After a clean shutdown twistd ends itself with the signal that it got, so that its parent sees it: what
is saved at exit never is. So this saves first. Coverage loads it in every process that it measures.
"""

from __future__ import annotations

import os
import signal
from threading import Thread

import coverage
from coverage.plugin_support import Plugins

SAVE_S = 5.0


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
            # In a thread, and not for ever: three nodes in a hundred were seen to say "stopped" and then to
            # hang here. Better a few lines uncounted than a test that waits for them.
            saving = Thread(target=measuring.save, daemon=True)
            saving.start()
            saving.join(SAVE_S)
        kill(pid, number)

    os.kill = save_and_kill
