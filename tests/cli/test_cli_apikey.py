"""``imgateway apikey``"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from imgateway.router.keys import Keys, entry_of, make_key, read_keys

Run = Callable[..., Result]


def test_a_key_is_shown_once_and_its_hash_is_kept(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    made = [
        run("apikey", "--id", name, "--scopes", scopes, "--file", str(path))
        for name, scopes in (("billing", "push, read"), ("ops", "*"))
    ]
    assert [one.exit_code for one in made] == [0, 0]
    texts = [one.stdout.strip() for one in made]
    keys = Keys(read_keys(str(path)), lambda: 0.0)
    assert keys.admit(texts[0], "push") == ("billing", frozenset({"push", "read"}))
    assert keys.admit(texts[1], "drain")[0] == "ops"
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(text in path.read_text() for text in texts)


def test_without_a_file_the_entry_is_shown_beside_it(run: Run, tmp_path: Path) -> None:
    made = run("apikey", "--id", "a", "--scopes", "read", "--rate", "5", "--burst", "9")
    path = tmp_path / "keys.toml"
    path.write_text(made.stderr)
    [key] = read_keys(str(path))
    assert (key.id, key.rate, key.burst) == ("a", 5.0, 9)
    assert Keys([key], lambda: 0.0).knows(made.stdout.strip())


def test_what_is_wrong_is_one_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    file = ("--file", str(path))
    for arguments, why in (
        (("--id", "a.b", "--scopes", "read"), "'a.b' is no id"),
        (("--id", "a", "--scopes", "write"), "'write' is no scope; there are tokens"),
        (("--id", "a", "--scopes", ""), "is no scope"),
        (("--id", "a", "--scopes", "read", "--rate", "-1"), "rate must be at least 0"),
    ):
        result = run("apikey", *arguments, *file)
        assert result.exit_code == 1
        assert why in result.stderr
        assert not path.exists()
    assert run("apikey", "--id", "a", "--scopes", "read", *file).exit_code == 0
    again = run("apikey", "--id", "a", "--scopes", "read", *file)
    assert (again.exit_code, "has a key with the id a" in again.stderr) == (1, True)
    path.write_text("[[")
    broken = run("apikey", "--id", "b", "--scopes", "read", *file)
    assert (broken.exit_code, path.read_text()) == (1, "[[")
    nowhere = run("apikey", "--id", "b", "--scopes", "read", "--file", str(tmp_path / "no" / "keys"))
    assert (nowhere.exit_code, "No such file" in nowhere.stderr) == (1, True)


def test_of_two_that_add_the_same_id_at_once_one_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both in it nobody could read the file any more."""
    path = tmp_path / "keys.toml"
    locks: list[int] = []

    def locked(descriptor: int, how: int) -> None:
        """The other one had the lock, and has written."""
        assert os.fstat(descriptor).st_ino == path.stat().st_ino
        locks.append(how)
        path.write_text(entry_of(make_key("a", ["read"])[1]))

    monkeypatch.setattr(fcntl, "flock", locked)
    second = run("apikey", "--id", "a", "--scopes", "read", "--file", str(path))
    assert (second.exit_code, "has a key with the id a" in second.stderr) == (1, True)
    assert locks == [fcntl.LOCK_EX]
    assert [key.id for key in read_keys(str(path))] == ["a"]


@pytest.mark.parametrize("fails", ["write", "fsync"])
def test_a_full_disk_leaves_the_file_as_it_was(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "keys.toml"
    assert run("apikey", "--id", "a", "--scopes", "read", "--file", str(path)).exit_code == 0
    before = path.read_bytes()
    write = os.write

    def no_room(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:

        def half(descriptor: int, data: bytes) -> int:
            if fails == "write":
                disk.setattr(os, "write", no_room)
            return write(descriptor, data[: (len(data) + 1) // 2])

        disk.setattr(os, "write", half)
        if fails == "fsync":
            disk.setattr(os, "fsync", no_room)
        full = run("apikey", "--id", "b", "--scopes", "read", "--file", str(path))
    assert (full.exit_code, full.stdout, "No space left" in full.stderr) == (1, "", True)
    assert path.read_bytes() == before
    assert run("apikey", "--id", "b", "--scopes", "read", "--file", str(path)).exit_code == 0
    assert [key.id for key in read_keys(str(path))] == ["a", "b"]
