"""The files beside the database: the lock that keeps a second process out, and the mark that betrays a
restored one.

The mark repeats, a second late at most, which commit of which epoch was the newest. A database that is behind
its mark was put back from a copy by hand: its seqs would be given twice, so it gets a new epoch.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from imgateway.config.denied import why_not
from imgateway.errors import StoreError, StoreInUse

__all__ = ("DATABASE", "Directory", "Mark")

DATABASE = "messages.sqlite3"


class Mark(NamedTuple):
    """How far the store had got."""

    epoch: int
    number: int


class Directory:
    """The data directory of one broker."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.database = self.path / DATABASE
        self._mark = self.path / "messages.mark"
        self._lock_path = self.path / "messages.lock"
        self._lock: int | None = None

    def lock(self) -> None:
        """Make the directory if need be, and be its only user until `unlock` or the end of the process.

        :raises StoreInUse: another process has it. :raises StoreError: it cannot be used.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise self._unusable(problem) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise StoreInUse(
                f"{self.path} is in use by process {owner}: stop that, or give this one its own --data-dir"
            ) from None
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        except OSError as problem:
            os.close(lock)
            raise self._unusable(problem) from None
        self._lock = lock

    def _unusable(self, problem: OSError) -> StoreError:
        return StoreError(
            f"cannot use the data directory {self.path}: {why_not(problem, problem.filename or self.path)}"
        )

    def make_private(self) -> None:
        """Have an empty database that nobody else may read, if there is none; what SQLite puts beside it
        takes its mode. :raises OSError: it cannot be made."""
        os.close(os.open(self.database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def unlock(self) -> None:
        """The file stays: removing it would let two processes lock two files of one name."""
        if self._lock is not None:
            with suppress(OSError):  # it says who had it, and nothing more
                os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def read_mark(self) -> Mark | None:
        """The mark, or None if there is none that can be read."""
        try:
            return msgspec.json.decode(self._mark.read_bytes(), type=Mark)
        except (OSError, msgspec.MsgspecError):
            return None

    def write_mark(self, mark: Mark, sync: bool = False) -> None:
        """Replace the mark. Without `sync` there may be an older one after a power loss, or none that can be
        read: as good, as long as the database is not replaced. :raises OSError: the disk does not take it."""
        new = self._mark.with_suffix(".new")
        with open(new, "wb", opener=partial(os.open, mode=0o600)) as file:
            file.write(msgspec.json.encode(mark))
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(new, self._mark)
