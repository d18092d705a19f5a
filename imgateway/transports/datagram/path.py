"""Where a peer is: the packed form of an address, and the proof that a new one is its own.

A datagram that authenticates with the highest number so far may come from elsewhere: a NAT gave the device
another port, or somebody sends on what he captured. So the place is challenged first, with no more bytes
than came from there, and until it answers everything goes where it went before.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from .seal import same

__all__ = ("CHALLENGE_EVERY_S", "NOWHERE", "Candidate", "Place", "packed", "unpacked")

Place = tuple[str, int]
"""A numeric host and a port."""

CHALLENGE_EVERY_S = 1.0

NOWHERE = b""
"""The address of a candidate that is none any more, and goes on as long as it limits the next one."""


def packed(place: Place) -> bytes:
    """6 bytes for IPv4, 18 for IPv6."""
    host, port = place
    return inet_pton(AF_INET6 if ":" in host else AF_INET, host) + port.to_bytes(2)


def unpacked(address: bytes) -> Place:
    family = AF_INET if len(address) == 6 else AF_INET6
    return inet_ntop(family, address[:-2]), int.from_bytes(address[-2:])


class Candidate:
    """The one address that a connection may move to.

    :param nonce: 8 random bytes that the peer must answer with, from there.
    :param not_before: when the next challenge may go out; a new candidate takes it over from the last.
    """

    __slots__ = ("_allowance", "address", "nonce", "not_before")

    def __init__(self, address: bytes, nonce: bytes, not_before: float) -> None:
        self.address = address
        self.nonce = nonce
        self.not_before = not_before
        self._allowance = 0

    def came(self, size: int) -> None:
        """An authentic datagram of so many bytes came from there."""
        self._allowance += size

    def challenges(self, size: int, now: float) -> bool:
        """Whether a challenge of so many bytes goes out now; it is taken off what may go there."""
        if now < self.not_before or size > self._allowance:
            return False
        self._allowance -= size
        self.not_before = now + CHALLENGE_EVERY_S
        return True

    def proven(self, nonce: bytes, address: bytes) -> bool:
        """The peer answered, from the address that was asked."""
        return address == self.address and same(nonce, self.nonce)
