"""Room classes: the one grammar, and which class a room has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.core import roomclass
from imgateway.core.ring import RingLimits
from imgateway.core.roomclass import RoomClass, RoomClasses, limits_of, parse_class
from imgateway.errors import ConfigError
from tests.tables import rows


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("*:", RoomClass()),
        (
            "live-*: entries=500 bytes=4MB age=10m tick=50ms notify_above=5000",
            RoomClass("live-*", 500, 4 << 20, 600.0, 0.05, 5000),
        ),
        ("a:b: age=2h", RoomClass("a:b", age_s=7200.0)),
        (" my room :  tick=0ms   bytes=1GB ", RoomClass("my room", bytes=1 << 30, tick_s=0.0)),
        ("x: age=7d tick=10s entries=1000000 bytes=1B", RoomClass("x", 1_000_000, 1, 604_800.0, 10.0)),
        ("x: age=90s bytes=512KB", RoomClass("x", age_s=90.0, bytes=512 << 10)),
    ],
)
def test_a_class(text: str, found: RoomClass) -> None:
    assert parse_class(text) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("live", "PATTERN: KEY=VALUE"),
        (": age=1m", "PATTERN: KEY=VALUE"),
        ("", "PATTERN: KEY=VALUE"),
        ("x: size=3", "entries, bytes, age, tick, notify_above"),
        ("x: entries", "entries, bytes, age, tick, notify_above"),
        ("x: entries=0", "entries in 'x: entries=0' must be 1 to 1,000,000"),
        ("x: entries=1000001", "1 to 1,000,000"),
        ("x: entries=5k", "1 to 1,000,000"),
        ("x: entries=-5", "1 to 1,000,000"),
        ("x: entries=5 entries=6", "such as 500, once"),
        ("x: bytes=4", "1B to 1GB"),
        ("x: bytes=2GB", "1B to 1GB"),
        ("x: bytes=4 MB", "1B to 1GB"),
        ("x: age=10", "1s to 7d"),
        ("x: age=0s", "1s to 7d"),
        ("x: age=8d", "1s to 7d"),
        ("x: age=1.5h", "1s to 7d"),
        ("x: tick=11s", "0ms to 10s"),
        ("x: tick=50", "0ms to 10s"),
        ("x: notify_above=" + "9" * 30, "0 to 1,000,000,000"),
        ("x: notify_above=٣", "0 to 1,000,000,000"),
    ],
)
def test_a_wrong_class_is_told_with_what_is_allowed(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RoomClasses([text])
    said = str(caught.value)
    assert said.startswith("rooms.classes: ")
    assert words in said
    assert "\n" not in said


@given(st.text())
def test_any_text_is_a_class_or_a_line_that_names_the_setting(text: str) -> None:
    said = ""
    try:
        assert parse_class(text).pattern
    except ConfigError as problem:
        said = str(problem)
    assert not said or (said.startswith("rooms.classes: ") and len(said) < 400)


def test_the_first_that_fits_counts() -> None:
    classes = RoomClasses(["live-1: entries=1", "live-[ab]?: entries=2", "live-*: entries=3"])
    assert [classes.of(room).entries for room in ("live-1", "live-a7", "live-ab7", "Live-1", "")] == [
        1, 2, 3, 200, 200,
    ]  # fmt: skip
    assert RoomClasses(["games.*: entries=9"]).of("gamesx").entries == 200
    assert RoomClasses(["*: entries=7"]).of("").entries == 7
    assert RoomClasses(["a*: entries=7"]).of("a\u2028b\x85c").entries == 7
    assert RoomClasses().of("x") == RoomClass()


@pytest.mark.parametrize(
    "texts", [["*: entries=1", "a: entries=2"], ["a: age=1m", "b: age=1m", "a: age=2m"], ["*:", "*:"]]
)
def test_a_class_that_is_never_used_is_told(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^rooms.classes: .* is never used"):
        RoomClasses(texts)


def test_lane_1_has_limits_of_its_own() -> None:
    kind = parse_class("x: entries=5 bytes=2MB age=1m")
    assert limits_of(kind, 0) == RingLimits(5, 2 << 20, 60.0)
    assert limits_of(kind, 1) == RingLimits(200, 2 << 20, 3600.0)


def test_the_docstring_tells_the_keys_and_their_defaults() -> None:
    table = {name.strip("`"): default for name, _, default in rows(roomclass.__doc__) if name}
    assert list(table) == list(roomclass._KEYS)
    for name, default in table.items():
        key = roomclass._KEYS[name]
        assert parse_class(f"*: {name}={default.rstrip(';')}") == RoomClass(), key
