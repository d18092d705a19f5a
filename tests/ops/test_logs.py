"""Log lines: always one line, always readable back, whatever a client sent."""

from __future__ import annotations

import ast
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LegacyLogObserverWrapper, LogEvent, Logger, LogLevel, LogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

import imgateway
from imgateway.config import LogSettings
from imgateway.errors import CloseCode
from imgateway.ops.logs import json_line, observer, text_line

HOSTILE = 'x"}\n{"level": "critical"}\r\x00\x1b[31m\u2028\u202e\ud800'


def event(text: str = "link closed", **fields: Any) -> LogEvent:
    base = {
        "log_time": 1_800_000_000.1234,
        "log_level": LogLevel.info,
        "log_namespace": "imgateway.node.link",
    }
    return {**base, "log_format": text, **fields}


def failure(error: BaseException) -> Failure:
    try:
        raise error
    except BaseException:
        return Failure()


def test_a_json_line_has_time_level_namespace_event_and_fields() -> None:
    line = json_line(event(session="alice/phone", code=200, trace="ab12", peer="127.0.0.1:1", log_system="x"))
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.123Z",
        "level": "info",
        "namespace": "imgateway.node.link",
        "event": "link closed",
        "session": "alice/phone",
        "code": 200,
        "trace": "ab12",
        "peer": "127.0.0.1:1",
    }


def test_a_text_line_is_for_people() -> None:
    line = text_line(event(session="alice/phone", code=200, why="two words", empty="", eq="a=b"))
    assert line == (
        "2027-01-15T08:00:00.123Z info  [imgateway.node.link] link closed "
        'session=alice/phone code=200 why="two words" empty="" eq="a=b"'
    )


def test_the_event_of_a_json_line_is_the_same_whatever_varies() -> None:
    for reason in ("the token is not valid", "{code}", HOSTILE):
        line = json.loads(
            json_line(event("login refused: {reason}", reason=reason, code=CloseCode.BAD_TOKEN))
        )
        assert line["event"] == "login refused: {reason}"
        assert line["message"] == f"login refused: {reason}"
        assert line["code"] == "BAD_TOKEN"


def test_an_event_in_which_nothing_varies_is_its_own_message() -> None:
    line = json.loads(json_line(event(message="a field")))
    assert (line["event"], "message" in line, line["field_message"]) == ("link closed", False, "a field")


def test_a_text_line_has_the_values_and_the_names_of_codes() -> None:
    line = text_line(event("login refused: {reason}", reason="no", code=CloseCode.BAD_TOKEN))
    assert line.endswith("] login refused: no reason=no code=BAD_TOKEN")


