"""Standard input on the real reactor: pipes, files, and descriptors that are gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.internet.interfaces import IReadDescriptor
from zope.interface.verify import verifyObject

from imgateway.cli.stdin import MAX_LINE_BYTES, Lines


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    ends = list(os.pipe())
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


async def all_of(lines: Lines) -> list[bytes]:
    return [line async for line in lines]


def begin(lines: Lines) -> Any:
    return ensureDeferred(lines.__anext__())


def real_reactor() -> Any:
    from twisted.internet import reactor

    return reactor


@pytest_twisted.ensureDeferred
async def test_lines_of_a_pipe(pipe: list[int]) -> None:
    lines = Lines(real_reactor(), pipe[0])
    assert verifyObject(IReadDescriptor, lines)
    assert not lines.interactive
    assert lines.logPrefix() == "stdin"
    first = begin(lines)
    os.write(pipe[1], b"o")
    os.write(pipe[1], b"ne\r\ntwo\n\nfo")
    assert await first == b"one"
    os.close(pipe[1])
    assert await all_of(lines) == [b"two", b"", b"fo"]
    assert await all_of(lines) == []
    assert lines not in real_reactor().getReaders()
    assert os.get_blocking(pipe[0])


@pytest_twisted.ensureDeferred
async def test_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"one\ntwo")
    with (tmp_path / "in").open() as file:
        assert await all_of(Lines(real_reactor(), file.fileno())) == [b"one", b"two"]


@pytest_twisted.ensureDeferred
async def test_nothing_is_read_while_nobody_asks(pipe: list[int]) -> None:
    lines = Lines(real_reactor(), pipe[0])
    waiting = begin(lines)
    assert lines in real_reactor().getReaders()
    os.write(pipe[1], b"one\n")
    assert await waiting == b"one"
    assert lines not in real_reactor().getReaders()
    waiting = begin(lines)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    assert lines not in real_reactor().getReaders()


@pytest_twisted.ensureDeferred
async def test_a_closed_descriptor_has_no_lines(pipe: list[int]) -> None:
    os.close(pipe[0])
    assert await all_of(Lines(real_reactor(), pipe[0])) == []


class Readers:
    """The part of a reactor that is asked."""

    def __init__(self) -> None:
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)


def test_of_a_line_that_is_too_long_the_rest_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(Readers(), 0)
    reads = iter([*[b"x" * 65_536] * 40, b"xyz\nnext\n" + b"x" * 9, *[b"x" * 65_536] * 17, b""])
    monkeypatch.setattr("os.read", lambda descriptor, size: next(reads))
    came = ensureDeferred(all_of(lines))
    while not came.called:
        lines.doRead()
    first, between, last = came.result
    assert (len(first), between, len(last)) == (MAX_LINE_BYTES, b"next", MAX_LINE_BYTES + 9)


def test_errors_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([BlockingIOError(), OSError(5, "I/O error")])

    def read(descriptor: int, size: int) -> bytes:
        raise next(errors)

    monkeypatch.setattr("os.read", read)
    lines = Lines(Readers(), 0)
    ended = ensureDeferred(all_of(lines))
    lines.doRead()
    assert not ended.called
    lines.doRead()
    assert ended.result == []


def test_the_reactor_may_stop_first() -> None:
    lines = Lines(Readers(), 0)
    lines.connectionLost(None)
    assert ensureDeferred(all_of(lines)).result == []
