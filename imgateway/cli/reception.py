"""Shows what a client receives, one by one, and takes custody of each when it was written."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, TimeoutError

from imgateway.cli.lines import as_line, tell, text_of, write_line
from imgateway.client.values import Received
from imgateway.errors import ClientError, FrameRefused
from imgateway.frames import address_text

__all__ = ("be_in", "line_of", "receive")


async def be_in(client: Any, rooms: Sequence[str], mode: str) -> None:
    """Subscribe to these.

    :raises ClientError: the gateway refuses one of them.
    """
    for room in rooms:
        try:
            await client.subscribe(room, mode)
        except FrameRefused as error:
            raise ClientError(f"{room}: {error}") from None


async def receive(
    client: Any,
    reactor: Any,
    count: int | None,
    timeout_s: float | None,
) -> int:
    """Exit status: 1 if `count` were wanted and fewer came.

    :param timeout_s: the longest wait for a message; None: for ever.
    """
    came = 0
    while count is None or came < count:
        asked = client.next_message()
        if timeout_s is not None:
            asked.addTimeout(timeout_s, reactor)
        try:
            received = await asked
        except TimeoutError:
            break
        except CancelledError:
            if count is not None:
                tell(f"{came} of {count} messages came")
                raise
            break  # that is how one that goes on for ever ends
        write_line(as_line(line_of(received)))
        client.take()
        came += 1
    if count is not None and came < count:
        tell(f"{came} of {count} messages came")
        return 1
    return 0


def line_of(received: Received) -> dict[str, Any]:
    """A message as the fields of a JSON line; lane, expires_ms, headers and to only where there are some."""
    message = received.message
    line: dict[str, Any] = {
        "address": address_text(received.address),
        "epoch": received.epoch,
        "seq": received.seq,
        "msg_id": message.msg_id,
        "sender": message.sender,
        "device": message.device,
        "content_type": message.content_type,
        "sent_ms": message.sent_ms,
    }
    text = text_of(message.body)
    if text is not None:
        line["body"] = text
    else:
        line["body_base64"] = b64encode(message.body).decode()
    seldom = {
        "lane": received.lane,
        "expires_ms": message.expires_ms,
        "headers": dict(message.headers),
        "to": [address_text(one) for one in message.to],
    }
    return line | {name: value for name, value in seldom.items() if value}
