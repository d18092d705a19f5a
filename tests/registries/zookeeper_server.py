"""A real ZooKeeper for a test, alone, on a free port, its data in the test's directory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.brokers.redis_server import free_port

PATIENCE_S = 30.0
JAR = "/usr/share/java/zookeeper.jar"
MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"


class ZooKeeperServer:
    """Every change is on disk before its answer, as ZooKeeper's default is. A tick is short, so that short
    sessions are granted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = folder / "zookeeper.log"
        (folder / "zoo.cfg").write_text(
            f"tickTime=200\ndataDir={folder}/data\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
            "admin.enableServer=false\n4lw.commands.whitelist=srvr\nmaxSessionTimeout=40000\n"
            # No file a gigabyte large for each run, of 64 MB at once.
            "preAllocSize=64\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def hosts(self) -> str:
        return f"127.0.0.1:{self.port}"

    def begin(self) -> None:
        """Start it, and do not wait."""
        java = shutil.which("java")
        assert java is not None, "no java: tests/needs.sh installs it"
        # C1 only and a small heap: it starts in half the time.
        flags = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx96m", "-Xshare:auto"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [java, *flags, "-cp", JAR, MAIN, str(self.folder / "zoo.cfg")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start(self) -> None:
        """Back once it answers."""
        self.begin()
        assert self._process is not None
        end = time.monotonic() + PATIENCE_S
        while b"Mode: " not in self.says("srvr"):
            assert self._process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < end, self.log.read_text()[-2000:]
            time.sleep(0.05)

    def again(self) -> None:
        """Start it if a test that failed has left it dead or hanging."""
        if self._process is None:
            self.start()
        self.thaw()

    def says(self, word: str) -> bytes:
        """The answer to one of its four-letter words; b"" while it is away."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as link:
                link.sendall(word.encode())
                link.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: link.recv(65_536), b""))
        except OSError:
            return b""

    def kill9(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGKILL)  # what it has is on disk: it needs no farewell

    def freeze(self) -> None:
        """It keeps its connections and answers nothing until `thaw`."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def empty(self) -> None:
        """What it has on disk is gone. It must not run."""
        assert self._process is None
        shutil.rmtree(self.folder / "data")

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(PATIENCE_S)
            self._process = None
