"""The baseline of WebSocket rooms: Autobahn's own server, which prepares a message once for all.

``python -m bench.autobahn_room PORT SIZE``; whatever a client says is answered with one message to everybody.
"""

from __future__ import annotations

import sys
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor

BODY = b"x" * int(sys.argv[2])
crowd: list[Any] = []


class Member(WebSocketServerProtocol):
    def onOpen(self) -> None:
        crowd.append(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        prepared = self.factory.prepareMessage(BODY, isBinary=True)
        for member in crowd:
            member.sendPreparedMessage(prepared)


factory = WebSocketServerFactory()
factory.setProtocolOptions(autoPingInterval=0, openHandshakeTimeout=0)
factory.protocol = Member
reactor.listenTCP(int(sys.argv[1]), factory, backlog=4096, interface="127.0.0.1")
reactor.run()
