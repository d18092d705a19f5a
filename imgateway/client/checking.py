"""What an application says, looked at where it is said: what no gateway takes is a ValueError there, and not
the end of the link that carries it, now or, from the outbox's file, in every run to come."""

from __future__ import annotations

from operator import index
from typing import Any

from imgateway.errors import InvalidAddress
from imgateway.frames import (
    MAX_CONTENT_TYPE_BYTES,
    MAX_HEADER_BYTES,
    Address,
    Publish,
    address_text,
    check_id,
    header_bytes,
    parse_address,
)

__all__ = ("MAX_NUMBER", "check_functions", "check_kept", "check_publish", "content", "place", "whole")

MAX_NUMBER = (1 << 32) - 1


def whole(name: str, value: Any, most: int = MAX_NUMBER, least: int = 0) -> int:
    """:raises ValueError: it is no whole number from `least` to `most`."""
    try:
        number = int(index(value))
    except TypeError:
        number = -1
    if not least <= number <= most:
        raise ValueError(f"{name} is a whole number from {least} to {most}, not {value!r}")
    return number


def content(body: Any) -> bytes:
    """:raises ValueError: it is neither bytes nor text; of a number Python would make as many zeros."""
    if isinstance(body, str):
        return body.encode()
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise ValueError(f"a body is bytes or text, not {body!r}")
    return bytes(body)


def check_functions(**given: Any) -> None:
    """:raises ValueError: one of these is neither a function nor None."""
    for name, function in given.items():
        if function is not None and not callable(function):
            raise ValueError(f"{name} is a function, not {function!r}")


def place(where: str | Address) -> Address:
    """The address that this is, or names; whoever made an Address by hand has not checked it.

    :raises InvalidAddress: there is none such.
    """
    try:
        return parse_address(where if isinstance(where, str) else address_text(where))
    except (AttributeError, TypeError):
        raise InvalidAddress(f"an address is a text, or an Address of texts, and not {where!r}") from None


def check_kept(publish: Publish) -> None:
    """Of one that was read from a file, which other versions may have written.

    :raises ValueError: no gateway takes it.
    """
    if not publish.to:
        raise ValueError("a publish needs an address")
    for address in publish.to:
        place(address)
    whole("qos", publish.qos, 1)
    whole("ttl_s", publish.ttl_s)
    whole("lane", publish.lane, 1)
    check_publish(publish)


def check_publish(publish: Publish) -> None:
    """:raises ValueError: whoever gets this takes it for an error of the whole connection."""
    for name, text in (("msg_id", publish.msg_id), ("content_type", publish.content_type)):
        if not isinstance(text, str):
            raise ValueError(f"{name} is a text, not {text!r}")
    check_id(publish.msg_id)
    publish.content_type.encode()
    if len(publish.content_type) > MAX_CONTENT_TYPE_BYTES:
        raise ValueError(f"a content type has at most {MAX_CONTENT_TYPE_BYTES} bytes")
    for pair in publish.headers:
        for text in pair:
            if not isinstance(text, str):
                raise ValueError(f"headers are texts, and not {text!r}")
            text.encode()
    if header_bytes(publish.headers) > MAX_HEADER_BYTES:
        raise ValueError(f"headers have at most {MAX_HEADER_BYTES} bytes together, 16 more for each")
