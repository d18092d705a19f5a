"""How a connection begins, as two machines without sockets, clock or dice::

    client                                 server
      HELLO (no cookie) ─────────────────▶   remembers nothing
      ◀───────────────────────────── RETRY   a cookie for this address
      HELLO (cookie) ────────────────────▶   opens the seal; a connection
      ◀──────────────────────────── ACCEPT   cid, keys

The first message of the client, its Hello frame, rides in the HELLO. A HELLO that is repeated gets the same
ACCEPT again, so a lost ACCEPT, or one who sends captured HELLOs once more, makes no second connection.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from .packets import (
    HELLO_ROOM,
    NO_COOKIE,
    NO_KEY,
    VERSION,
    Accept,
    Hello,
    Reason,
    Refused,
    Retry,
    hello_clear,
)
from .remembered import Remembered
from .seal import (
    COOKIE_S,
    Cookies,
    InvalidTag,
    Keys,
    hello_key,
    made_before_ms,
    open_sealed,
    private_key,
    public_of,
    seal,
    session_keys,
    shared_secret,
)

__all__ = ("Accepted", "ClientGreeting", "Greeted", "ServerGreeting")

UNSEALED = Keys(b"", b"")
NO_PUBLIC = bytes(32)

# ------------------------------------------------------------------------------------------------- the client

FIRST_REPEAT_S = 0.5
REPEAT_GROWTH = 1.5
SLOWEST_REPEAT_S = 2.0
MAX_RETRIES = 4
"""A good server asks once, or twice around the end of a cookie's time."""


class Accepted(NamedTuple):
    """What an ACCEPT brought: `payload` are the messages in it."""

    cid: bytes
    keys: Keys
    number: int
    payload: bytes


class ClientGreeting:
    """:param udp_key: of the token; ``b""``: nothing is sealed.

    :param private: 32 random bytes, for this attempt alone.
    :param payload: the messages of the HELLO, at most `HELLO_ROOM` bytes.
    """

    def __init__(self, key_id: bytes, udp_key: bytes, private: bytes, payload: bytes) -> None:
        self._key_id = key_id if udp_key else NO_KEY
        self._udp_key = udp_key
        self._private = private_key(private)
        # Not sealed, the public key is nothing but the name of this attempt.
        self._public = public_of(self._private) if udp_key else private
        self._key = hello_key(udp_key, self._public)
        self._payload = payload.ljust(HELLO_ROOM if udp_key else HELLO_ROOM + 16, b"\0")
        self._number = 0
        self._retries = 0
        self._every_s = FIRST_REPEAT_S
        self._hello = self._built(NO_COOKIE)
        self.due = 0.0
        """When the HELLO is to be sent, or sent again."""
        self.sent_at = inf
        """When what the gateway accepts was first sent. An ACCEPT does not say which repetition it answers;
        too long a round trip is soon measured anew, while too short a one repeats what is on its way."""

    @property
    def hello_id(self) -> bytes:
        return self._public[:8]

    @property
    def is_elsewhere(self) -> bool:
        """The server asked more than once where we are: it may have accepted us where we were before."""
        return self._retries > 1

    def datagram(self, now: float) -> bytes:
        """The HELLO, to be sent now."""
        self.sent_at = min(self.sent_at, now)
        self.due = now + self._every_s
        self._every_s = min(SLOWEST_REPEAT_S, self._every_s * REPEAT_GROWTH)
        return self._hello

    def retried(self, retry: Retry, now: float) -> None:
        """The server wants to know that we are where we say; the HELLO is due at once, with the cookie."""
        if retry.hello_id == self.hello_id and self._retries < MAX_RETRIES and self._udp_key:
            self._retries += 1
            self._number += 1  # other bytes under the same key
            self._hello = self._built(retry.cookie)
            self.due = now
            if self._retries == 1:
                self.sent_at = inf  # what went before had no cookie, and cannot be what is accepted

    def accepted(self, accept: Accept) -> Accepted | None:
        """None: it is not for us, or nobody who has the key sent it."""
        if accept.hello_id != self.hello_id:
            return None
        keys = UNSEALED
        try:
            if self._udp_key:
                shared = shared_secret(self._private, accept.public)
                keys = session_keys(
                    shared, self._udp_key, self._key_id, self._public, accept.public, accept.cid
                )
            payload = open_sealed(keys.to_client, accept.number, accept.clear, accept.sealed)
        except (InvalidTag, ValueError):
            return None
        return Accepted(accept.cid, keys, accept.number, payload)

    def _built(self, cookie: bytes) -> bytes:
        clear = hello_clear(self._key_id, self._public, cookie, self._number)
        return clear + seal(self._key, self._number, clear, self._payload)


