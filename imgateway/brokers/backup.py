"""Copies of the embedded broker's database: made while it runs, put back while it does not."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import mkstemp

from imgateway.brokers.directory import DATABASE, Directory, Mark
from imgateway.brokers.opening import new_epoch_number
from imgateway.brokers.schema import OLDER, VERSION, fault_text, format_text, open_database
from imgateway.errors import StoreError

__all__ = ("backup", "restore")

Progress = Callable[[int, int], None]
PAGES = 1_024
# So long a restore waits for those who still read what it replaces.
PATIENCE_S = 5.0


def backup(data_dir: str | Path, target: str | Path, progress: Progress | None = None) -> None:
    """Copy the database as it is at this moment to the file `target`, which must not exist. The node may run.

    :param progress: called with (pages copied, pages in all).
    :raises StoreError: there is no database, or the copy cannot be written.
    """
    source = Path(data_dir) / DATABASE
    target = Path(target)
    if not source.exists():
        raise StoreError(f"there is no database in {data_dir}: is it the right --data-dir?")
    if target.exists():
        raise _exists(target)
    connection = open_database(str(source))
    try:
        # A transaction holds the moment: without it each commit of the node would make the copy begin again.
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM fact").fetchone()
        # First under a name that nobody else has, so that a file of the right name is whole.
        handle, part = mkstemp(".part", f"{target.name}.", target.parent)  # mode 0600: it is messages, too
        os.close(handle)
        try:
            _copy(connection, Path(part), progress)
            _name(part, target)
        finally:
            Path(part).unlink(missing_ok=True)
        _sync_directory(target.parent)
    except (sqlite3.Error, OSError) as problem:
        raise StoreError(fault_text(problem, str(target))) from None
    finally:
        connection.close()


def restore(
    source: str | Path,
    data_dir: str | Path,
    progress: Progress | None = None,
    entropy: Callable[[int], bytes] = os.urandom,
) -> None:
    """Put a copy into `data_dir`, in place of what is there. The node must not run on it.

    All logs get a new epoch: seqs that the copy does not know may be in clients' hands, and will be given
    again.

    :raises StoreError: a node runs on the directory, somebody reads it, or the file is no copy of ours.
    """
    source = Path(source)
    if not source.is_file():
        raise StoreError(f"there is no file {source}")
    directory = Directory(data_dir)
    directory.lock()
    new = directory.path / "restoring.sqlite3"
    try:
        new.unlink(missing_ok=True)
        _check(source)
        os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = _open_copy(source)
        try:
            _copy(connection, new, progress)
        finally:
            connection.close()
        epoch = new_epoch_number(entropy)
        _renew(new, epoch)
        # The old log of changes must go first: beside the new database it would be taken for its own. Should
        # we end in between, the old database must be whole without it.
        _complete(directory.database)
        directory.write_mark(Mark(epoch, 0), sync=True)
        _sync_directory(directory.path)
        for suffix in ("-wal", "-shm"):
            Path(str(directory.database) + suffix).unlink(missing_ok=True)
        _sync_directory(directory.path)
        os.replace(new, directory.database)
        _sync_directory(directory.path)
    except (sqlite3.Error, OSError) as problem:
        if getattr(problem, "sqlite_errorname", "") == "SQLITE_NOTADB":
            raise _no_copy(source) from None
        raise StoreError(fault_text(problem, str(source))) from None
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(str(new) + suffix).unlink(missing_ok=True)
        directory.unlock()


def _complete(path: Path) -> None:
    """Move what the log of changes has into the database, if that is any good: it may be what is replaced.

    :raises StoreError: somebody reads it, and so not all was moved.
    """
    uri = f"{path.resolve().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, timeout=PATIENCE_S, uri=True)) as old:
            is_busy, _, _ = old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as problem:
        is_busy = "is locked" in str(problem)
    if is_busy:
        raise StoreError(f"another process still reads {path}: end it, or wait until its backup is done")


def _open_copy(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _check(path: Path) -> None:
    """:raises StoreError: it is not a database of ours."""
    connection = _open_copy(path)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StoreError(format_text(version, path))
        if version not in (VERSION, *OLDER):
            raise _no_copy(path)
        connection.execute("SELECT value FROM fact WHERE name = 'epoch'").fetchone()
    finally:
        connection.close()


def _no_copy(path: Path) -> StoreError:
    return StoreError(f"{path} is no backup: use a file that `imgateway backup` made")


def _copy(source: sqlite3.Connection, target: Path, progress: Progress | None) -> None:
    """To a file that is there, empty, and on the disk in the end."""
    with closing(sqlite3.connect(target)) as copy:
        tell = (lambda status, left, total: progress(total - left, total)) if progress else None
        source.backup(copy, pages=PAGES, progress=tell)
        # One file, without a log of changes beside it.
        copy.execute("PRAGMA journal_mode=DELETE")
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def _name(part: str, target: Path) -> None:
    """:raises StoreError: a file has this name by now."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # the file system gives a file one name only
        os.replace(part, target)


def _exists(target: Path) -> StoreError:
    return StoreError(f"{target} exists already: name another file")


def _renew(path: Path, epoch: int) -> None:
    """Give its logs another epoch, and have it as a node wants it, which else could not start beside whoever
    reads it: to begin the log of changes takes a moment without readers."""
    connection = sqlite3.connect(path)
    try:
        with connection:
            connection.execute("UPDATE log SET epoch = 0")
            connection.execute("UPDATE fact SET value = ? WHERE name = 'epoch'", (epoch,))
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def _sync_directory(path: Path) -> None:
    """A rename is on the disk when its directory is."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
