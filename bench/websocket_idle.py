"""Sessions over WebSocket that log in and say nothing: a generator of the scene idle.

``python -m bench.websocket_idle PORT SESSIONS < tokens``; a line of JSON when all are logged in. Then it
stays.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

GREETING = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: imgateway.v1.protobuf\r\n\r\n"
)
WELCOME = 8
"""The number of the frame."""


def main() -> None:
    """See above."""
    from imgateway.frames import Hello
    from imgateway.protocols.native import NativeAdapter

    port, sessions = int(sys.argv[1]), int(sys.argv[2])
    greeting = GREETING.format(port=port).encode()
    codec = NativeAdapter().codec(False, 1_000_000)
    held = []
    for _, token in zip(range(sessions), sys.stdin, strict=False):
        link = socket.create_connection(("127.0.0.1", port), 30)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.sendall(greeting)
        held.append(link)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += received(link)
        link.sendall(masked(codec.encode(Hello(token.strip(), "bench")) or b""))
        answer = received(link)
        while len(answer) < 3:
            answer += received(link)
        at = 4 if answer[1] == 126 else 2
        if answer[at] >> 3 != WELCOME:
            sys.exit(f"not welcome: {answer!r}")
    print(json.dumps({"ready": len(held)}), flush=True)
    while True:
        # Whatever comes is left where it is.
        select.select([], [], [], 60)
        time.sleep(0)


def received(link: socket.socket) -> bytes:
    """What came. :raises SystemExit: the gateway has closed the connection."""
    data = link.recv(65_536)
    if not data:
        sys.exit("the gateway closed a connection")
    return data


def masked(payload: bytes) -> bytes:
    """A client's binary message, masked with zeros."""
    size = len(payload)
    head = bytes([0x82, 0x80 | size]) if size < 126 else bytes([0x82, 0xFE]) + size.to_bytes(2)
    return head + bytes(4) + payload


if __name__ == "__main__":
    main()
