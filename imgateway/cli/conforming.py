"""Runs ``imgateway conformance``: a listener, the program under test, and the scenes."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from twisted.internet.task import deferLater

from imgateway.auth.token import mint
from imgateway.auth.udp import UdpKeys, with_udp_key
from imgateway.cli.lines import tell
from imgateway.config import Settings
from imgateway.core.credentials import bare_token
from imgateway.errors import OperatorError
from imgateway.interfaces import ITransportAdapter
from imgateway.tap.plugins import Wires, find
from imgateway.testing.conformance.playing import play_all
from imgateway.testing.conformance.report import Report
from imgateway.testing.conformance.scenes import Scene
from imgateway.testing.conformance.stage import SENDER, Stage

__all__ = ("Program", "Trial", "run_trial")

USER = "client"
SCHEMES = {"websocket": "ws"}
ENDING_S = 3.0
"""A program that is asked to end has so long before it is killed."""
LOOK_S = 0.05


class Trial(Struct, frozen=True):
    """What is tried, and how. `command` "": the program is started by somebody else."""

    protocol: str
    transport: str
    listen: str
    command: str
    scenes: tuple[str, ...]
    patience_s: float
    absence_s: float


async def run_trial(
    reactor: Any, trial: Trial, report: Report, begin: Callable[[Scene], object] = lambda scene: None
) -> int:
    """Play, with the program under test. Exit status: 0, whatever the report says.

    :param begin: called with each scene before it is played.
    :raises OperatorError: there is no such protocol or transport, or it cannot listen there.
    """
    wire = Wires(Settings(), reactor.seconds, _wall_ms).find(trial.protocol)
    if not wire.traits.acks:
        raise OperatorError(f"{trial.protocol}: its clients acknowledge nothing, so there is nothing to see")
    transport = find(ITransportAdapter, trial.transport, "--transport")
    token = mint(secrets.token_bytes(32), USER, ttl_s=86_400.0, now_s=time.time())
    secret = secrets.token_bytes(32)
    if trial.transport == "udp" and wire.carriage.bare is None:
        token = with_udp_key(token, secret)
    keys = UdpKeys(secret, SENDER)
    options = {"udp_key": keys.key_of, "udp_reset_key": keys.reset_key, "origins": ("*",)}
    stage = Stage(reactor, wire, USER, bare_token(token), _wall_ms, trial.patience_s, trial.absence_s)
    try:
        listener = await transport.listen(trial.listen, [wire], stage.accept, reactor, options)
    except OperatorError as error:
        if str(error).startswith(f"{wire.name}+"):  # it says what does not go together
            raise
        raise OperatorError(f"--listen: {error}") from None
    host = listener.address.partition(":")[2].rpartition(":")[0]
    scheme = SCHEMES.get(trial.transport, trial.transport)
    path = wire.carriage.path if trial.transport == "websocket" else ""
    environment = {
        "IMGATEWAY_URL": f"{scheme}://{host}:{listener.port}{path}",
        "IMGATEWAY_TOKEN": token,
        "IMGATEWAY_PROTOCOL": trial.protocol,
        "IMGATEWAY_USER": USER,
        "IMGATEWAY_ECHO_TO": f"user:{SENDER}",
    }
    program = Program(reactor, trial.command, environment, stage.program_ended) if trial.command else None
    try:
        if program is None:
            for name, value in environment.items():
                tell(f"{name}={value}")
            await play_all(stage, report, trial.scenes, None, begin)
        else:
            program.start()
            await play_all(stage, report, trial.scenes, program.restart, begin)
    finally:
        if program is not None:
            await program.end()
        for visit in stage.visits:
            if not visit.over:
                visit.cut()
        await listener.stop()
    return 0


def _wall_ms() -> int:
    return int(time.time() * 1000)


class Program:
    """The program under test: a line for the shell. What it prints goes to stderr.

    :param ended: called with how it has ended, if it ends by itself; with "" when it is started.
    """

    def __init__(
        self,
        reactor: Any,
        command: str,
        environment: dict[str, str],
        ended: Callable[[str], object] = lambda how: None,
    ) -> None:
        self._reactor = reactor
        self._ended = ended
        self._command = command
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._looking: Any = None

    def start(self) -> None:
        self._ended("")
        # In a session of its own, so that what the shell starts can be ended with it.
        self._process = subprocess.Popen(
            ("/bin/sh", "-c", self._command),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=2,
            start_new_session=True,
        )
        self._look()

    def _look(self) -> None:
        """See from time to time whether anybody is left; what the shell has started may outlive it."""
        process = self._process
        assert process is not None
        if process.poll() is None or _signal(process, 0):
            self._looking = self._reactor.callLater(LOOK_S, self._look)
        else:
            self._looking = None
            code = process.returncode
            how = f"by signal {-code}" if code < 0 else f"with status {code}"
            self._ended(f"the program has ended, {how}")

    async def end(self) -> None:
        """End it, if it has not ended by itself; and whatever it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        _signal(process, signal.SIGTERM)
        deadline = self._reactor.seconds() + ENDING_S
        try:
            while process.poll() is None and self._reactor.seconds() < deadline:
                await deferLater(self._reactor, LOOK_S)
        finally:  # somebody may be impatient, and interrupt this
            _signal(process, signal.SIGKILL)
            process.wait()

    async def restart(self) -> None:
        """Ended, and started anew."""
        await self.end()
        self.start()


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether anybody of them is left."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
