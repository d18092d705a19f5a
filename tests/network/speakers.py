"""Clients that say and hear the same in the words of their wire: what they have in common, and our own."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

from imgateway.auth.udp import load_udp_secret, with_udp_key
from imgateway.client import Client, Received
from imgateway.config import UdpSettings

from .nodes import Node, until

__all__ = ("VALUE", "Look", "Ours", "OursInJson", "OursOnUdp", "OursOnWebSocket", "Peer")

Look = dict[str, str]
"""A message as one client was shown it: the wire's own fields by name, ``id`` the one that names it."""

VALUE = '{"a":1}'
"""What everybody says in their second message, see `Peer.say`."""


class Peer:
    """A client of one carrier.

    :ivar got: the bodies that its program was shown, as texts of their own wire say them.
    :ivar looks: the same messages, with all that came along.
    :ivar lost: the gateway has closed the connection, though nobody left.
    """

    says: ClassVar[tuple[str, str]] = ("", "")
    """What `say` says, in words: a text alone, and with what else the wire can say."""

    binary: ClassVar[bool] = True
    """It can send bytes that are no text."""
    largest: ClassVar[int] = 65_536
    """The longest text that it can send."""
    device: str = "phone"

    def __init__(self, node: Node, port: int, user: str) -> None:
        self.node, self.port, self.user = node, port, user
        self.got: list[bytes] = []
        self.looks: list[Look] = []
        self.lost = False

    async def log_in(self) -> None:
        raise NotImplementedError

    def send(self, to: str, body: bytes, is_text: bool) -> str:
        """Returns what an answer of the gateway will name; "": nothing does."""
        raise NotImplementedError

    def was_taken(self, sent: str) -> bool:
        """The gateway has answered what `send` returned."""
        raise NotImplementedError

    def say(self, to: Sequence[str], is_rich: bool) -> str:
        """`says`, to all of them. Returns the id that the client gave the message; "": this wire has none."""
        raise NotImplementedError

    def collect(self) -> None:
        """Have `got` and `looks` up to date."""

    async def leave(self) -> None:
        raise NotImplementedError


class Ours(Peer):
    says = ("`hello`", f"`{VALUE}` as `application/json`, header `colour: red`")
    scheme: ClassVar[str] = "tcp"
    protocol: ClassVar[str] = "native"

    def _token(self) -> str:
        return self.node.token(self.user)

    async def log_in(self) -> None:
        self.client = Client(
            f"{self.scheme}://127.0.0.1:{self.port}",
            token=self._token(),
            device=self.device,
            protocol=self.protocol,
            on_message=self._shown,
        )
        await until(self.client.start())

    def _shown(self, received: Received) -> None:
        message = received.message
        self.got.append(message.body)
        self.looks.append(
            {
                "sender": message.sender,
                "device": message.device,
                "content type": message.content_type,
                "body": message.body.decode(errors="replace"),
                "id": message.msg_id,
                "headers": ", ".join(f"{name}: {value}" for name, value in message.headers),
            }
        )

    def send(self, to: str, body: bytes, is_text: bool) -> str:
        said: bytes | str = body.decode() if is_text else body
        kind = "" if is_text else "application/octet-stream"
        self.client.publish(f"user:{to}", said, content_type=kind).addErrback(lambda failure: None)
        return ""

    def say(self, to: Sequence[str], is_rich: bool) -> str:
        msg_id = str(uuid.uuid4())
        more: Any = {"content_type": "application/json", "headers": {"colour": "red"}} if is_rich else {}
        users = [f"user:{user}" for user in to]
        self.client.publish(users, VALUE if is_rich else "hello", msg_id=msg_id, **more)
        return msg_id

    async def leave(self) -> None:
        await until(self.client.close(1.0))


class OursOnWebSocket(Ours):
    scheme = "ws"


class OursInJson(OursOnWebSocket):
    protocol = "json"


class OursOnUdp(Ours):
    scheme = "udp"

    def _token(self) -> str:
        return with_udp_key(super()._token(), load_udp_secret(UdpSettings(), str(self.node.data)))
