"""``imgateway link`` as a process, for tests."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.network.nodes import CLI, DEADLINE_S

__all__ = ("Running", "running")


class Running:
    """A link as a process."""

    def __init__(self, *args: str, cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            [*CLI, "link", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
        )
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()
        found = re.match(r"\w+:([\d.]+):(\d+) → ", self.said)
        assert found is not None, self.said + self.process.stderr.read()
        self.place = (found[1], int(found[2]))

    def end(self, number: signal.Signals | None = signal.SIGTERM) -> dict[str, Any]:
        """The summary, after a signal, or after its own end."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=DEADLINE_S)
        assert (self.process.returncode, err) == (0, ""), err
        found: dict[str, Any] = json.loads(out)
        return found


@contextmanager
def running(*args: str, cwd: Path | None = None) -> Iterator[Running]:
    link = Running(*args, cwd=cwd)
    try:
        yield link
    finally:
        link.process.kill()
        link.process.communicate()
