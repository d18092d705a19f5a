"""A real redis-server for a test, and a reactor of the test's own to reach it with."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom
from typing import Any

from twisted.internet.base import runtimeSeconds  # type: ignore[attr-defined]
from twisted.internet.defer import Deferred
from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure

from imgateway.brokers.redis.connection import RedisError

PATIENCE_S = 10.0
TURN_S = 0.01


def wait_until(holds: Callable[[], bool], otherwise: str) -> None:
    """A real server takes its time, and tells nobody. `otherwise`: what is wrong if it never does."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)


def free_port() -> int:
    """Below those that the system gives to connections: one that is tried while nobody listens could else
    connect to itself."""
    for port in SystemRandom().sample(range(15_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class Loop(SelectReactor):
    """A reactor that never runs: the test turns it by hand. `shift_s` moves its clock."""

    def __init__(self) -> None:
        self.shift_s = 0.0
        super().__init__()

    def seconds(self) -> float:  # type: ignore[override]
        return runtimeSeconds() + self.shift_s

    def until(self, done: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
        end = time.monotonic() + patience_s
        while not done():
            assert time.monotonic() < end, f"waited {patience_s} s in vain"
            self.iterate(0.02)

    def run(self, result: Any, patience_s: float = PATIENCE_S) -> Any:  # type: ignore[override]
        """The result of a Deferred; its failure is raised."""
        if not isinstance(result, Deferred):
            return result
        box: list[Any] = []
        result.addBoth(box.append)
        self.until(lambda: box, patience_s)
        if isinstance(box[0], Failure):
            box[0].raiseException()
        return box[0]

    def spin(self, seconds: float) -> None:
        """Turn for so long, whatever happens. A turn in which the machine stood still counts as one."""
        while seconds > 0:
            began = time.monotonic()
            self.iterate(TURN_S)
            seconds -= min(time.monotonic() - began, 2 * TURN_S)

    def close(self) -> None:
        for call in self.getDelayedCalls():
            call.cancel()
        for one in self.removeAll():
            one.connectionLost(Failure(ConnectionError("the test is over")))
        for waker in list(self._internalReaders):
            waker.connectionLost(None)


class RedisServer:
    """`redis-server` on a free port, its data under `folder`, every write on disk before its answer."""

    program = "redis-server"

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.options = options or ("--appendonly", "yes", "--appendfsync", "always")
        self._process: subprocess.Popen[bytes] | None = None
        for _ in range(5):
            self.port = port or free_port()
            if self.start():
                return
            # Somebody else got the port in between.
            assert "Address already in use" in self.log_text(), self.log_text()
        raise AssertionError("no free port")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log_text(self) -> str:
        return (self.folder / "redis.log").read_text(errors="replace")

    def command(self) -> list[str]:
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        fixed += ["--repl-diskless-sync-delay", "0"]  # replicas need not wait for each other
        return [self.program, *fixed, "--logfile", str(self.folder / "redis.log"), *self.options]

    def start(self, loaded: bool = True) -> bool:
        """False: it ended at once. `loaded`: wait until it has read its data."""
        self._process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE_S
        while self._process.poll() is None:
            try:
                if self.cli("PING") in ("PONG", b"PONG"):
                    return True
            except RedisError as problem:
                if problem.code in {"NOAUTH", "NOPERM"} or (problem.code == "LOADING" and not loaded):
                    return True
            except OSError:
                pass
            assert time.monotonic() < end, "redis-server does not answer"
            time.sleep(0.01)
        return False

    def cli(self, *args: bytes | str | int) -> Any:
        """One command, and its reply: bytes, int, None or a list. :raises RedisError:"""
        import hiredis

        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as link:
            link.sendall(hiredis.pack_command(args))
            reader = hiredis.Reader(replyError=RedisError)
            while (reply := reader.gets()) is False:
                data = link.recv(65_536)
                if not data:
                    raise ConnectionResetError("redis-server closed the connection")
                reader.feed(data)
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def kill9(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """It keeps its connections and answers nothing until `thaw`."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, loaded: bool = True) -> None:
        """Started anew on what it has on disk."""
        if self._process is not None:
            self.stop()
        assert self.start(loaded), self.log_text()

    def copy(self) -> Path:
        """A copy of what it has on disk, from between its end and its next start."""
        self.kill9()
        copy = self.folder.with_name(f"{self.folder.name}.{len(list(self.folder.parent.iterdir()))}")
        shutil.copytree(self.folder, copy)
        self.restart()
        return copy

    def put_back(self, copy: Path, restart: bool = True) -> None:
        """In the place of what it has."""
        self.kill9()
        shutil.rmtree(self.folder)
        shutil.copytree(copy, self.folder)
        if restart:
            self.restart()

    def lose_all(self) -> None:
        """It comes back without what it had."""
        self.kill9()
        for file in self.folder.rglob("*.aof*"):
            if file.is_file():
                file.unlink()
        self.restart()

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            if number != signal.SIGKILL:
                self._process.send_signal(signal.SIGCONT)  # one that is frozen hears nothing else
            self._process.wait(PATIENCE_S)
            self._process = None

    def replica_of(self, other: RedisServer) -> None:
        """Follow `other`; back once it has what that has now."""
        self.cli("REPLICAOF", "127.0.0.1", other.port)
        self.synced(other)

    def synced(self, other: RedisServer) -> None:
        """Wait until this replica has everything that `other` has now."""

        def has_all() -> bool:
            theirs, ours = other.info("replication"), self.info("replication")
            return (
                ours.get("master_link_status") == "up"
                and ours.get("slave_repl_offset") == theirs["master_repl_offset"]
            )

        wait_until(has_all, "the replica does not catch up")

    def promote(self) -> None:
        self.cli("REPLICAOF", "NO", "ONE")

    def info(self, section: str) -> dict[str, str]:
        text = self.cli("INFO", section).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


class Sentinel(RedisServer):
    """`redis-sentinel` that watches over `primary` under that name, alone."""

    program = "redis-sentinel"

    def __init__(self, folder: Path, primary: RedisServer, name: str, failover_ms: int) -> None:
        self._primary = primary
        self._name = name
        self._failover_ms = failover_ms
        super().__init__(folder)

    def command(self) -> list[str]:
        config, name = self.folder / "sentinel.conf", self._name
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\nlogfile {self.folder / 'redis.log'}\n"
            f"sentinel monitor {name} 127.0.0.1 {self._primary.port} 1\n"
            f"sentinel down-after-milliseconds {name} 60000\n"
            f"sentinel failover-timeout {name} {self._failover_ms}\n"
        )
        return [self.program, str(config)]

    def is_hasty(self) -> None:
        """From here on it takes a primary that is silent for 0.3 s for dead, which it must be: before that a
        busy machine could make it fail over."""
        self.cli("SENTINEL", "SET", self._name, "down-after-milliseconds", 300)
