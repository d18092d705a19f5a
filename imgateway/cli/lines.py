"""What the commands print: JSON lines for programs, and text that is safe on a terminal for people."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

__all__ = ("as_line", "at_a_terminal", "plain", "tell", "text_of", "write_line")

# Joiners have no picture of their own, but letters and emoji are put together with them.
_HARMLESS = frozenset("\u200c\u200d")


def plain(text: str) -> str:
    """The text with everything escaped that is not printed as itself: control characters, line ends, and
    those that turn the direction of writing around."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _HARMLESS else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    # As JSON does it, which leaves DEL alone.
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


def as_line(fields: Mapping[str, Any]) -> bytes:
    """One JSON object in one line of UTF-8, with its end. No terminal takes a part of it for a command."""
    return plain(json.dumps(fields, ensure_ascii=False)).encode() + b"\n"


def write_line(line: bytes, err: bool = False) -> None:
    """Write and flush; returns when the system has it. :raises OSError: nobody reads there any more."""
    stream = sys.stderr if err else sys.stdout
    if stream is None:  # closed by who started us
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    stream.buffer.write(line)
    stream.buffer.flush()


def text_of(body: bytes) -> str | None:
    """The body as text; None if it is none: not UTF-8, or with a NUL in it."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def at_a_terminal() -> bool:
    """A person reads stderr as it comes."""
    return sys.stderr.isatty()


def tell(text: str) -> None:
    """A remark for people, on stderr."""
    click.echo(plain(text), err=True)
