"""What an application says, looked at where it is said: what no gateway takes is a ValueError there, and not
the end of the link that carries it, now or, from the outbox's file, in every run to come."""

from __future__ import annotations

from operator import index
from typing import Any

from imgateway.frames import MAX_CONTENT_TYPE_BYTES, MAX_HEADER_BYTES, Publish, check_id, header_bytes

__all__ = ("check_publish", "whole")

MAX_NUMBER = (1 << 32) - 1


def whole(name: str, value: Any, most: int = MAX_NUMBER) -> int:
    """:raises ValueError: it is no whole number from 0 to `most`."""
    try:
        number = int(index(value))
    except TypeError:
        number = -1
    if not 0 <= number <= most:
        raise ValueError(f"{name} is a whole number from 0 to {most}, not {value!r}")
    return number


def check_publish(publish: Publish) -> None:
    """:raises ValueError: whoever gets this takes it for an error of the whole connection."""
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