# ------------------------------------------------------------------------------------------------- the server

KNOWN_S = COOKIE_S
"""A HELLO is remembered at least as long as its cookie is good."""

OVERTAKEN_MS = 2_000
"""A HELLO whose cookie is so much older than one that was accepted since with the same key was held back on
its way: its device has come again, and the login in it would take the session away from that. What is younger
may be another device with the same token, or have been overtaken by chance."""


class Greeted(NamedTuple):
    """A HELLO that is what it says: `payload` are the messages in it."""

    hello: Hello
    udp_key: bytes
    payload: bytes


class ServerGreeting:
    """:param key_of: key id → udp_key; None: nothing sealed is taken.

    :param unsealed: take what is not sealed.
    :param secret: random, for the cookies.
    """

    def __init__(self, key_of: Callable[[bytes], bytes] | None, unsealed: bool, secret: bytes) -> None:
        self._key_of = key_of
        self._unsealed = unsealed
        self._cookies = Cookies(secret)
        # Two generations: nobody has to look for what may be forgotten.
        self._known = Remembered()
        self._known_before = Remembered()
        self._turned_at = 0.0

    def greet(self, hello: Hello, address: bytes, now: float) -> bytes | Greeted:
        """The datagram to answer with, or a client that may have a connection.

        Up to a good cookie nothing is remembered, and what it costs is one MAC.
        """
        if hello.version != VERSION:
            return Refused(hello.hello_id, Reason.VERSION).built()
        udp_key = b""
        if hello.key_id == NO_KEY:
            if not self._unsealed:
                return Refused(hello.hello_id, Reason.UNSEALED).built()
        elif self._key_of is None:
            return Refused(hello.hello_id, Reason.KEY).built()
        elif not self._cookies.good(hello.cookie, address, now):
            return Retry(hello.hello_id, self._cookies.make(address, now)).built()
        else:
            udp_key = self._key_of(hello.key_id)
        try:
            payload = open_sealed(hello_key(udp_key, hello.public), hello.number, hello.clear, hello.sealed)
        except InvalidTag:
            return Refused(hello.hello_id, Reason.KEY).built()
        answer = self._answered(hello, now)
        if answer is None and udp_key and self._is_overtaken(hello):
            # Whoever still waits for it makes it anew; who only kept it cannot.
            answer = Retry(hello.hello_id, self._cookies.make(address, now)).built()
        return answer or Greeted(hello, udp_key, payload)

    def agree(self, greeted: Greeted, cid: bytes, private: bytes) -> tuple[bytes, Keys] | None:
        """Our public key, and the keys of the connection; None: the client's public key is none."""
        hello = greeted.hello
        if not greeted.udp_key:
            return NO_PUBLIC, UNSEALED
        own = private_key(private)
        try:
            shared = shared_secret(own, hello.public)
        except ValueError:
            return None
        public = public_of(own)
        return public, session_keys(shared, greeted.udp_key, hello.key_id, hello.public, public, cid)

    def remember(self, hello: Hello, accept: bytes) -> None:
        """What to answer when this HELLO comes again."""
        newest = self._newest_of(hello)
        self._known.add(hello, accept, newest is None or made_before_ms(newest, hello.cookie) > 0)

    def _newest_of(self, hello: Hello) -> bytes | None:
        return self._known.newest(hello.key_id) or self._known_before.newest(hello.key_id)

    def _is_overtaken(self, hello: Hello) -> bool:
        newest = self._newest_of(hello)
        return newest is not None and made_before_ms(hello.cookie, newest) > OVERTAKEN_MS

    def _answered(self, hello: Hello, now: float) -> bytes | None:
        if now - self._turned_at >= KNOWN_S:
            late = now - self._turned_at >= 2 * KNOWN_S
            self._known_before = Remembered() if late else self._known
            self._known = Remembered()
            self._turned_at = now
        return self._known.answer(hello) or self._known_before.answer(hello)
