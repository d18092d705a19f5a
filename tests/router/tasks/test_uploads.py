from __future__ import annotations

from io import BytesIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.frames import parse_address
from imgateway.router.tasks.orders import Own, publish_id
from imgateway.router.tasks.uploads import MAX_LINE_BYTES, Bad, Receiver, lines_of, next_line


def ndjson(data: bytes, first: int = 1) -> list[Receiver | Bad]:
    return list(lines_of(BytesIO(data), "application/x-ndjson", 100, first))


def csv(data: bytes) -> list[Receiver | Bad]:
    return list(lines_of(BytesIO(data), "text/csv", 100))


def test_a_line_is_a_user_or_an_address() -> None:
    data = b'\xef\xbb\xbf{"user":"a/b"}\r\n\n  \n{"to":"room:7"}\n{"to":"all"}\n{"to":"device:1/x"}'
    assert ndjson(data) == [
        Receiver(1, "user:a%2Fb", None),
        Receiver(4, "room:7", None),
        Receiver(5, "all", None),
        Receiver(6, "device:1/x", None),
    ]


def test_a_line_may_say_something_else_than_its_task() -> None:
    data = (
        b'{"user":"1","text":"h\xc3\xa9","headers":{"a":"b"},"ttl_s":5}\n'
        b'{"user":"2","json":{"x": 1}}\n'
        b'{"user":"3","body":"aGk=","content_type":"x/y"}\n{"user":"4","ttl_s":0}'
    )
    own = [msgspec.json.decode(str(one.own), type=Own) for one in ndjson(data) if isinstance(one, Receiver)]
    assert own == [
        Own("hé".encode(), "text/plain; charset=utf-8", (("a", "b"),), 5),
        Own(b'{"x": 1}', "application/json"),
        Own(b"hi", "x/y"),
        Own(ttl_s=0),
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"user":"1","usr":2}', "unknown field `usr`"),
        (b'{"user":1}', "Expected `str`"),
        (b"{}", "names one of user and to"),
        (b'{"user":"1","to":"user:1"}', "names one of user and to"),
        (b'{"user":"%s"}' % (b"x" * 65), "1 to 64 bytes"),
        (b'{"user":"a\\u0000"}', "control characters"),
        (b'{"user":"\\ud800"}', ""),
        (b'{"to":"usr:1"}', "KIND:ID"),
        (b'{"to":"node:1"}', "nodes take no messages"),
        (b'{"user":"1","text":"a","body":""}', "one of body, text and json"),
        (b'{"user":"1","content_type":"a"}', "content_type without"),
        (b'{"user":"1","text":"%s"}' % (b"x" * 101), "101 bytes; the most are 100"),
        (b'{"user":"1","ttl_s":-1}', ">= 0"),
        (b'{"user":"\xff"}', "is not UTF-8"),
        (b'{"user":"%s"}' % (b"x" * MAX_LINE_BYTES), "longer than 1,048,576 bytes"),
    ],
)
def test_a_bad_line_costs_only_itself(line: bytes, why: str) -> None:
    before, bad, after = ndjson(b'{"user":"a"}\n' + line + b'\n{"user":"b"}\n', first=5)
    assert (before, after) == (Receiver(5, "user:a", None), Receiver(7, "user:b", None))
    assert isinstance(bad, Bad)
    assert bad.line == 6
    assert why in bad.error


def test_a_csv_names_its_columns() -> None:
    assert csv(b"\xef\xbb\xbfuser\r\n1\r\n\r\nb/c\r\n") == [
        Receiver(2, "user:1", None),
        Receiver(4, "user:b%2Fc", None),
    ]
    rows = csv(b'To, Text ,ttl_s\n"room:1","a, ""b""\nc",7\nuser:2,,\n\nuser:3,x,y\nuser:4,x\n')
    assert isinstance(rows[0], Receiver)
    assert (rows[0].line, rows[0].address) == (2, "room:1")
    assert msgspec.json.decode(str(rows[0].own), type=Own) == Own(
        b'a, "b"\nc', "text/plain; charset=utf-8", None, 7
    )
    assert rows[1] == Receiver(4, "user:2", None)
    assert rows[2:] == [
        Bad(6, "Expected `int | null`, got `str` - at `$.ttl_s`", 6),
        Bad(7, "has 2 values, not 3", 7),
    ]


@pytest.mark.parametrize("line", [b"\xff\xfe", b"x" * MAX_LINE_BYTES, b'"' + b"x" * 140_000 + b'"', b"\x01"])
def test_a_bad_row_costs_only_itself(line: bytes) -> None:
    before, bad, after = csv(b"user\na\n" + line + b"\nb\n")
    assert (before, after) == (Receiver(2, "user:a", None), Receiver(4, "user:b", None))
    assert isinstance(bad, Bad)
    assert bad.line == 3


@pytest.mark.parametrize("head", [b"", b"\n", b"name\n1\n", b"user,user\n", b"text\nhi\n", b"user,colour\n"])
def test_a_csv_that_does_not_name_them_is_refused_as_a_whole(head: bytes) -> None:
    with pytest.raises(ValueError, match="the first line of a CSV names its columns: user or to"):
        csv(head)


@pytest.mark.parametrize("head", [b"\xff\n", b"user,\xfc\n"])
def test_a_csv_in_another_encoding_is_refused_as_a_whole(head: bytes) -> None:
    with pytest.raises(ValueError, match="the first line of a CSV is not UTF-8"):
        csv(head)


def test_lines_are_read_in_bounded_pieces() -> None:
    assert next_line(BytesIO(b"a" * (MAX_LINE_BYTES - 1) + b"\n")) == b"a" * (MAX_LINE_BYTES - 1) + b"\n"
    file = BytesIO(b"a" * (3 * MAX_LINE_BYTES) + b"\nb\n")
    assert next_line(file) == b'"\xff"\n'
    assert next_line(file) == b"b\n"
    file = BytesIO(b"a" * (2 * MAX_LINE_BYTES))
    assert [next_line(file), next_line(file)] == [b'"\xff"\n', b""]


@given(st.binary(max_size=200), st.sampled_from(["application/jsonl", "text/csv"]))
def test_whatever_comes_is_a_receiver_or_a_bad_line(data: bytes, kind: str) -> None:
    head = b"user,text\n" if kind == "text/csv" else b""
    last = 0
    for one in lines_of(BytesIO(head + data), kind, 100):
        assert one.line > last
        last = one.line
        if isinstance(one, Receiver):
            parse_address(one.address)


def test_ids_are_made_from_the_task_the_line_and_the_attempt() -> None:
    assert publish_id("t", None, 0) == "t"
    assert publish_id("t", 7, 0) == "t·7"
    assert publish_id("t", 7, 2) == "t·7·r2"
    assert publish_id("t", 7, 2, ".") == "t.7.r2"
    long = [publish_id("x" * 64, n, attempt) for n in (1, 2) for attempt in (0, 1)]
    assert len({*long, publish_id("x" * 64, None, 1)}) == 5
    assert {len(one) for one in long} == {64}
    assert publish_id("x" * 64, None, 0) == "x" * 64
