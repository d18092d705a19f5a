"""Logs: one line per event, as JSON for programs or as text for people.

What happened is a fixed text, everything that varies is a field: ``log.info("link closed", code=…)``; where
the text has places for fields, ``"login refused: {reason}"``, JSON has it as it stands here, and beside it
the message with the values. So nothing that a client wrote becomes part of what is searched for, or of a
line's structure; in both forms control characters, line separators and lone surrogates are escaped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import IO, Any

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    formatEvent,
)
from zope.interface import implementer

from imgateway.config import LogSettings

__all__ = ("json_line", "observer", "text_line")

MAX_FIELD_CHARS = 1000
MAX_TEXT_CHARS = 4000

# What twisted.python.log puts into its events, and into ours when one of its observers saw them first.
_LEGACY = frozenset({"time", "system", "message", "isError", "failure", "why", "format", "printed"})
_RESERVED = frozenset({"time", "level", "namespace", "event", "message", "error", "traceback"})


def observer(settings: LogSettings, out: IO[str]) -> ILogObserver:
    """An observer that writes a line per event, as the settings say.

    For twistd: ``application.setComponent(ILogObserver, observer(settings.log, sys.stdout))``, before it
    begins to log: from then on ``sys.stdout`` itself leads into the log.

    What Twisted tells of its own doings, and programs through its old ``twisted.python.log``, is left out
    below warn, unless the level is debug.
    """
    lines = _Lines(json_line if settings.format == "json" else text_line, out)
    level = LogLevel.levelWithName(settings.level)
    predicates: list[Any] = [LogLevelFilterPredicate(defaultLogLevel=level)]
    if level > LogLevel.debug:
        predicates.append(_without_chatter)
    return FilteringLogObserver(lines, predicates)


def _without_chatter(event: LogEvent) -> Any:
    namespace = _namespace(event)
    chatter = namespace == "log_legacy" or namespace.startswith("twisted.")
    return PredicateResult.no if chatter and event["log_level"] < LogLevel.warn else PredicateResult.maybe


@implementer(ILogObserver)
class _Lines:
    def __init__(self, line: Any, out: IO[str]) -> None:
        self._line = line
        self._out = out

    def __call__(self, event: LogEvent) -> None:
        try:
            # One write: lines of two threads do not mix.
            self._out.write(self._line(event) + "\n")
            self._out.flush()
        except (OSError, ValueError):
            pass  # a full disk or a closed pipe must not become the next event


def json_line(event: LogEvent) -> str:
    """One JSON object in ASCII: time (ISO 8601, UTC), level, namespace, event, message, fields, error,
    traceback."""
    message = _message(event)
    line = {
        "time": _time(event),
        "level": _level(event),
        "namespace": _namespace(event),
        "event": _event(event, message),
    }
    if line["event"] != message:
        line["message"] = message
    for name, value in _fields(event):
        line[f"field_{name}" if name in _RESERVED else name] = _value(value)
    if "log_failure" in event:
        line["error"], line["traceback"] = _error(event), _traceback(event)
    return json.dumps(line, allow_nan=False)


def text_line(event: LogEvent) -> str:
    """``time level [namespace] message name=value …``; a traceback's lines follow, after ``  | ``."""
    parts = [_time(event), f"{_level(event):5}", f"[{_namespace(event)}]", _printable(_message(event))]
    for name, value in _fields(event):
        shown = _value(value)
        plain = isinstance(shown, str) and shown and shown.isprintable() and not set(shown) & set(' "=')
        parts.append(f"{_printable(name)}={shown if plain else json.dumps(shown)}")
    if "log_failure" in event:
        parts.append(f"error={json.dumps(_error(event))}")
        parts += [f"\n  | {_printable(line)}" for line in _traceback(event).split("\n")]
    return " ".join(parts)


def _time(event: LogEvent) -> str:
    time = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03}Z"


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return level.name if level is not None else "info"


def _namespace(event: LogEvent) -> str:
    return str(event.get("log_namespace", "-"))


def _message(event: LogEvent) -> str:
    return _cut(formatEvent(event), MAX_TEXT_CHARS)


def _event(event: LogEvent, message: str) -> str:
    """What happened, without what varies. Through twisted.python.log comes whole text only."""
    text = event.get("log_format")
    return _cut(text, MAX_TEXT_CHARS) if isinstance(text, str) and "log_text" not in event else message


def _error(event: LogEvent) -> str:
    failure = event["log_failure"]
    return _cut(f"{failure.type.__name__}: {failure.getErrorMessage()}", MAX_FIELD_CHARS)


def _traceback(event: LogEvent) -> str:
    return str(event["log_failure"].getTraceback()).rstrip("\n")


def _fields(event: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    left_out = _LEGACY if "isError" in event else ()
    for name, value in event.items():
        if not name.startswith("log_") and name not in left_out:
            yield name, value


def _value(value: Any) -> Any:
    """What JSON can say, shortened; of a code its name, as metrics have it."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        value = value[:MAX_FIELD_CHARS].decode("utf-8", "backslashreplace")
    if not isinstance(value, str):
        try:
            value = repr(value)
        except Exception as error:
            value = f"(a {type(value).__name__} whose repr raises {type(error).__name__})"
    return _cut(value, MAX_FIELD_CHARS)


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
