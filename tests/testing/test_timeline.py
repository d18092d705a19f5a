"""Scripts of what happens to a line."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.testing import timeline
from imgateway.testing.conditions import BothWays, LinkConditions, changed
from imgateway.testing.timeline import Step, Timeline, parse_script

SCRIPT = """
# a train
at 10s  delay 200ms~150ms rate 128kbit   # leaving town
at 30s  silent
at 42s  heal rebind
at 60s  loss 20%/5% silent down
at 5s   loss 1%
"""


def test_what_a_line_is_like_at_any_time() -> None:
    start = changed(BothWays(), "duplicate", "2%")
    line = Timeline(start, parse_script(SCRIPT))
    assert line.at(0) == line.at(4.9) == start
    assert line.at(5).up == LinkConditions(duplicate=0.02, loss=0.01)
    slow = LinkConditions(duplicate=0.02, loss=0.01, delay_s=0.2, jitter_s=0.15, rate_bits_per_s=128_000)
    assert line.at(10) == line.at(29) == (slow, slow)
    assert line.at(30).up.silent
    assert line.at(30).down.silent
    assert line.at(42) == line.at(59) == start
    up, down = line.at(1_000)
    assert (up.loss, up.silent, down.loss, down.silent) == (0.2, False, 0.05, True)


def test_silence_of_one_way_does_not_end_that_of_the_other() -> None:
    line = Timeline(steps=parse_script("at 1s silent up\nat 2s silent down"))
    assert [conditions.silent for conditions in line.at(1)] == [True, False]
    assert [conditions.silent for conditions in line.at(2)] == [True, True]


def test_what_happens_and_when_next() -> None:
    line = Timeline(steps=parse_script("at 0s rebind\nat 2s cut loss 5%\nat 2s rebind\nat 3s cut"))
    assert line.between(-1, 0) == ["rebind"]
    assert line.between(0, 2) == ["cut", "rebind"]
    assert line.between(2, 9) == ["cut"]
    assert [line.next(after) for after in (-1, 0, 2, 3)] == [0, 2, 3, None]
    assert Timeline().next(0) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loss 5%", "line 1: a line is: at TIME WHAT"),
        ("\nat 5s", "line 2: a line is"),
        ("at five loss 5%", "line 1: 'five' is no time"),
        ("at 5s loss", "line 1: loss lacks its value"),
        ("at 5s loss 5", "line 1: loss '5': '5' is no share"),
        ("at 5s explode", "there is no 'explode'; there are loss, "),
        ("at 5s silent loss", "loss lacks its value"),
    ],
)
def test_what_is_wrong_names_its_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_script(text)


def test_streams_and_datagrams_have_words_of_their_own() -> None:
    for text in ("at 1s loss 5%", "at 1s rebind"):
        assert parse_script(text) == parse_script(text, streams=False)
        with pytest.raises(ValueError, match="is for udp"):
            parse_script(text, streams=True)
    for text in ("at 1s chunk 1", "at 1s cut"):
        assert parse_script(text) == parse_script(text, streams=True)
        with pytest.raises(ValueError, match="is for tcp"):
            parse_script(text, streams=False)
    for streams in (True, False):
        assert len(parse_script("at 1s silent rate 1Mbit heal", streams)) == 3


def test_a_timeline_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="order of time"):
        Timeline(steps=(Step(2.0, "cut"), Step(1.0, "cut")))
    with pytest.raises(ValueError, match="there is no 'bang'"):
        Timeline(steps=(Step(2.0, "bang"),))


def test_the_example_of_the_module() -> None:
    assert timeline.__doc__ is not None
    example = timeline.__doc__.partition("::\n")[2].partition("Each line")[0]
    steps = parse_script(example)
    assert [step.word for step in steps] == ["delay", "rate", "silent", "heal", "rebind", "loss"]


@given(st.text(alphabet="at 0159sloudrebinc%#\n", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        Timeline(steps=parse_script(text))
