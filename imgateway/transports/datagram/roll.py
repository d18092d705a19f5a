"""The connections of one socket, by connection id.

An id is its connection's place in a list, and 32 random bits, lest what is said to one who has left reach the
one who came to its place. A table by id would take 30 to 60 bytes for each of a million connections, a list
takes 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ("Roll",)

RANDOM_BYTES = 4


class Roll:
    """:param random: n → n random bytes."""

    __slots__ = ("_free", "_places", "_random")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._places: list[Any] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._places) - len(self._free)

    def __iter__(self) -> Iterator[Any]:
        return (connection for connection in self._places if connection is not None)

    def fresh(self) -> bytes:
        """The id of the connection that is put in next, 8 bytes. The first of them is 0 until there are 16
        million."""
        place = self._free[-1] if self._free else len(self._places)
        return place.to_bytes(8 - RANDOM_BYTES) + self._random(RANDOM_BYTES)

    def get(self, cid: bytes) -> Any:
        """The connection that has this id, or None."""
        place = int.from_bytes(cid[:-RANDOM_BYTES])
        connection = self._places[place] if place < len(self._places) else None
        return connection if connection is not None and connection.cid == cid else None

    def put(self, connection: Any) -> None:
        """Enter the connection that got the last fresh id. Others may have left since then."""
        place = int.from_bytes(connection.cid[:-RANDOM_BYTES])
        if place == len(self._places):
            self._places.append(connection)
        else:
            self._places[place] = connection
            if self._free[-1] == place:
                self._free.pop()
            else:
                self._free.remove(place)

    def leave(self, connection: Any) -> None:
        """Take it out, if it is there."""
        if self.get(connection.cid) is connection:
            place = int.from_bytes(connection.cid[:-RANDOM_BYTES])
            self._places[place] = None
            self._free.append(place)
