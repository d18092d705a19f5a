"""Settings from a file and from the command line; what is wrong is told with its dotted path."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

import msgspec

from imgateway.config.checking import check
from imgateway.config.describing import Setting, describe, sections
from imgateway.config.settings import Settings
from imgateway.config.toml import shown
from imgateway.errors import ConfigError

__all__ = ("load",)


def load(path: str | None, sets: Sequence[str] = (), named: Mapping[str, object] | None = None) -> Settings:
    """The settings of a TOML file, then of ``section.key=value`` texts, then of `named`, over the defaults.

    A value in `sets` is written as in TOML; quotes may be left out, and a list of texts may be ``a,b``.

    :param path: None: no file. :param named: dotted path → value: what an option of its own says.
    :raises ConfigError: one line with the dotted path and what is allowed; file, line, column of bad TOML.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for section, values in (_parsed(path) if path is not None else {}).items():
        if section not in sections():
            where = " or ".join(f"[{one.section}]" for one in describe() if one.key == section)
            if where and not isinstance(values, dict):
                raise ConfigError(f"{section}: stands in no section; write it under {where}")
            raise ConfigError(f"{section}: no such section{_nearest(section, sections())}")
        if not isinstance(values, dict):
            raise ConfigError(f"{section}: must be a section, [{section}], not {shown(values)}")
        for key, value in values.items():
            wanted.setdefault(section, {})[key] = _checked(_setting(section, key), value)
    for text in sets:
        setting, value = _override(text)
        wanted.setdefault(setting.section, {})[setting.key] = _checked(setting, value)
    for name, value in (named or {}).items():
        section, _, key = name.partition(".")
        wanted.setdefault(section, {})[key] = _checked(_setting(section, key), value)
    made: dict[str, Any] = {name: sections()[name](**values) for name, values in wanted.items()}
    settings = Settings(**made)
    check(settings)
    return settings


def _parsed(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_error(path, str(error))) from None


def _syntax_error(path: str, text: str) -> str:
    what, _, where = text.partition(" (at ")
    place = re.fullmatch(r"line (\d+), column (\d+)\)", where)
    if place:
        return f"{path}: line {place[1]}, column {place[2]}: {what}"
    with open(path, "rb") as file:
        lines = file.read().decode().split("\n")
    return f"{path}: line {len(lines)}, column {len(lines[-1]) + 1}: {what} at the end of the file"


def _setting(section: str, key: str) -> Setting:
    known = {setting.key: setting for setting in describe() if setting.section == section}
    if not known:
        raise ConfigError(f"{section}.{key}: no such section{_nearest(section, sections())}")
    if key not in known:
        raise ConfigError(f"{section}.{key}: no such setting{_nearest(key, known)}")
    return known[key]


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = get_close_matches(name, known, 1)
    return (f"; did you mean {near[0]}?" if near else ";") + " there are " + ", ".join(known)


def _override(text: str) -> tuple[Setting, Any]:
    path, equals, value = text.partition("=")
    section, dot, key = path.strip().partition(".")
    if not (equals and dot):
        raise ConfigError(f"--set {shown(text)}: must be section.key=value; imgateway genconfig prints all")
    setting, value = _setting(section, key), value.strip()
    plain = get_args(setting.kind)[0]
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    found = parsed["value"] if len(parsed) == 1 else value
    if get_origin(plain) is tuple and not isinstance(found, list):
        found = [part.strip() for part in str(found).split(",") if part.strip()]
    elif (plain is str or get_origin(plain) is Literal) and not isinstance(found, str):
        found = value  # node.name=42 means the text
    return setting, found


def _checked(setting: Setting, value: Any) -> Any:
    try:
        if isinstance(value, float) and not math.isfinite(value):
            raise msgspec.ValidationError
        return msgspec.convert(value, setting.kind)
    except msgspec.ValidationError:
        unit = f" ({setting.unit})" if setting.unit else ""
        raise ConfigError(f"{setting.path}: must be {setting.allowed}{unit}, not {shown(value)}") from None
