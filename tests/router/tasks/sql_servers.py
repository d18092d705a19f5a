"""Real PostgreSQL and MariaDB servers, in a directory of their own, on unix sockets, ended by their pid.

Neither runs as root: then they run as nobody.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import text

START_S = 60.0


class SqlServer:
    """One server; `url(name)` makes an empty database. `kill9` and `start` may be called again and again."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="imgw-sql"))
        self.data = self.directory / "data"
        self.who: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.who = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self.directory, "nobody", "nogroup")
        self.process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._prepare()
        self.start()

    def _prepare(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _url(self, database: str) -> str:
        raise NotImplementedError

    def run(self, *command: str) -> None:
        """Run it to its end, as whom the server runs."""
        done = subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, env=self._environment(), **self.who
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Returns when it answers."""
        self._launch()
        ends = time.monotonic() + START_S
        while True:
            try:
                self._ask(self._root, "SELECT 1")
                return
            except sqlalchemy.exc.DBAPIError:
                if self.process is not None and self.process.poll() is not None:
                    said = (self.directory / "log").read_text()
                    # The children of a postmaster that was killed take a moment to see it.
                    assert "still in use" in said, said
                    self._launch()
                assert time.monotonic() < ends
                time.sleep(0.02)  # a server of another's making: there is nothing to wait on

    def _launch(self) -> None:
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                cwd=self.directory,
                stdout=log,
                stderr=log,
                env=self._environment(),
                **self.who,
            )

    _root = ""

    def _ask(self, database: str, *statements: str) -> None:
        engine = sqlalchemy.create_engine(self._url(database), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                for statement in statements:
                    connection.execute(text(statement))
        finally:
            engine.dispose()

    def url(self) -> str:
        """The URL of a new, empty database."""
        self._made += 1
        name = f"tasks{self._made}"
        self._ask(self._root, f"CREATE DATABASE {name}")
        return self._url(name)

    def kill9(self) -> None:
        """With its children: PostgreSQL's answer what is asked of them until they notice."""
        assert self.process is not None
        children = self._children()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        _tell(children, signal.SIGKILL)

    def freeze(self) -> None:
        """It answers nothing, and closes nothing, until `thaw`."""
        assert self.process is not None
        _tell([self.process.pid, *self._children()], signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        _tell([self.process.pid, *self._children()], signal.SIGCONT)

    def _children(self) -> list[int]:
        assert self.process is not None
        number = self.process.pid
        return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]

    def stop(self) -> None:
        """End it and take everything away."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # PostgreSQL: fast; MariaDB takes none
            self.process.terminate()
            self.process.wait()
        shutil.rmtree(self.directory)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "LC_ALL": "C", "HOME": str(self.directory)}


class Postgres(SqlServer):
    _root = "postgres"

    def _program(self, name: str) -> str:
        """Debian keeps them out of PATH."""
        found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        return str(found[-1]) if found else str(shutil.which(name))

    def _prepare(self) -> None:
        options = ("-A", "trust", "-U", "imgateway", "-E", "UTF8", "--no-sync", "--no-instructions")
        self.run(self._program("initdb"), "-D", str(self.data), *options)

    def _command(self) -> list[str]:
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=30"]
        return [self._program("postgres"), "-D", str(self.data), "-k", str(self.directory), *options]

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://imgateway@/{database}?host={self.directory}"


class MariaDB(SqlServer):
    _root = "mysql"

    def _prepare(self) -> None:
        options = ("--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db")
        self.run("mariadb-install-db", *options, f"--datadir={self.data}")

    def _command(self) -> list[str]:
        program = shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin")
        return [
            str(program),
            "--no-defaults",
            f"--datadir={self.data}",
            f"--socket={self.directory}/s",
            f"--pid-file={self.directory}/pid",
            "--skip-networking",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=32M",
        ]

    def _url(self, database: str) -> str:
        return f"mysql+pymysql://root@localhost/{database}?unix_socket={self.directory}/s"


def _tell(processes: list[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def served(kind: type[SqlServer]) -> Iterator[SqlServer]:
    server = kind()
    try:
        yield server
    finally:
        server.stop()
