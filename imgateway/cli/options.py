"""What several commands take: directories, durations, and the errors of rooms below as click's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

__all__ = (
    "DURATION",
    "Decorator",
    "POSITIVE",
    "addresses",
    "config_option",
    "data_dir_option",
    "refusals",
    "same_everywhere",
)

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
MAX_DURATION_S = 315_360_000  # ten years: what is longer is a slip of the keyboard

POSITIVE = click.FloatRange(min=0, min_open=True, max=1e9)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Duration(click.ParamType[float]):
    """``90``, ``30s``, ``15m``, ``1h30m``, ``7d``: seconds as a float, above 0."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().lower()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        elif re.fullmatch(f"({_PART.pattern})+", text):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        else:
            self.fail(f"{value!r} is no duration; write 90s, 15m, 1h30m or 7d", param, ctx)
        if not 0 < seconds <= MAX_DURATION_S:
            self.fail(f"{value!r} is out of range; it must be above 0 and at most 3650d", param, ctx)
        return seconds


DURATION = Duration()


data_dir_option: Decorator = click.option(
    "--data-dir",
    metavar="DIR",
    default=None,
    help="The node's data directory.  [default: ./data, or what --config says]",
)
same_everywhere: Decorator = click.option(
    "--data-dir", expose_value=False, hidden=True, help="Taken, because every command takes it; not needed."
)
config_option: Decorator = click.option(
    "--config",
    metavar="FILE",
    default=None,
    help="The node's configuration file, for its data directory and its token settings.",
)


@contextmanager
def refusals() -> Iterator[None]:
    """What the gateway's rooms raise on purpose ends the command with one line."""
    from imgateway.errors import GatewayError

    try:
        yield
    except GatewayError as error:
        raise click.ClickException(str(error)) from None


def addresses(text: str) -> tuple[str, ...]:
    """``user:a,user:b`` → both, checked. A comma inside an id stays if no kind follows it."""
    from imgateway.errors import InvalidAddress
    from imgateway.frames import KINDS, address_text, parse_address

    comma = re.compile(",(?=(?:" + "|".join(sorted(KINDS - {"all"})) + "):|all(?:,|$))")
    try:
        return tuple(address_text(parse_address(part)) for part in comma.split(text))
    except InvalidAddress as error:
        raise click.UsageError(f"{text!r}: {error}") from None
