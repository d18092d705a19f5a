"""The one object, read leniently and written always the same; and how bodies stand on a stream."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.errors import BadFrame, FrameTooLarge, ProtocolError
from imgateway.protocols.mobileimsdk.framing import Splitter, length_prefixed
from imgateway.protocols.mobileimsdk.packet import (
    Greeting,
    Packet,
    quoted,
    read_greeting,
    read_packet,
    write_packet,
)


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("{}", Packet(False, 0, None, None, None, None, False, 0)),
        ('{"type":null,"QoS":null,"typeu":null,"bridge":null,"dataContent":null,"fp":null}', Packet()),
        ('{"type":"2","typeu":"-7","QoS":"true","bridge":"True"}', Packet(True, 2, qos=True, typeu=-7)),
        ('{"type":2.0,"QoS":"yes"}', Packet(type=2)),
        ('{"type":"2.0"}', Packet(type=2)),
        ('{"dataContent":5,"from":6,"to":7.5,"fp":true}', Packet(data="5", sender="6", to="7.5", fp="true")),
        ('{"dataContent":false,"type":1}', Packet(type=1, data="false")),
        ('{"unknown":[{"a":[1,2]}],"type":1,"sm":"7"}', Packet(type=1, sm=7)),
        ('  {"type":1,"type":2}\n', Packet(type=2)),
        ('{"dataContent":"\\u003c\\ud83d\\ude00\\u0000"}', Packet(data="<😀\0")),
        ('{"typeu":-2147483648}', Packet(typeu=-(2**31))),
    ],
)
def test_read_leniently(text: str, packet: Packet) -> None:
    assert read_packet(text.encode()) == packet


MALFORMED = [
    b"",
    b" ",
    b"null",
    b"[]",
    b'"text"',
    b"7",
    b"{",
    b'{"type":1}x',
    b"\xff\xfe",
    b'{"type":"two"}',
    b'{"type":2.5}',
    b'{"type":true}',
    b'{"type":[]}',
    b'{"type":"inf"}',
    b'{"type":"nan"}',
    b'{"type":"1_0"}',
    b'{"type":2147483648}',
    b'{"type":"2147483648"}',
    b'{"type":1e999}',
    b'{"QoS":1}',
    b'{"sm":"never"}',
    b'{"sm":9223372036854775808}',
    b'{"bridge":{}}',
    b'{"dataContent":{}}',
    b'{"dataContent":["a"]}',
    b'{"dataContent":"\\ud800"}',
    b'{"dataContent":"\\udc00 and so on and on"}',
    b'{"dataContent":"\xed\xa0\x80"}',
    b'{"from":"\xff"}',
    b'{"x":NaN}',
    b'{"x":' + b"[" * 3000 + b"]" * 3000 + b"}",
    b'{"type":"2","x":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed(body: bytes) -> None:
    with pytest.raises(BadFrame):
        read_packet(body)


def test_greetings() -> None:
    whole = '{"loginUserId":"u","loginToken":"t","extra":{"a":1},"firstLoginTime":12345678901234}'
    assert read_greeting(whole) == Greeting("u", "t", 12345678901234)
    assert read_greeting('{"loginUserId":7,"firstLoginTime":"9"}') == Greeting("7", None, 9)
    assert read_greeting("{}") == Greeting(None, None, 0)
    for text in (None, "", "null", "x", '{"loginUserId":[]}', '{"firstLoginTime":99999999999999999999}'):
        with pytest.raises(BadFrame):
            read_greeting(text)


def test_written() -> None:
    least = write_packet(51, None, quoted("0"), quoted("u"))
    assert least == b'{"bridge":false,"type":51,"from":"0","to":"u","QoS":false,"typeu":-1,"sm":-1}'
    most = write_packet(2, quoted('a"\n'), quoted("你"), quoted("u"), quoted("f"), True, 7, True, 99)
    expected = r'{"bridge":true,"type":2,"dataContent":"a\"\n","from":"你","to":"u","fp":"f"'
    assert most == (expected + ',"QoS":true,"typeu":7,"sm":99}').encode()


texts = st.text(st.characters(codec="utf-8"), max_size=30)


@given(texts, texts, texts, texts, st.booleans(), st.booleans(), st.integers(-(2**31), 2**31 - 1))
def test_what_is_written_is_read(
    data: str, sender: str, to: str, fp: str, qos: bool, bridge: bool, typeu: int
) -> None:
    body = write_packet(2, quoted(data), quoted(sender), quoted(to), quoted(fp), qos, typeu, bridge)
    assert read_packet(body) == Packet(bridge, 2, data, sender, to, fp, qos, typeu, -1)
    assert list(json.loads(body)) == [
        "bridge",
        "type",
        "dataContent",
        "from",
        "to",
        "fp",
        "QoS",
        "typeu",
        "sm",
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=4,
)


@given(
    st.dictionaries(
        st.sampled_from(["bridge", "type", "dataContent", "from", "to", "fp", "QoS", "typeu", "sm", "x"]),
        json_values,
    )
)
def test_any_values_are_read_or_refused(fields: dict[str, object]) -> None:
    try:
        packet = read_packet(json.dumps(fields).encode("utf-8", "surrogatepass"))
    except ProtocolError:
        return
    assert -(2**31) <= packet.type < 2**31
    for text in (packet.data, packet.sender, packet.to, packet.fp):
        assert text is None or text.encode() is not None


# ---------------------------------------------------------------------------------------------------- framing

BODIES = [b"a", b"bc" * 50, b"d" * 6144, b"e"]
STREAM = b"".join(map(length_prefixed, BODIES))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 100, 6000, len(STREAM)])
def test_any_chunks(size: int) -> None:
    splitter = Splitter(6144)
    found: list[bytes] = []
    for at in range(0, len(STREAM), size):
        found += splitter.feed(STREAM[at : at + size])
        assert splitter.held_bytes <= 6144 + 4
    assert found == BODIES
    assert splitter.held_bytes == 0


def test_what_follows_waits() -> None:
    splitter = Splitter(6144)
    assert list(splitter.feed(length_prefixed(b"a") + b"\0\0")) == [b"a"]
    assert splitter.held_bytes == 2
    assert list(splitter.feed(b"\0\2b")) == []
    assert list(splitter.feed(b"c" + length_prefixed(b"d"))) == [b"bc", b"d"]


@pytest.mark.parametrize(
    ("length", "error"),
    [(0, BadFrame), (-1, BadFrame), (-(2**31), BadFrame), (6145, FrameTooLarge), (2**31 - 1, FrameTooLarge)],
)
@pytest.mark.parametrize("chunk", [1, 4, 99])
def test_lengths_that_end_it(length: int, error: type[Exception], chunk: int) -> None:
    splitter = Splitter(6144)
    data = length_prefixed(b"first") + length.to_bytes(4, "big", signed=True)
    found: list[bytes] = []

    def feed() -> None:
        for at in range(0, len(data), chunk):
            for body in splitter.feed(data[at : at + chunk]):
                found.append(body)  # what came before the end counts

    with pytest.raises(error):
        feed()
    assert found == [b"first"]
    with pytest.raises(BadFrame):
        list(splitter.feed(length_prefixed(b"more")))
