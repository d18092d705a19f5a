"""Message ids for a wire that has only packet ids, which clients use again and again.

A publish that is sent for the first time (DUP=0) gets a new id; one that is sent once more (DUP=1) gets the
id that its packet id was last given, so that it is recognised, also by another node or after ``kill -9``.
What that takes must be on its way to the disk before the publish is, yet not cost a write each time. So ids
are not drawn but computed, from a number, the packet id and the content, and a number is kept together with
the run of packet ids that it is for: the next 64 that a client that counts will use. Only the first of a run
has to be remembered first; for a client that uses the same packet id every time, that is each publish.

The content is in the id because a client may have used a packet id again for a message that never arrived:
when that comes as a repeat, it is not the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ("Mint", "Run")

RUN = 64
"""Packet ids of one run at most."""
KEPT = 64
"""The newest packet ids that are remembered; and runs, for each may have but one."""

Run = tuple[int, int, int]
"""(number, the first packet id, how many)"""


class _Run:
    """`used`: bit n is set if the packet id first + n is known to be used; of an `earlier` connection's run
    any may be."""

    __slots__ = ("count", "earlier", "first", "number", "used")

    def __init__(self, number: int, first: int, count: int, earlier: bool = True) -> None:
        self.number = number
        self.first = first
        self.count = count
        self.earlier = earlier
        self.used = 0

    def used_after(self, packet_id: int) -> int:
        """How far behind `packet_id` its next used one is; `RUN` if there is none as near."""
        ahead = packet_id + 1 - self.first
        if ahead <= -RUN:
            return RUN
        used = self.used >> ahead if ahead >= 0 else self.used << -ahead
        return min(RUN, (used & -used).bit_length()) if used else RUN


class Mint:
    """Gives the publishes of one session their message ids.

    :param name: unlike that of any other session's mint, ever; empty: there is none yet.
    :param runs: what an earlier mint of the same name had, oldest first.
    :param draw: gives a name.
    """

    __slots__ = ("_draw", "_own", "_prefix", "_runs", "name")

    def __init__(self, name: str, runs: Iterable[Run], draw: Callable[[], str]) -> None:
        self.name = name
        self._runs = [_Run(*run) for run in runs]
        self._own: _Run | None = None
        self._prefix = ""
        self._draw = draw

    @property
    def runs(self) -> tuple[Run, ...]:
        """What has to be remembered."""
        return tuple([(run.number, run.first, run.count) for run in self._runs])

    def fresh(self, packet_id: int, content: int) -> tuple[str, bool]:
        """An id that no message had; and whether `runs` must be remembered before it is used.

        :param content: a checksum of topic and body.
        """
        own = self._own
        begun = False
        bit = packet_id - own.first if own is not None else -1
        if own is None or not 0 <= bit < own.count or own.used >> bit & 1:
            own, bit, begun = self._begin(packet_id), 0, True
        own.used |= 1 << bit
        return f"{self._prefix}{packet_id << 32 | content:x}", begun

    def again(self, packet_id: int, content: int) -> tuple[str, bool]:
        """The id that the packet id was last given, a new one if none is remembered; and whether `runs` must
        be remembered before it is used."""
        newer: list[_Run] = []
        for run in reversed(self._runs):
            bit = packet_id - run.first
            if not 0 <= bit < run.count:
                continue
            if run.earlier or run.used >> bit & 1:
                run.used |= 1 << bit
                for one in newer:
                    self._cut(one, packet_id)
                return f"{self.name}{run.number:x}.{packet_id << 32 | content:x}", bool(newer)
            newer.append(run)
        return self.fresh(packet_id, content)

    def _cut(self, run: _Run, packet_id: int) -> None:
        """A run of this connection that counts on this packet id, which is an older one's: its client went on
        with others before it sent this one again. To the next connection any of a run's may be used."""
        bit = packet_id - run.first
        before = _Run(run.number, run.first, bit, earlier=False)
        behind = _Run(run.number, packet_id + 1, run.count - bit - 1, earlier=False)
        before.used, behind.used = run.used & (1 << bit) - 1, run.used >> bit + 1
        parts = [part for part in (before, behind) if part.used]  # a run has at least its first
        place = self._runs.index(run)
        self._runs[place : place + 1] = parts
        if run is self._own:
            self._own = parts[-1]

    def _begin(self, packet_id: int) -> _Run:
        """A run from here to the next packet id that is known to be another's."""
        self.name = self.name or self._draw()
        runs, own = self._runs, self._own
        number = runs[-1].number + 1 if runs else 1
        if own is not None:
            own.count = own.used.bit_length()
        count = min([65_536 - packet_id, RUN, *[run.used_after(packet_id) for run in runs]])
        known = 0
        kept: list[_Run] = []
        for run in reversed(runs):
            if known >= KEPT or len(kept) == KEPT - 1:
                break
            if run.first != packet_id or run.count > 1:  # else the new one takes its place
                kept.append(run)
                known += run.used.bit_count()
        own = self._own = _Run(number, packet_id, count, earlier=False)
        self._runs = [*reversed(kept), own]
        self._prefix = f"{self.name}{number:x}."
        return own
