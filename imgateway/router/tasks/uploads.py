"""Reading the lines of an upload: NDJSON or CSV, one receiver each, in pieces, however large the file is.

A line that cannot be used costs itself, never the upload: it is told with its number and why.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import IO, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from imgateway.frames import address_text, check_id, parse_address, user_address
from imgateway.router.problems import Problem
from imgateway.router.tasks.orders import Content, Own, Ttl, said

__all__ = ("CSV", "MAX_LINE_BYTES", "NDJSON", "Bad", "Receiver", "lines_of", "next_line")

NDJSON = ("application/x-ndjson", "application/jsonl")
CSV = ("text/csv",)
# The largest body in base64, or in JSON's escapes, with all else that a line may have.
MAX_LINE_BYTES = 1_048_576
_NO_TEXT = f"is not UTF-8, or longer than {MAX_LINE_BYTES:,} bytes"
_TOO_LONG = b'"\xff"\n'  # is no UTF-8, as JSON and as CSV
_BOM = b"\xef\xbb\xbf"


class Receiver(Struct, frozen=True):
    """One good line: the address as text, and the line's own fields as they are kept."""

    line: int
    address: str
    own: str | None


class Bad(Struct, frozen=True):
    """A line that cannot be used."""

    line: Annotated[int, Meta(description="From 1.")]
    error: str
    upto: Annotated[
        int, Meta(description="The last line that is lost with it: in a CSV a quote may join several.")
    ] = 0


class _Line(Content, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A line of NDJSON, or a row of CSV."""

    user: str = ""
    to: str = ""
    ttl_s: Ttl | None = None


_line = msgspec.json.Decoder(_Line)
_COLUMNS = ("user", "to", "text", "content_type", "ttl_s")


def next_line(file: IO[bytes]) -> bytes:
    """One line with its end, b"" at the end of the file; one that is too long becomes one that is bad."""
    line = file.readline(MAX_LINE_BYTES)
    if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
        return line
    while line and not line.endswith(b"\n"):
        line = file.readline(MAX_LINE_BYTES)
    return _TOO_LONG


def lines_of(file: IO[bytes], kind: str, max_body_bytes: int, first: int = 1) -> Iterator[Receiver | Bad]:
    """The lines of an upload from where the file stands; empty ones are passed over.

    :param kind: the content type, one of `NDJSON` or `CSV`.
    :param first: the number of the first line that is read.
    :raises ValueError: the first line of a CSV cannot be read, or does not name its columns.
    """
    for number, upto, found in (_rows if kind in CSV else _objects)(file, first):
        try:
            if isinstance(found, str):
                raise ValueError(found)
            yield Receiver(number, _address(found), _own(found, max_body_bytes))
        except (ValueError, Problem) as error:
            joined = f"; a quote joins it to what follows, up to line {upto}" if upto > number else ""
            yield Bad(number, f"{error}{joined}", upto)


def _objects(file: IO[bytes], number: int) -> Iterator[tuple[int, int, _Line | str]]:
    while line := next_line(file):
        text = line.removeprefix(_BOM).strip()
        if line == _TOO_LONG:
            yield number, number, _NO_TEXT
        elif text:
            try:
                yield number, number, _line.decode(text)
            except UnicodeDecodeError:
                yield number, number, _NO_TEXT
            except msgspec.MsgspecError as error:
                yield number, number, str(error)
            except RecursionError:
                yield number, number, "is nested too deep"
        number += 1


def _rows(file: IO[bytes], number: int) -> Iterator[tuple[int, int, _Line | str]]:
    reader = csv.reader(_texts(file))
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        "".join(columns).encode()
    except csv.Error as error:
        raise ValueError(f"the first line of a CSV: {error}") from None
    except UnicodeEncodeError:
        raise ValueError("the first line of a CSV is not UTF-8") from None
    wrong = [name for name in columns if name not in _COLUMNS]
    if wrong or len(set(columns)) < len(columns) or not {"user", "to"} & set(columns):
        raise ValueError(
            "the first line of a CSV names its columns: user or to, and, where lines differ, text, "
            "content_type, ttl_s; not " + (", ".join(columns)[:100] or "nothing")
        )
    last = number - 1
    while True:
        begins = last + reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield begins, last + reader.line_num, str(error)
            continue
        if row:
            yield begins, last + reader.line_num, _row(columns, row)


def _texts(file: IO[bytes]) -> Iterator[str]:
    """The lines as text; bytes that are none as lone surrogates, which `_row` finds."""
    line = next_line(file).removeprefix(_BOM)
    while line:
        yield line.decode(errors="surrogateescape")
        line = next_line(file)


def _row(columns: list[str], row: list[str]) -> _Line | str:
    if len(row) != len(columns):
        return f"has {len(row)} values, not {len(columns)}"
    values: dict[str, Any] = {name: value for name, value in zip(columns, row, strict=True) if value}
    try:
        "".join(row).encode()
        return msgspec.convert(values, _Line, strict=False)
    except UnicodeEncodeError:
        return _NO_TEXT
    except msgspec.ValidationError as error:
        return str(error)


def _address(line: _Line) -> str:
    if bool(line.user) == bool(line.to):
        raise ValueError("names one of user and to")
    if line.user:
        return address_text(user_address(check_id(line.user)))
    address = parse_address(line.to)
    if address.kind == "node":
        raise ValueError("nodes take no messages")
    return address_text(address)


def _own(line: _Line, max_body_bytes: int) -> str | None:
    """What the line says otherwise than its task; None: nothing."""
    content = said(line)
    if content is None and line.content_type:
        raise ValueError("has a content_type without body, text or json")
    if content is None and not line.headers and line.ttl_s is None:
        return None
    content_type, body = content or ("", None)
    if body is not None and len(body) > max_body_bytes:
        raise ValueError(f"has a body of {len(body):,} bytes; the most are {max_body_bytes:,}")
    own = Own(body, content_type, tuple(line.headers.items()) or None, line.ttl_s)
    return msgspec.json.encode(own).decode()
