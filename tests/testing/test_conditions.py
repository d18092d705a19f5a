"""The texts that people write conditions in."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.testing import conditions
from imgateway.testing.conditions import SETTINGS, BothWays, LinkConditions, changed, seconds


def both(setting: str, text: str) -> BothWays:
    return changed(BothWays(), setting, text)


def one(setting: str, text: str) -> LinkConditions:
    ways = both(setting, text)
    assert ways.up == ways.down
    return ways.up


def test_a_line_as_made_does_nothing() -> None:
    assert BothWays() == (LinkConditions(), LinkConditions())
    assert LinkConditions().loss == LinkConditions().delay_s == LinkConditions().rate_bits_per_s == 0


@pytest.mark.parametrize(
    ("setting", "text", "fields"),
    [
        ("loss", "20%", {"loss": 0.2}),
        ("loss", "0", {"loss": 0.0}),
        ("loss", "off", {}),
        ("duplicate", "0.5 %", {"duplicate": 0.005}),
        ("reorder", "100%", {"reorder": 1.0}),
        ("delay", "80ms", {"delay_s": 0.08}),
        ("delay", "80ms~40ms", {"delay_s": 0.08, "jitter_s": 0.04}),
        ("delay", "1.5s ~ 1s", {"delay_s": 1.5, "jitter_s": 1.0}),
        ("delay", "off", {}),
        ("rate", "64kbit", {"rate_bits_per_s": 64_000.0}),
        ("rate", "2Mbit", {"rate_bits_per_s": 2e6}),
        ("rate", "off", {}),
        ("queue", "250ms", {"queue_s": 0.25}),
        ("chunk", "1", {"chunk_bytes": 1}),
        ("chunk", "1kB", {"chunk_bytes": 1_000}),
        ("chunk", "off", {}),
        ("cut-after", "10kB", {"cut_after_bytes": 10_000}),
        ("cut-after", "10KiB", {"cut_after_bytes": 10_240}),
        ("cut-after", "5s", {"cut_after_s": 5.0}),
        ("cut-after", "2m", {"cut_after_s": 120.0}),
        ("silent-after", "0", {"silent_after_bytes": 0}),
        ("silent-after", "1 MB", {"silent_after_bytes": 1_000_000}),
        ("silent-after", "off", {}),
    ],
)
def test_what_is_written(setting: str, text: str, fields: dict[str, float]) -> None:
    found = one(setting, text)
    assert {name: getattr(found, name) for name in fields} == pytest.approx(fields)
    assert found == LinkConditions(**{name: getattr(found, name) for name in fields})


def test_two_ways() -> None:
    up, down = both("loss", "20%/5%")
    assert (up.loss, down.loss) == (0.2, 0.05)
    up, down = both("rate", "64kbit/off")
    assert (up.rate_bits_per_s, down.rate_bits_per_s) == (64_000, 0)


def test_one_setting_leaves_the_others() -> None:
    ways = changed(both("loss", "20%"), "delay", "1s/2s")
    assert ways.up == LinkConditions(loss=0.2, delay_s=1.0)
    ways = changed(both("cut-after", "5s"), "cut-after", "5kB")
    assert (ways.up.cut_after_s, ways.up.cut_after_bytes) == (None, 5_000)


@pytest.mark.parametrize(
    ("setting", "text", "said"),
    [
        ("loss", "0.2", "'0.2' is no share; write 0% to 100%"),
        ("loss", "101%", "is no share"),
        ("loss", "-1%", "is no share"),
        ("loss", "1%/2%/3%", "one value, or two as UP/DOWN"),
        ("loss", "1%/", "'' is no share"),
        ("delay", "80", "'80' is no time; write 80ms, 1.5s or 2m"),
        ("delay", "1s~2s", "a delay cannot vary by more than itself"),
        ("delay", "2000m", "more than a day"),
        ("delay", "١s", "is no time"),
        ("rate", "64", "write 64kbit, 2Mbit or off"),
        ("rate", "0bit", "is no rate"),
        ("rate", "9999999gbit", "is no rate"),
        ("queue", "off", "is no time"),
        ("chunk", "0", "is no number of bytes"),
        ("chunk", "1.5", "is no number of bytes"),
        ("cut-after", "5x", "neither a size nor a time; write 10kB or 5s"),
        ("cut-after", "0.5B", "is no number of bytes"),
        ("los", "5%", "there is no 'los'; there are loss, duplicate"),
    ],
)
def test_what_is_wrong_is_said(setting: str, text: str, said: str) -> None:
    with pytest.raises(ValueError) as raised:
        both(setting, text)
    assert said in str(raised.value)
    if setting in SETTINGS:
        assert str(raised.value).startswith(f"{setting} {text!r}: ")


@pytest.mark.parametrize(
    "fields",
    [{"loss": 1.1}, {"duplicate": -0.1}, {"delay_s": -1.0}, {"jitter_s": 1.0}, {"chunk_bytes": -1}],
)
def test_values_have_ranges(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        LinkConditions(**fields)  # type: ignore[arg-type]


@given(st.sampled_from([*SETTINGS]), st.text(alphabet="0123456789.~/%skmbitB off-", max_size=12) | st.text())
def test_any_text_is_read_or_refused(setting: str, text: str) -> None:
    with suppress(ValueError):
        assert isinstance(both(setting, text).up, LinkConditions)


@given(st.integers(0, 86_400_000))
def test_times_come_back(ms: int) -> None:
    assert seconds(f"{ms}ms") == pytest.approx(ms / 1_000)


@given(st.integers(0, 1_000), st.integers(0, 1_000))
def test_shares_come_back(up: int, down: int) -> None:
    ways = both("loss", f"{up / 10}%/{down / 10}%")
    assert ways.up.loss == pytest.approx(up / 1_000)
    assert ways.down.loss == pytest.approx(down / 1_000)


def test_the_modules_table_has_every_setting() -> None:
    assert conditions.__doc__ is not None
    table = conditions.__doc__.split("=\n")[2]
    rows = [line.split()[0] for line in table.splitlines() if not line.startswith((" ", "="))]
    assert rows == [*SETTINGS]
    for example in re.findall(r"^([a-z-]+) +((?:``\S+``(?:, )?)+)", table, re.M):
        for text in re.findall(r"``(\S+)``", example[1]):
            one(example[0], text)
