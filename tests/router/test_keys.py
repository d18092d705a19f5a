"""API keys: made, kept in a file, read, used up."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from imgateway.errors import OperatorError
from imgateway.router.keys import SCOPES, Key, Keys, entry_of, make_key, read_keys
from imgateway.router.problems import Problem

HASH = "0" * 64


def test_a_key_comes_back_from_its_file(tmp_path: Path) -> None:
    first, one = make_key("billing", ["push", "read"], rate=2.5, burst=7)
    second, two = make_key("ops_2-x", ["*"])
    assert first != second
    assert first.startswith("billing.")
    assert one.sha256 == hashlib.sha256(first.encode()).hexdigest()
    path = tmp_path / "keys.toml"
    path.write_text(entry_of(one) + entry_of(two))
    assert read_keys(str(path)) == (one, two)
    assert first not in path.read_text()


@pytest.mark.parametrize(
    ("id", "scopes", "rate", "burst", "why"),
    [
        ("", ["read"], 1, 1, "'' is no id"),
        ("a.b", ["read"], 1, 1, "'a.b' is no id: letters"),
        ("a" * 41, ["read"], 1, 1, "is no id"),
        ("a", ["raed"], 1, 1, "'raed' is no scope; there are tokens"),
        ("a", [], 1, 1, "the key a has no scope"),
        ("a", ["read"], -1, 1, "rate must be at least 0"),
        ("a", ["read"], float("nan"), 1, "rate must be at least 0"),
        ("a", ["read"], 1, 0, "burst at least 1"),
    ],
)
def test_a_key_that_cannot_be(id: str, scopes: list[str], rate: float, burst: int, why: str) -> None:
    with pytest.raises(OperatorError, match=why.replace("*", ".")):
        make_key(id, scopes, rate, burst)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[key]", "Expected"),
        ("\x00", "Found invalid|Illegal|Invalid"),
        (f'[[key]]\nid = "a"\nsha256 = "{HASH}"', "missing required field `scopes`"),
        ('[[key]]\nid = "a"\nsha256 = "abc"\nscopes = ["*"]', "sha256"),
        (f'[[key]]\nid = "a"\nsha256 = "{HASH}"\nscopes = ["*"]\nrat = 1', "unknown field `rat`"),
        (f'[[keys]]\nid = "a"\nsha256 = "{HASH}"\nscopes = ["*"]', "unknown field `keys`"),
        (f'[[key]]\nid = "a"\nsha256 = "{HASH}"\nscopes = ["x"]', "'x' is no scope"),
        (f'[[key]]\nid = "a"\nsha256 = "{HASH}"\nscopes = ["*"]\n' * 2, "the id a is there twice"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(OperatorError, match=why) as told:
        read_keys(str(path))
    assert str(told.value).startswith(f"router.keys_file: {path}")
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot be read: No such file.*imgateway apikey"):
        read_keys(str(tmp_path / "none"))
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(OperatorError, match="utf-8"):
        read_keys(str(tmp_path / "bytes"))


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_file_may_be_one_that_is_being_written(tmp_path: Path, text: str) -> None:
    (tmp_path / "k").write_text(text)
    with pytest.raises(OperatorError, match=r"k is empty; .* write a comment into it: # nobody"):
        read_keys(str(tmp_path / "k"))
    assert read_keys(str(tmp_path / "k"), may_be_empty=True) == ()
    (tmp_path / "k").write_text("# nobody")
    assert len(Keys(read_keys(str(tmp_path / "k")), lambda: 0.0)) == 0


def test_who_is_admitted() -> None:
    now = [0.0]
    text, key = make_key("a", ["read"], rate=1, burst=2)
    keys = Keys([key], lambda: now[0])
    assert keys.knows(text)
    for stranger in ("", "a", "a.", text[:-1], text + "x", "b" + text[1:], "a.é", "a.\udc80"):
        assert not keys.knows(stranger)
        with pytest.raises(Problem, match="API key"):
            keys.admit(stranger, "read")
    assert keys.admit(text, "read") == ("a", frozenset({"read"}))
    with pytest.raises(Problem, match="has not the scope push"):
        keys.admit(text, "push")
    keys.admit(text, "read")
    with pytest.raises(Problem) as told:
        keys.admit(text, "read")
    assert (told.value.kind, told.value.retry_after_s) == ("too-many", 1.0)
    now[0] = 1.0
    keys.admit(text, "read")


def test_an_empty_text_is_no_key_even_of_an_empty_hash() -> None:
    keys = Keys([Key("", hashlib.sha256(b"").hexdigest(), ("*",))], lambda: 0.0)
    with pytest.raises(Problem, match="there is no API key"):
        keys.admit("", "read")


def test_reading_the_file_again_refills_nothing() -> None:
    text, key = make_key("a", ["*"], rate=1, burst=1)
    gone, other = make_key("b", ["*"])
    keys = Keys([key, other], lambda: 0.0)
    assert keys.admit(text, "drain")[1] == frozenset(SCOPES)
    keys.replace([Key("a", key.sha256, ("push",), 1, 5)])
    assert not keys.knows(gone)
    with pytest.raises(Problem, match="1 requests a second, 5 at once"):
        keys.admit(text, "push")
    with pytest.raises(Problem, match="scope drain"):
        keys.admit(text, "drain")