def logged() -> list[tuple[str, ast.expr]]:
    """What stands first in each line that the gateway logs."""
    found = []
    for path in sorted(Path(imgateway.__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr in ("debug", "info", "warn", "error", "failure", "critical")
                and ast.unparse(call.func.value).rpartition(".")[2] in ("log", "_log")
            ):
                found.append((f"{path.name}:{call.lineno}", call.args[0]))
    return found


def test_all_events_of_the_gateway_are_fixed_texts_with_words_in_them() -> None:
    lines = logged()
    assert len(lines) > 50
    for where, first in lines:
        texts = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
        for text in texts:
            assert isinstance(text, ast.Constant), f"{where}: {ast.unparse(first)}"
            said = re.sub(r"{[^}]*}", "", text.value)
            assert len(re.findall(r"\w+", said)) >= 1, f"{where}: nothing to search for"


@pytest.mark.parametrize("line", [json_line, text_line])
def test_what_a_client_sent_stays_in_its_field(line: Any) -> None:
    for one in (event(peer=HOSTILE), event("said {peer}", peer=HOSTILE), event(**{HOSTILE: 1})):
        text = line(one)
        assert len(text.splitlines()) == 1
        assert text.isprintable()
        text.encode()


@given(st.text(), st.text())
def test_any_field_survives_json(name: str, value: str) -> None:
    shown = json.loads(json_line(event(**{f"f{name}": value})))
    assert shown[f"f{name}"] == value


def test_the_lines_own_fields_cannot_be_taken() -> None:
    line = json.loads(json_line(event(level="critical", event="login", error="none")))
    assert (line["level"], line["event"]) == ("info", "link closed")
    assert (line["field_level"], line["field_event"], line["field_error"]) == ("critical", "login", "none")


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (b"ab\xff", "ab\\xff"),
        ((1, 2), "(1, 2)"),
        (Broken(), "(a Broken whose repr raises RuntimeError)"),
        ("x" * 5000, "x" * 999 + "…"),
        (b"x" * 5_000_000, "x" * 1000),
        (2**70, 2**70),
        (CloseCode.BAD_TOKEN, "BAD_TOKEN"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_is_shown(value: Any, shown: Any) -> None:
    assert json.loads(json_line(event(value=value)))["value"] == shown
    text_line(event(value=value))


def test_a_failure_comes_with_its_traceback() -> None:
    one = event("it broke", log_failure=failure(ValueError(f"bad {HOSTILE}")))
    line = json.loads(json_line(one))
    assert line["error"].startswith("ValueError: bad x")
    assert "in failure" in line["traceback"]
    text = text_line(one).split("\n")
    assert 'error="ValueError: bad' in text[0]
    assert len(text) > 2
    assert all(more.startswith("  | ") and more.isprintable() for more in text[1:])


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_a_failure_that_cannot_be_shown_is_still_logged() -> None:
    line = json.loads(json_line(event("it broke", log_failure=failure(Speechless()))))
    assert line["event"] == "it broke"
    assert line["error"].startswith("Speechless")
    assert line["traceback"]


def test_an_event_without_anything_is_a_line() -> None:
    line = json.loads(json_line({}))
    assert (line["level"], line["namespace"], line["event"]) == ("info", "-", "")
    assert line["time"] == "1970-01-01T00:00:00.000Z"


def lines(settings: LogSettings) -> tuple[Logger, io.StringIO]:
    out = io.StringIO()
    return Logger("test", observer=LogPublisher(observer(settings, out))), out


def test_it_is_what_twistd_looks_for() -> None:
    verifyObject(ILogObserver, observer(LogSettings(), io.StringIO()))


@pytest.mark.parametrize("level", ["debug", "info", "warn", "error"])
def test_what_is_less_severe_is_left_out(level: Any) -> None:
    log, out = lines(LogSettings(level=level))
    for name in ("debug", "info", "warn", "error", "critical"):
        log.emit(LogLevel.levelWithName(name), "happened")
    names = [json.loads(line)["level"] for line in out.getvalue().splitlines()]
    order = ["debug", "info", "warn", "error", "critical"]
    assert names == order[order.index(level) :]


def test_the_format_is_chosen_by_the_settings() -> None:
    log, out = lines(LogSettings(format="text"))
    log.info("started", port=7901)
    assert out.getvalue().endswith("info  [test] started port=7901\n")


@pytest.mark.parametrize("namespace", ["twisted.internet.base.ReactorBase", "log_legacy"])
def test_chatter_is_for_debugging(namespace: str) -> None:
    """Not what goes wrong, nor what we or other packages say."""
    for level, expected in (("info", ["warn", "error", "critical"]), ("debug", ["info"])):
        out = io.StringIO()
        log = Logger(namespace, observer=LogPublisher(observer(LogSettings(level=level), out)))  # type: ignore[arg-type]
        log.info("Received SIGTERM, shutting down.")
        if level == "info":
            log.warn("w")
            log.error("e")
            log.failure("f", failure(ValueError()))
        assert [json.loads(line)["level"] for line in out.getvalue().splitlines()] == expected
    log, out = lines(LogSettings())
    Logger("twistedly.named", observer=log.observer).info("heard")
    assert "heard" in out.getvalue()


def test_old_style_events_are_lines_too() -> None:
    out = io.StringIO()
    publisher = legacy.LogPublisher(publishPublisher=LogPublisher(observer(LogSettings(level="debug"), out)))
    publisher.msg("old news", system="somewhere", answer=42)
    line = json.loads(out.getvalue())
    assert (line["event"], line["answer"]) == ("old news", 42)
    assert not {"isError", "message", "system"} & line.keys()


def test_what_an_old_observer_added_is_left_out() -> None:
    one, old = event(session="a"), LegacyLogObserverWrapper(lambda seen: None)
    old(one)
    assert "isError" in one
    assert json_line(one) == json_line(event(session="a"))


def test_a_closed_or_full_output_breaks_nothing() -> None:
    log, out = lines(LogSettings())
    out.close()
    log.info("lost")

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    observer(LogSettings(), Full())(event())
