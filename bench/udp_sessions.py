"""Very many sessions over UDP, which say nothing but a Ping a minute: the generator of ``bench udp-idle``.

::

    python -m bench.udp_sessions PORT DATA_DIR SESSIONS PING_S STEADY_S

A session here is its keys and a few numbers, on one of a handful of sockets; it acknowledges what comes.
Writes a line of JSON to standard output when all are logged in, another after `STEADY_S` seconds of Pings,
and a third when the gateway had time to forget the logins.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Iterator
from secrets import token_bytes

from imgateway.auth.keys import load_secret
from imgateway.auth.token import mint
from imgateway.auth.udp import load_udp_secret, with_udp_key
from imgateway.config import AuthSettings, UdpSettings
from imgateway.core.credentials import split
from imgateway.frames import Hello, Ping
from imgateway.protocols.native import NativeAdapter
from imgateway.transports.datagram.greeting import ClientGreeting
from imgateway.transports.datagram.incoming import is_new, marked
from imgateway.transports.datagram.messages import Data, ack, data_head, parse
from imgateway.transports.datagram.packets import Accept, Retry
from imgateway.transports.datagram.packets import parse as parse_packet
from imgateway.transports.datagram.seal import open_sealed, seal

SOCKETS = 8
AT_ONCE = 48
"""Logins under way: enough for the gateway never to wait for one, few enough for no buffer to overflow."""
SILENT_S = 0.5


class Session:
    """One that is logged in, or about to be."""

    __slots__ = ("cid", "from_server", "largest", "number", "pings", "taken", "to_server")

    def __init__(self, cid: bytes, to_server: bytes, from_server: bytes) -> None:
        self.cid = cid
        self.to_server = to_server
        self.from_server = from_server
        self.number = 1  # the HELLO was 0
        self.largest, self.taken = 0, 0
        self.pings = 1  # the next message of channel 0

    def sealed(self, payload: bytes) -> bytes:
        clear = self.cid + self.number.to_bytes(4)
        sealed = seal(self.to_server, self.number, clear, payload)
        self.number += 1
        return clear + sealed


class Crowd:
    """All sessions, on their sockets."""

    def __init__(self, port: int, data_dir: str) -> None:
        self.gateway = ("127.0.0.1", port)
        self.codec = NativeAdapter().codec(False, 1_000_000)
        self.ping = self.codec.encode(Ping()) or b""
        self.secret = load_secret(AuthSettings(), data_dir)
        self.udp_secret = load_udp_secret(UdpSettings(), data_dir)
        self.sockets = [self._bound(f"127.0.0.{number + 1}") for number in range(SOCKETS)]
        self.greetings: dict[bytes, tuple[ClientGreeting, socket.socket]] = {}
        self.sessions: dict[bytes, tuple[Session, socket.socket]] = {}
        self.welcomed = 0
        self.pongs = 0

    def _bound(self, host: str) -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_194_304)
        bound.bind((host, 0))
        bound.setblocking(False)
        return bound

    # ---------------------------------------------------------------------------------------------- logins

    def begin(self, number: int) -> None:
        token = mint(self.secret, f"u{number}", "d", service=False, ttl_s=86_400, now_s=time.time())
        credentials = split(with_udp_key(token, self.udp_secret))
        assert credentials.udp is not None
        hello = self.codec.encode(Hello(credentials.token, "d")) or b""
        payload = data_head(0, 0, 0, len(hello)) + hello
        greeting = ClientGreeting(*credentials.udp, token_bytes(32), payload)
        at = self.sockets[number % SOCKETS]
        self.greetings[greeting.hello_id] = greeting, at
        at.sendto(greeting.datagram(time.monotonic()), self.gateway)

    def log_in(self, numbers: Iterator[int]) -> int:
        """All of them; how many are in now."""
        more = True
        while more or self.greetings or self.welcomed < len(self.sessions):
            while more and len(self.greetings) + len(self.sessions) - self.welcomed < AT_ONCE:
                number = next(numbers, None)
                if number is None:
                    more = False
                    break
                self.begin(number)
                if number in range(10_000, 10**9, 10_000):
                    print(f"{number:,} logins", file=sys.stderr, flush=True)
            self.hear(0.05)
            now = time.monotonic()
            for greeting, at in list(self.greetings.values()):
                if now >= greeting.due:
                    at.sendto(greeting.datagram(now), self.gateway)
        return len(self.sessions)

    # ------------------------------------------------------------------------------------------- what comes

    def hear(self, wait_s: float) -> None:
        for at in select.select(self.sockets, [], [], wait_s)[0]:
            for _ in range(100):
                try:
                    datagram = at.recv(2_048)
                except BlockingIOError:
                    break
                if datagram[0] < 0xF0:
                    self._short(datagram)
                else:
                    self._packet(datagram)

    def _packet(self, datagram: bytes) -> None:
        packet = parse_packet(datagram)
        assert isinstance(packet, Retry | Accept), packet
        greeting, at = self.greetings.get(packet.hello_id, (None, None))
        if greeting is None or at is None:
            return
        if isinstance(packet, Retry):
            greeting.retried(packet, 0.0)
            at.sendto(greeting.datagram(time.monotonic()), self.gateway)
            return
        accepted = greeting.accepted(packet)
        assert accepted is not None
        del self.greetings[packet.hello_id]
        session = Session(accepted.cid, accepted.keys.to_server, accepted.keys.to_client)
        self.sessions[accepted.cid] = session, at

    def _short(self, datagram: bytes) -> None:
        session, at = self.sessions.get(datagram[:8], (None, None))
        if session is None or at is None:
            return  # overtook its ACCEPT: it is sent again
        number = int.from_bytes(datagram[8:12])
        if not is_new(number, session.largest, session.taken):
            return
        payload = open_sealed(session.from_server, number, datagram[:12], datagram[12:])
        session.largest, session.taken = marked(number, session.largest, session.taken)
        for message in parse(payload):
            if isinstance(message, Data):
                if session.pings == 1 and number == 1:
                    self.welcomed += 1
                else:
                    self.pongs += 1
                at.sendto(session.sealed(ack(session.largest, session.taken)), self.gateway)
                return

    # --------------------------------------------------------------------------------------------- the Pings

    def steady(self, ping_s: float, seconds: float) -> float:
        """Everybody pings every `ping_s`, evenly spread, for so long; returns Pings a second."""
        crowd = list(self.sessions.values())
        began = time.monotonic()
        sent = 0
        while (passed := time.monotonic() - began) < seconds:
            due = int(passed / ping_s * len(crowd))
            while sent < due:
                session, at = crowd[sent % len(crowd)]
                head = data_head(0, session.pings, 0, len(self.ping))
                session.pings += 1
                at.sendto(session.sealed(head + self.ping), self.gateway)
                sent += 1
                if sent % 50 == 0:
                    self.hear(0.0)
            self.hear(0.005)
        return sent / seconds


def main() -> None:
    port, data_dir, sessions, ping_s, steady_s = sys.argv[1:]
    crowd = Crowd(int(port), data_dir)
    began = time.monotonic()
    ready = crowd.log_in(iter(range(int(sessions))))
    seconds = time.monotonic() - began
    print(json.dumps({"ready": ready, "logins_per_s": round(ready / seconds)}), flush=True)
    until = time.monotonic() + SILENT_S
    while time.monotonic() < until:
        crowd.hear(0.1)
    rate = crowd.steady(float(ping_s), float(steady_s))
    print(json.dumps({"pings_per_s": round(rate), "pongs": crowd.pongs}), flush=True)
    # What the gateway remembers of greetings is forgotten with those that follow.
    crowd.log_in(iter(range(10**9, 10**9 + 2)))
    print(json.dumps({"ready": len(crowd.sessions)}), flush=True)
    while True:
        crowd.hear(1.0)


if __name__ == "__main__":
    main()
