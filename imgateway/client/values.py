"""What the client hands to the application, as frozen values."""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

from imgateway.frames import Address, Message

__all__ = ("Gap", "History", "Received", "named")


class Received(Struct, frozen=True):
    """One message, and where it stands. `ephemeral`: qos 0 outside any log; epoch and seq are then 0."""

    address: Address
    lane: int
    epoch: int
    seq: int
    message: Message
    ephemeral: bool = False


class Gap(Struct, frozen=True):
    """Something in ``(after, upto]`` of this log was lost to retention, a failover or a restored backup.

    What is left of the range is shown after the gap was told. An `epoch` other than before: the log is a new
    one, its numbers begin anew, and ``(0, upto]`` of it may hold messages that were not shown.
    """

    address: Address
    lane: int
    epoch: int
    after: int
    upto: int


class History(Struct, frozen=True):
    """What stands in ``(after, upto]``; ask again with ``after=upto`` while `upto` is less than `head`."""

    address: Address
    lane: int
    epoch: int
    after: int
    upto: int
    messages: tuple[Received, ...]
    gap: bool
    head: int


def named(codes: type[IntEnum], code: int) -> int:
    """The code with its name, so that an error's text has it; a later gateway's number as it is."""
    known = {int(one): one for one in codes}
    return known.get(code, code)
