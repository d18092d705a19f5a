"""What a figure says of its runs, and that it comes back from JSON as it was."""

from __future__ import annotations

import os
import platform
import sysconfig

import msgspec
import pytest
from msgspec.structs import replace

from bench.figures import Figure, Result, build_of, machine, shown, spread, store, values, version_of
from tests.bench.results import FAILED, MEMORY, RATIO, RESULT, VALUE


def figure(*ours: float, **more: object) -> Figure:
    plain = {"scene": "s", "what": "w", "unit": "ms", "ours": ours, **more}
    return msgspec.convert(plain, Figure)


def test_medians_of_odd_and_even_runs() -> None:
    assert figure(3, 1, 2).value == 2
    assert figure(3, 1, 2, 10).value == 2.5
    assert figure().value is None


def test_the_ratio_is_that_of_the_medians_and_not_the_median_of_ratios() -> None:
    assert figure(1, 10, 4, against="b", theirs=(2, 1, 8)).ratio == 2
    assert figure(1).ratio is None
    assert figure(1, against="b", theirs=(0,)).ratio is None


def test_the_spread_is_of_all_runs() -> None:
    assert RATIO.spread == (30_000, 36_000)
    assert FAILED.spread is None
    assert spread(RATIO.ours) == "30,000–36,000"
    assert spread(()) == "–"


@pytest.mark.parametrize(
    ("value", "better", "mark"),
    [
        (0.79, "more", "below"),
        (0.8, "more", "asked"),
        (0.99, "more", "asked"),
        (1.0, "more", "stretch"),
        (0.79, "less", "stretch"),
        (0.8, "less", "stretch"),
        (0.9, "less", "asked"),
        (1.01, "less", "below"),
    ],
)
def test_marks(value: float, better: str, mark: str) -> None:
    asked, stretch = (0.8, 1.0) if better == "more" else (1.0, 0.8)
    assert figure(value, better=better, asked=asked, stretch=stretch).mark == mark


def test_a_mark_goes_by_the_ratio_if_there_is_a_baseline_and_the_value_is_not_meant() -> None:
    assert (RATIO.is_ratio, RATIO.judged, RATIO.mark) == (True, 0.55, "asked")
    assert (VALUE.is_ratio, VALUE.judged, VALUE.mark) == (False, 21_000, "stretch")
    assert (MEMORY.is_ratio, MEMORY.mark) == (False, "below")


def test_what_was_not_measured_is_below_and_what_was_not_asked_has_no_mark() -> None:
    assert figure(asked=1.0).mark == "below"
    assert figure(5.0).mark == ""
    assert figure(5.0, asked=1.0).mark == "asked"
    assert figure(asked=1.0, against="b", theirs=(1.0,)).mark == "below"


def test_a_baseline_that_had_no_core_makes_the_ratio_doubtful() -> None:
    for cores, doubtful in ((0.69, True), (0.7, False)):
        details = {**RATIO.details, "their_cores": (0.1, cores, 1.0)}
        assert replace(RATIO, details=details).is_disturbed is doubtful
        assert not replace(RATIO, details=details, by="value").is_disturbed
    assert not RATIO.is_disturbed


def test_the_median_of_a_detail() -> None:
    assert RATIO.detail("p99_ms") == 8
    assert RATIO.detail("nothing") is None


def test_a_result_comes_back_from_json_as_it_was() -> None:
    assert msgspec.json.decode(msgspec.json.encode(RESULT), type=Result) == RESULT


def test_the_machine_is_this_one() -> None:
    here = machine()
    assert here.python == platform.python_version()
    assert here.cores == os.cpu_count()
    assert here.memory_bytes > 1e8
    assert here.kernel == platform.release()
    assert here.build == build_of(sysconfig.get_config_var("CONFIG_ARGS") or "")
    assert here.model
    assert here.versions["Twisted"][0].isdigit()


@pytest.mark.parametrize(
    ("arguments", "build"),
    [
        ("", ""),
        ("'--prefix=/a b' '--enable-shared' 'LDFLAGS=-L/x -Wl,-rpath,/x'", "--enable-shared"),
        ("--enable-optimizations --with-lto=thin --with-dtrace", "--enable-optimizations --with-lto=thin"),
    ],
)
def test_how_python_was_built(arguments: str, build: str) -> None:
    assert build_of(arguments) == build


def test_what_each_run_found() -> None:
    assert values([{"a": 1.0, "b": 2.0}, {"a": 3.0}], "a") == (1.0, 3.0)
    assert values([], "a") == ()


def test_a_result_from_before_the_build_was_told_is_still_read() -> None:
    old = msgspec.json.decode(msgspec.json.encode(RESULT))
    del old["machine"]["build"]
    assert msgspec.convert(old, Result).machine.build == ""


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.servers.shutil.which", lambda program, path: None)
    assert version_of("mosquitto") == ""
    assert version_of("a-package-that-nobody-made") == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.333, "0.33"), (4.0, "4"), (12.345, "12.3"), (99.99, "100.0"), (12_345.6, "12,346")],
)
def test_numbers_are_shown_with_the_digits_that_count(value: float | None, text: str) -> None:
    assert shown(value) == text


def test_brokers_have_names() -> None:
    assert [store(broker) for broker in ("memory:", "embedded:", "redis://host:1")] == [
        "memory",
        "SQLite",
        "Redis",
    ]
