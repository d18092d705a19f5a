"""Messages that were lost too often: they are given up, and the peer is told with a FORGET not to wait."""

from __future__ import annotations

from .channels import Channel
from .messages import forget
from .pieces import Piece

__all__ = ("FORGET_NUMBER", "give_up", "is_wanted", "next_forget")

FORGET_NUMBER = -1
"""Instead of a message's number: this piece is a FORGET."""


def is_wanted(channel: Channel, piece: Piece) -> bool:
    """Whether a piece that was lost must go again."""
    if piece.number == FORGET_NUMBER:
        return piece is channel.forget
    return bool(channel.unacked.get(piece.number))


def give_up(channel: Channel, number: int) -> list[Piece]:
    """Send a message that is on its way no more; returns what is unsent of it."""
    channel.unacked[number] = 0
    rest = []
    while channel.queue and channel.queue[0].number == number:
        rest.append(channel.queue.popleft())
    return rest


def next_forget(channel: Channel, index: int, serial: int) -> Piece | None:
    """The FORGET about messages of channel `index` that were given up; None: there is nothing new to tell.

    Not before all older ones are settled, for those may yet arrive.
    """
    gone = []
    for number, left in channel.unacked.items():
        if left:
            break
        gone.append(number)
    if not gone:
        return None
    for number in gone:
        del channel.unacked[number]
    if channel.forget is None:
        channel.forgotten = gone[0]
    piece = Piece(serial, index, FORGET_NUMBER, 1, forget(index, gone[-1] + 1), b"")
    channel.forget = piece
    return piece
