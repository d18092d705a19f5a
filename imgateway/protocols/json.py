"""The native wire as JSON text, for browsers and for people: protobuf's canonical JSON of the same Frame.

::

    {"publish": {"msgId": "m1", "to": ["user:bob"], "contentType": "text/plain", "text": "hi"}}

What the canonical form means here: names are lowerCamelCase (those of the .proto file are understood too),
what has its default is left out, 64-bit numbers are strings and enums are names (numbers are understood),
bytes are base64, fields that nobody knows are passed over. And one thing of our own: a body of a content type
text/* that is valid UTF-8 stands as it is in `text`, and `body` is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec.json
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.errors import BadFrame, FrameTooLarge
from imgateway.frames import Frame
from imgateway.interfaces import Carriage, ICodec, IProtocolAdapter, Traits
from imgateway.protocols.plain import PlainCodec
from imgateway.wire import imgateway_pb2 as pb
from imgateway.wire.reading import read_proto
from imgateway.wire.writing import write_proto

MAX_DEPTH = 16

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}").fullmatch
_HALF_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]").search
_FIELDS: dict[str, dict[str, FieldDescriptor]] = {
    message.full_name: {name: field for field in message.fields for name in (field.name, field.json_name)}
    for message in pb.DESCRIPTOR.message_types_by_name.values()
}


@implementer(ICodec)
class JsonCodec(PlainCodec):
    """A frame a text message; holds nothing."""

    wire = "json"

    __slots__ = ("_max",)

    def __init__(self, max_frame_bytes: int) -> None:
        self._max = max_frame_bytes

    def receive(self, data: bytes) -> Iterator[Frame | bytes]:
        return map(self._read, (data,))

    def encode(self, frame: Frame) -> bytes | None:
        try:
            data = _write(frame)
        except (TypeError, ValueError, DecodeError):  # text or a number that no field holds, an odd entry
            return None
        return data if len(data) <= self._max else None

    def _read(self, data: bytes) -> Frame:
        if len(data) > self._max:
            raise FrameTooLarge(f"a frame of {len(data)} bytes; {self._max} are allowed")
        return _read(data)


def _read(data: bytes) -> Frame:
    try:
        _check_depth(data)
        tree = _DECODER.decode(data.decode())
        if _HALF_SURROGATE(data):
            json.dumps(tree, ensure_ascii=False).encode()
        _check_fields(tree, pb.Frame.DESCRIPTOR)
        proto = json_format.ParseDict(tree, pb.Frame(), ignore_unknown_fields=True)
    except UnicodeError:
        raise BadFrame("text must be valid UTF-8 without lone surrogates") from None
    except json.JSONDecodeError as problem:
        raise BadFrame(f"no JSON: {problem.msg} at character {problem.pos}") from None
    except (json_format.ParseError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # Their texts quote what the peer sent.
        raise BadFrame("a field has a value that it cannot have, or there is more than one frame") from None
    if proto.HasField("publish"):
        _text_to_body(proto.publish)
    for entry in proto.deliver.entries:
        _text_to_body(entry.message)
    return read_proto(proto)


def _write(frame: Frame) -> bytes:
    proto = write_proto(frame)
    if proto.HasField("publish"):
        _body_to_text(proto.publish)
    for entry in proto.deliver.entries:
        _body_to_text(entry.message)
    return msgspec.json.encode(json_format.MessageToDict(proto))


def _check_depth(data: bytes) -> None:
    """Before any parser recurses: each round takes the innermost brackets away; what remains is deeper."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    outside_strings = b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    brackets = outside_strings.translate(_AS_SQUARE, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise BadFrame(f"deeper than {MAX_DEPTH} levels, or brackets without a partner")


def _check_fields(tree: Any, kind: Descriptor) -> None:
    """What protobuf's reader lets pass: other characters in base64, names that no enum has, [] for {}."""
    if not isinstance(tree, dict):
        raise BadFrame(f"{kind.name} must be an object")
    known = _FIELDS[kind.full_name]
    for name, value in tree.items():
        field = known.get(name)
        if field is None or value is None:
            continue
        if field.type == FieldDescriptor.TYPE_BYTES:
            if not (isinstance(value, str) and _BASE64(value)):
                raise BadFrame(f"{field.json_name} must be base64")
        elif field.enum_type is not None:
            names = field.enum_type.values_by_name
            if not (value in names or value.isdecimal() if isinstance(value, str) else type(value) is int):
                raise BadFrame(f"{field.json_name} must be one of {', '.join(names)}")
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for inner in value if field.is_repeated and isinstance(value, list) else (value,):
                _check_fields(inner, field.message_type)
    if "text" in known and tree.get("text") is not None and tree.get("body") is not None:
        raise BadFrame("text and body exclude each other")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise BadFrame("the same name twice in an object")
    return fields


def _constant(name: str) -> Any:
    raise BadFrame("NaN and Infinity are no JSON")


# The library's, not msgspec's: that one does not tell of a name that stands twice.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _text_to_body(proto: pb.Publish | pb.Message) -> None:
    """`text` says of itself that it is text: without a content type it is text/plain."""
    if proto.text:
        proto.body = proto.text.encode()
        proto.content_type = proto.content_type or "text/plain"
        proto.ClearField("text")


def _body_to_text(proto: pb.Publish | pb.Message) -> None:
    if proto.body and proto.content_type[:5].lower() == "text/":
        try:
            proto.text = proto.body.decode()
        except UnicodeDecodeError:
            return
        proto.ClearField("body")


@implementer(IPlugin, IProtocolAdapter)
class JsonAdapter:
    """``json``: text messages only, for WebSocket."""

    name = "json"
    # A control character is written \u00XX: six bytes for one.
    carriage = Carriage(
        stream=False,
        text=True,
        subprotocols=("imgateway.v1.json",),
        max_frame_bytes=6 * 1_048_576,
        expansion=6,
    )
    traits = Traits()

    def codec(self, stream: bool, max_frame_bytes: int) -> ICodec:
        if stream:
            raise ValueError("json needs a transport with message borders")
        return JsonCodec(max_frame_bytes)
