"""A client of the MobileIMSDK wire for tests, over sockets that block: it says and hears whole objects."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import time
from typing import Any

DEADLINE_S = 20.0
Object = dict[str, Any]


def said(kind: int, data: str | None = None, sender: str = "-1", to: str = "0", **more: Any) -> Object:
    """An object as the clients write it."""
    fields = {"bridge": False, "type": kind, "dataContent": data, "from": sender, "to": to, "fp": None}
    fields |= {"QoS": False, "typeu": -1, "sm": -1} | more
    return {name: value for name, value in fields.items() if value is not None}


class Phone:
    """One connection. `hear` takes what came next; None: the server has closed."""

    def __init__(self, port: int, kind: int = socket.SOCK_STREAM) -> None:
        self.socket = socket.socket(socket.AF_INET, kind)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(("127.0.0.1", port))
        self.user = ""
        self._held = b""

    # ------------------------------------------------------------------------------------------------ bytes

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.socket.sendall(data)

    def _exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            data = self.socket.recv(65_536)
            if not data:
                raise EOFError
            self._held += data
        data, self._held = self._held[:size], self._held[size:]
        return data

    def until(self, end: bytes) -> bytes:
        while end not in self._held:
            self._held += self.socket.recv(65_536)
        return self._exactly(self._held.index(end) + len(end))

    def frame(self) -> bytes:
        """The next frame with its length or header."""
        head = self._exactly(4)
        return head + self._exactly(int.from_bytes(head, "big"))

    def framed(self, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + body

    def body_of(self, frame: bytes) -> bytes:
        return frame[4:]

    # ---------------------------------------------------------------------------------------------- objects

    def say(self, *objects: Object) -> None:
        for one in objects:
            self.send(self.framed(json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode()))

    def hear(self) -> Object | None:
        try:
            found: Object = json.loads(self.body_of(self.frame()))
        except (EOFError, ConnectionResetError):
            return None
        return found

    def knock(self, user: str, token: str = "tok", first: int = 0) -> None:
        """Ask to be let in."""
        self.user = user
        content = {"loginUserId": user, "loginToken": token, "firstLoginTime": first}
        self.say(said(0, json.dumps(content), user))

    def log_in(self, user: str, token: str = "tok", first: int = 0) -> int:
        """The firstLoginTime that the server answers with."""
        self.knock(user, token, first)
        answer = self.hear()
        assert answer is not None
        assert (answer["type"], answer["to"]) == (50, user), answer
        times = json.loads(answer["dataContent"])
        assert times["code"] == 0
        return int(times["firstLoginTime"])

    def tell(self, to: str, text: str, fp: str | None = None, **more: Any) -> None:
        """A message, with a receipt wanted if it has an fp."""
        self.say(said(2, text, self.user, to, fp=fp, QoS=fp is not None, **more))

    def confirm(self, message: Object) -> None:
        """A receipt."""
        self.say(said(4, message["fp"], message["to"], message["from"]))

    def is_quiet(self) -> bool:
        """Nothing came that was not heard yet: an echo overtakes nothing."""
        echo = said(5, f"anything else? {time.monotonic()}", self.user)
        self.say(echo)
        return self.hear() == echo | {"type": 53}

    def close(self) -> None:
        self.socket.close()


class UdpPhone(Phone):
    def __init__(self, port: int) -> None:
        super().__init__(port, socket.SOCK_DGRAM)

    def frame(self) -> bytes:
        return self.socket.recv(1_024)

    def framed(self, body: bytes) -> bytes:
        return body

    def body_of(self, frame: bytes) -> bytes:
        return frame


class WebPhone(Phone):
    """`upgrade` False: the caller sends the request itself."""

    def __init__(self, port: int, upgrade: bool = True, origin: str = "https://elsewhere.example") -> None:
        super().__init__(port)
        if upgrade:
            key = base64.b64encode(os.urandom(16)).decode()
            request = f"GET /websocket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: {origin}\r\n"
            request += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            request += f"Sec-WebSocket-Key: {key}\r\n\r\n"
            self.send(request.encode())
            assert b" 101 " in self.until(b"\r\n\r\n")

    def frame(self) -> bytes:
        head = self._exactly(2)
        size = head[1] & 127
        if size >= 126:
            more = self._exactly(2 if size == 126 else 8)
            head, size = head + more, int.from_bytes(more, "big")
        return head + self._exactly(size)

    def framed(self, body: bytes, opcode: int = 1, fin: bool = True) -> bytes:
        size, mask = len(body), os.urandom(4)
        head = bytes((0x80 * fin | opcode,))
        if size < 126:
            head += bytes((0x80 | size,))
        elif size < 65_536:
            head += struct.pack("!BH", 0xFE, size)
        else:
            head += struct.pack("!BQ", 0xFF, size)
        return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(body))

    def body_of(self, frame: bytes) -> bytes:
        if frame[0] == 0x88:
            self.goodbye = frame[2:]
            raise EOFError
        return frame[2:] if frame[1] < 126 else frame[4:] if frame[1] == 126 else frame[10:]
