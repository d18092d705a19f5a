"""Entries that a session's wire could not say: passed by its cursor, still owed to the device.

They are offered again, before anything newer, when the device logs in without a position of its own. A
device that names its position drops what stands before it as known, so there they wait for another login, or
for Pull.
"""

from __future__ import annotations

__all__ = ("Parking",)


class Parking:
    """The parked seqs of one session in one log, rising.

    :ivar owed: not yet offered over this wire.
    :ivar offered: said, and not yet acknowledged.
    :ivar resume_at: the position that follows the last owed entry.
    """

    __slots__ = ("offered", "owed", "resume_at")

    def __init__(self, parked: tuple[int, ...], position: int, named: bool) -> None:
        """`position` is where the session goes on; `named`: the client itself said so."""
        self.owed = [] if named else [seq for seq in sorted(parked) if seq <= position]
        self.offered = [seq for seq in sorted(parked) if seq > position]  # these come with the log itself
        self.resume_at = position

    def start(self) -> int:
        """The position that the client is told: right before the first owed entry."""
        return self.owed[0] - 1 if self.owed else self.resume_at

    def offer(self) -> tuple[int, int]:
        """Take the next owed seq: (seq, the end of the range that its Deliver speaks for)."""
        seq = self.owed.pop(0)
        self.offered.append(seq)
        return seq, (self.owed[0] - 1 if self.owed else self.resume_at)

    def acked(self, upto: int) -> list[int]:
        """The seqs that an acknowledgement up to `upto` settles."""
        settled = [seq for seq in self.offered if seq <= upto]
        if settled:
            self.offered = [seq for seq in self.offered if seq > upto]
        return settled

    def keep(self, seq: int) -> None:
        """It could not be said this time either."""
        if seq in self.offered:
            self.offered.remove(seq)

    def empty(self) -> bool:
        return not self.owed and not self.offered
