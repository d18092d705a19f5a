"""A client of the netty-chat wire for tests, on the test's own reactor."""

from __future__ import annotations

import json
import uuid
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol

from imgateway.wire import chat_pb2 as pb
from imgateway.wire.framing import Splitter, length_prefixed

from .nodes import soon

__all__ = ("ChatClient", "chatting")


class ChatClient(Protocol):
    """Sends the fields that the real one sends, and writes down every frame."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.heard: list[pb.Msg] = []
        self.lost = False
        self._splitter = Splitter(2**24)

    def connectionMade(self) -> None:
        self.say(msg_type=3)

    def dataReceived(self, data: bytes) -> None:
        self.heard += map(pb.Msg.FromString, self._splitter.feed(data))

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True

    def say(self, msg_id: str = "", **fields: Any) -> str:
        msg_id = msg_id or str(uuid.uuid4())
        msg = pb.Msg(msg_id=msg_id, from_uid=self.uid, timestamp=1_793_000_000_000, **fields)
        assert self.transport is not None
        self.transport.write(length_prefixed(msg.SerializeToString()))
        return msg_id

    def chat(self, to: int, text: str, msg_id: str = "") -> str:
        return self.say(msg_id, to_uid=to, format=1, msg_type=1, chat_type=1, body=json.dumps({"text": text}))

    def group(self, to: list[int], text: str) -> str:
        body = json.dumps({"text": text})
        return self.say(format=1, msg_type=1, chat_type=2, body=body, to_uid_list=to)

    async def pinged(self) -> None:
        """A PING and its PONG: what was sent before was taken, what came before has arrived."""
        msg_id = self.say(msg_type=4)
        await soon(lambda: any((msg.msg_type, msg.msg_id) == (5, msg_id) for msg in self.heard), what="PONG")

    @property
    def shown(self) -> list[str]:
        """What the client prints: everything but PONG."""
        assert {msg.msg_type for msg in self.heard} <= {1, 5}
        assert {msg.to_uid for msg in self.heard} <= {self.uid}
        return [msg.body for msg in self.heard if msg.msg_type != 5]

    def texts(self) -> list[str]:
        return [json.loads(body)["text"] for body in self.shown]

    async def kill(self) -> None:
        """Gone without a word, and with all that it had not read."""
        transport: Any = self.transport
        transport.abortConnection()
        await soon(lambda: self.lost, what="the end")


async def chatting(port: int, uid: int) -> ChatClient:
    """A client that is logged in."""
    from twisted.internet import reactor

    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    client: ChatClient = await connectProtocol(endpoint, ChatClient(uid))
    await client.pinged()
    return client
