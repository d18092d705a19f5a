"""Tables for people: plain columns, which grep and awk take as well."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from imgateway.cli.lines import plain

__all__ = ("show", "when")


def show(columns: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
    """Print a head and rows; numbers stand at the right, an empty cell is a dash."""
    cells = [list(columns), *[[_cell(value) for value in row] for row in rows]]
    numbers = [bool(rows) and all(isinstance(row[n], int) for row in rows) for n in range(len(columns))]
    widths = [max(_width(row[n]) for row in cells) for n in range(len(columns))]
    for row in cells:
        line = ""
        for cell, width, number in zip(row, widths, numbers, strict=True):
            blank = " " * (width - _width(cell))
            line += (blank + cell if number else cell + blank) + "  "
        click.echo(line.rstrip())


def when(ms: int) -> str:
    """Unix milliseconds as ``2026-11-21 15:45:17Z``; 0 is the empty text, what is no time of a calendar the
    number itself."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if ms else ""
    except (ValueError, OverflowError, OSError):
        return str(ms)


def _cell(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else plain(value) or "-"


def _width(text: str) -> int:
    """Columns of a terminal: two for what is wide in East Asia, none for what is put over another letter."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
