"""Runs ``imgateway conformance``: a listener, the program under test, and the scenes."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
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


async def run_trial(reactor: Any, trial: Trial, report: Report) -> int:
    """Play, with the program under test. Exit status: 0, whatever the report says.

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
    listener = await transport.listen(trial.listen, [wire], stage.accept, reactor, options)
    host = listener.address.partition(":")[2].rpartition(":")[0]
    scheme = SCHEMES.get(trial.transport, trial.transport)
    environment = {
        "IMGATEWAY_URL": f"{scheme}://{host}:{listener.port}{wire.carriage.path}",
        "IMGATEWAY_TOKEN": token,
        "IMGATEWAY_PROTOCOL": trial.protocol,
        "IMGATEWAY_USER": USER,
        "IMGATEWAY_ECHO_TO": f"user:{SENDER}",
    }
    program = Program(reactor, trial.command, environment) if trial.command else None
    try:
        if program is None:
            for name, value in environment.items():
                tell(f"{name}={value}")
            await play_all(stage, report, trial.scenes)
        else:
            program.start()
            await play_all(stage, report, trial.scenes, program.restart)
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
    """The program under test: a line for the shell. What it prints goes to stderr."""

    def __init__(self, reactor: Any, command: str, environment: dict[str, str]) -> None:
        self._reactor = reactor
        self._command = command
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # In a session of its own, so that what the shell starts can be ended with it.
        self._process = subprocess.Popen(
            ("/bin/sh", "-c", self._command),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=2,
            start_new_session=True,
        )

    async def end(self) -> None:
        """End it, if it has not ended by itself; and whatever it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal(process, signal.SIGTERM)
        deadline = self._reactor.seconds() + ENDING_S
        while process.poll() is None and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, LOOK_S)
        _signal(process, signal.SIGKILL)
        process.wait()

    async def restart(self) -> None:
        """Ended, and started anew."""
        await self.end()
        self.start()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass  # nobody of them is left
