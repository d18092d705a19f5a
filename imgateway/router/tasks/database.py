"""Opening the database of push tasks: the engine, the one lock of SQLite, the tables and their version."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import IO, Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, make_url, select, text, update
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from imgateway.errors import ConfigError, StoreError
from imgateway.router.tasks.tables import SCHEMA_VERSION, clock_sql, metadata, tasks, versions

__all__ = ("Database", "fault_text")

DRIVERS = {
    "postgresql+psycopg": "psycopg",
    "mysql+pymysql": "pymysql",
    "mariadb+pymysql": "pymysql",
    "sqlite+pysqlite": "sqlite3",
}
# What a router that is alone needs: who runs a task, who reads one, who makes one.
CONNECTIONS = 4
# Two routers that start at once may both make the tables; the second try finds them.
TRIES = 3
# No statement may hang on a dead server: the calls behind it would wait as well.
STATEMENT_S = 30
LOCK_S = 10.0
# PostgreSQL's driver waits for ever: the server looks at the time, and the kernel whether its machine is
# there. One that is frozen neither of them notices; `pulse` tells of it.
POSTGRESQL = {
    "options": f"-c statement_timeout={STATEMENT_S * 1000}",
    "keepalives_idle": STATEMENT_S // 3,
    "keepalives_interval": STATEMENT_S // 6,
    "keepalives_count": 4,
    "tcp_user_timeout": STATEMENT_S * 1000,
}


class Database:
    """The engine over one URL.

    :param url: SQLAlchemy's; with one of the drivers above.
    :param wall_ms: this machine's clock in Unix milliseconds, which is SQLite's.
    :raises ConfigError: the URL cannot be used, or its driver is not installed.
    """

    def __init__(self, url: str, wall_ms: Callable[[], int]) -> None:
        try:
            parsed = make_url(url)
            name = f"{parsed.get_backend_name()}+{parsed.get_driver_name()}"
        except (ArgumentError, NoSuchModuleError, ValueError):  # a port that is no number
            raise ConfigError(_what_is_wrong("is no database URL of SQLAlchemy")) from None
        if name not in DRIVERS:
            raise ConfigError(_what_is_wrong(f"names {name}, which is not supported"))
        self.shown = parsed.render_as_string(hide_password=True)
        self.dialect = parsed.get_backend_name()
        self._wall_ms = wall_ms
        self._path = parsed.database or "" if self.dialect == "sqlite" else ""
        if self.dialect == "sqlite" and self._path in ("", ":memory:"):
            raise ConfigError(_what_is_wrong("names no file: a database in memory would forget its tasks"))
        self._lock: IO[str] | None = None
        # A commit that makes the log of changes long moves it into the database, and SQLite before 3.51.3 can
        # lose some of it if another writes meanwhile (https://sqlite.org/wal.html#walresetbug).
        self._turn: AbstractContextManager[Any] = Lock() if self.dialect == "sqlite" else nullcontext()
        self._clock = clock_sql(self.dialect)
        self.shift_ms = 0
        """Added to the database's clock; tests move time with it."""
        arguments: dict[str, Any] = {"pool_size": CONNECTIONS, "max_overflow": 0}
        if self.dialect == "sqlite":
            arguments["connect_args"] = {"check_same_thread": False, "timeout": LOCK_S}
        else:
            arguments["pool_pre_ping"] = True  # the server may have been started anew meanwhile
            arguments["isolation_level"] = "READ COMMITTED"
            limit: dict[str, Any] = {"read_timeout": STATEMENT_S, "write_timeout": STATEMENT_S}
            if self.dialect == "postgresql":
                limit = POSTGRESQL
            arguments["connect_args"] = {"connect_timeout": 10, **limit}
        try:
            self.engine: Engine = create_engine(parsed, **arguments)
        except ImportError:
            raise ConfigError(
                _what_is_wrong(f"needs {DRIVERS[name]}: pip install 'imgateway[{self.dialect}]'")
            ) from None
        if self.dialect == "sqlite":
            event.listen(self.engine, "connect", _settle)
            event.listen(self.engine, "begin", _begin)

    def lock(self) -> None:
        """Be the one process that runs the tasks of an SQLite file, until `close`; with a server nothing.

        :raises StoreError: another one does.
        """
        if self.dialect == "sqlite" and self._lock is None:
            self._take_lock()

    def open(self) -> None:
        """Lock it, and make the tables if there are none.

        :raises StoreError: with what mends it.
        :raises DBAPIError: a server that does not answer just now.
        """
        self.lock()
        for left in reversed(range(TRIES)):
            try:
                self._prepare()
                return
            except DBAPIError as error:
                if self.dialect == "sqlite":
                    self.close()
                    raise StoreError(f"{self.shown}: {fault_text(error)}{_what_mends(error)}") from None
                if not left or error.connection_invalidated:
                    raise

    def close(self) -> None:
        """Close the connections, give the lock back."""
        self.engine.dispose()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes; in SQLite one at a time, until it is committed."""
        with self._turn, self.engine.begin() as connection:
            yield connection

    def now_ms(self, connection: Connection) -> int:
        """What time it is for everybody who uses this database."""
        now = connection.execute(text(self._clock)).scalar_one() if self._clock else self._wall_ms()
        return int(now) + self.shift_ms

    def _prepare(self) -> None:
        metadata.create_all(self.engine)
        with self.writing() as connection:
            found = connection.execute(select(versions.c.version)).scalars().first()
            if found is None:
                connection.execute(insert(versions).values(version=SCHEMA_VERSION))
            elif found != SCHEMA_VERSION:
                raise StoreError(
                    f"{self.shown}: its push tasks are of version {found}, and this imgateway knows "
                    f"{SCHEMA_VERSION}: use the imgateway that made them, or set router.tasks_url to another"
                )
            if self.dialect == "sqlite":
                # Nobody else has the lock, so who held a lease is dead. That there was an owner stays: what
                # it pushed last may not be written down.
                connection.execute(update(tasks).where(tasks.c.until_ms > 0).values(until_ms=0))

    def _take_lock(self) -> None:
        real = os.path.realpath(self._path)  # by a link it is the same database
        path = f"{real}.lock"
        try:
            os.makedirs(os.path.dirname(real), mode=0o700, exist_ok=True)
            lock = open(path, "a", encoding="ascii", opener=_private)  # noqa: SIM115 - held while it runs
        except OSError as error:
            raise StoreError(f"{path}: cannot be made: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise StoreError(
                f"{self._path}: another process runs the push tasks of this SQLite database: set "
                "router.tasks_url to a PostgreSQL or MySQL database that all may use, or to another file"
            ) from None
        self._lock = lock


def fault_text(error: BaseException | None) -> str:
    """What the database said, in one line, without the statement and its parameters."""
    said = getattr(error, "orig", None) if isinstance(error, SQLAlchemyError) else error
    lines = str(said or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _what_mends(error: DBAPIError) -> str:
    # Where there is no room for the file that its connections share, SQLite says the second.
    if getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return ": if the disk is full, make room there; else check it"
    return ""


def _what_is_wrong(what: str) -> str:
    # The URL may hold a password: it is not repeated.
    return (
        f"router.tasks_url: {what}; use postgresql+psycopg://user:password@host/database, "
        "mysql+pymysql://user:password@host/database, sqlite:////path/to/file, or leave it empty"
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _settle(connection: Any, record: Any) -> None:
    """A new connection of SQLite: transactions are begun by `_begin`, readers do not wait for the writer."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")  # else a large statement makes a temporary file


def _begin(connection: Connection) -> None:
    # Who begins to read and writes later may be refused in between; who writes says so at once.
    reads = connection.get_execution_options().get("reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
