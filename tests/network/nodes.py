"""Real nodes as processes, for tests: started, waited for, asked, ended by their own id.

Ports are chosen by the kernel and kept: a socket stays bound to each, without listening, so that nobody is
given the number while a node is being restarted. Whoever connects meanwhile is refused.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imgateway.auth.keys import load_secret, make_secret
from imgateway.auth.token import mint
from imgateway.config import AuthSettings

__all__ = ("DEADLINE_S", "Node", "Ports", "TWISTD", "eventually", "imgateway", "soon", "until")

TWISTD = (
    sys.executable,
    "-c",
    "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()",
    "-n",
    "--pidfile=",
    "imgateway",
)
CLI = (sys.executable, "-c", "import sys; from imgateway.cli import main; sys.argv[0] = 'imgateway'; main()")
DEADLINE_S = 20.0
"""What takes longer on a busy machine has gone wrong."""
POLL_S = 0.02


def eventually(found: Callable[[], Any], within_s: float = DEADLINE_S, what: str = "it") -> Any:
    """What `found` returns, once that is true. Blocks: only where the test's reactor has nothing to do."""
    deadline = time.monotonic() + within_s
    while not (result := found()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s} s"
        time.sleep(POLL_S)
    return result


async def soon(found: Callable[[], Any], within_s: float = DEADLINE_S, what: str = "it") -> Any:
    """As `eventually`, while the test's reactor runs."""
    from twisted.internet import reactor, task

    deadline = time.monotonic() + within_s
    while not (result := found()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s} s"
        await task.deferLater(reactor, POLL_S)  # type: ignore[arg-type]
    return result


async def until(deferred: Any, within_s: float = DEADLINE_S) -> Any:
    """The Deferred's result, or TimeoutError."""
    from twisted.internet import reactor

    return await deferred.addTimeout(within_s, reactor)


class Ports:
    """Port numbers of 127.0.0.1 that are ours until `release`."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self) -> int:
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        self._held.append(held)
        port: int = held.getsockname()[1]
        return port

    def release(self) -> None:
        for held in self._held:
            held.close()


class Node:
    """One node and its place; the process may be started any number of times.

    :param options: more of twistd's options, such as ``--set``.
    :param listen: its ``--listen``s; {tcp} and {ws} stand for its ports, {dir} for its directory's parent.
    """

    def __init__(
        self,
        directory: Path,
        ports: Ports,
        options: Sequence[str] = (),
        listen: Sequence[str] = (
            "native+tcp:tcp:{tcp}:interface=127.0.0.1",
            "native,json+websocket:tcp:{ws}:interface=127.0.0.1",
        ),
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.tcp, self.ws, self.http = ports.take(), ports.take(), ports.take()
        self.options = list(options)
        self.listen = [one.format(tcp=self.tcp, ws=self.ws, dir=directory) for one in listen]
        self.environment = environment or {}
        self.wrapper = tuple(wrapper)
        self.pass_fds = tuple(pass_fds)
        self.process: Any = None
        self.log = directory / "node.log"
        self.errors = directory / "node.err"

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.tcp}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.ws}"

    def token(self, user: str, service: bool = False, ttl_s: float = 3600.0, now_s: float = 0.0) -> str:
        """A token that this node takes, also before its first start."""
        if not (self.data / "secrets").exists():
            make_secret(str(self.data))
        secret = load_secret(AuthSettings(), str(self.data))
        return mint(secret, user, service=service, ttl_s=ttl_s, now_s=now_s or time.time())

    # ------------------------------------------------------------------------------------- the process

    def command(self) -> list[str]:
        listen = [part for one in self.listen for part in ("--listen", one)]
        http = f"tcp:{self.http}:interface=127.0.0.1"
        return [*self.wrapper, *TWISTD, "--data-dir", str(self.data), "--http", http, *listen, *self.options]

    def begin(self) -> None:
        """Start the process, and do not wait."""
        with self.log.open("ab") as log, self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=errors,
                pass_fds=self.pass_fds,
            )

    def start(self) -> Node:
        """Start the process and block until it is ready."""
        self.begin()
        eventually(self.ready, what="the node's readiness")
        return self

    async def started(self) -> Node:
        """Start the process and wait until it is ready."""
        self.begin()
        await soon(self.ready, what="the node's readiness")
        return self

    def ready(self) -> bool:
        assert self.process.poll() is None, f"the node ended: {self.errors.read_text()}"
        return self.ask("readyz")[0] == 200

    def ask(self, page: str) -> tuple[int, str]:
        """Status and text of one of the HTTP pages; 0: nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/{page}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def measure(self, name: str) -> float:
        """A metric's value, or the sum over its labels."""
        lines = [line for line in self.ask("metrics")[1].splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line[len(name)] in " {")

    def records(self) -> Iterator[dict[str, Any]]:
        """The log, line by line."""
        for line in self.log.read_text().splitlines():
            if line.endswith("}"):
                yield json.loads(line)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """``kill -9``; over when this returns."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def exited(self) -> bool:
        """Whether the process is over."""
        return self.process.poll() is not None

    def end(self) -> None:
        """Whatever became of it, it is gone."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


@contextmanager
def holding_ports() -> Iterator[Ports]:
    ports = Ports()
    try:
        yield ports
    finally:
        ports.release()


def imgateway(*arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*CLI, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=more.pop("timeout", 30),
        **({} if "input" in more else {"stdin": subprocess.DEVNULL}),
        **more,
    )
