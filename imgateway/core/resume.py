"""Who is right about a position: the one table, for durable logs and for rings.

=====================================  ===========================  =====================
the client says                        durable log                  ring
=====================================  ===========================  =====================
no position                            the gateway's `acked`        the head
same epoch, seq at or below the head   the client's seq             the client's seq
same epoch, seq beyond the head        `acked`, gap, ROLLED BACK    the head, gap
another epoch                          `acked`, gap                 the head, gap
=====================================  ===========================  =====================

A client that knows more than a durable log proves that the log lost its end (an old copy of the disk, a
failover): the log must get a new epoch before it numbers anything else the same.
"""

from __future__ import annotations

from typing import NamedTuple

from imgateway.frames import ResumePoint

__all__ = ("Resumption", "resume_durable", "resume_ring")


class Resumption(NamedTuple):
    """Go on after `position`; `gap` must be told; `rolled_back`: give the log a new epoch first."""

    position: int
    gap: bool = False
    rolled_back: bool = False


def resume_durable(point: ResumePoint | None, epoch: int, acked: int, head: int) -> Resumption:
    """Where a session goes on in a durable log whose state is (`epoch`, `head`) and which it has `acked`."""
    if point is None or not point.epoch:
        return Resumption(acked)
    if point.epoch != epoch:
        return Resumption(acked, gap=True)
    if point.seq > head:
        return Resumption(acked, gap=True, rolled_back=True)
    return Resumption(point.seq)


def resume_ring(point: ResumePoint | None, epoch: int, head: int) -> Resumption:
    """Where a session goes on in a ring; what the ring no longer has is told by the delivery itself."""
    if point is None or not point.epoch:
        return Resumption(head)
    if point.epoch != epoch or point.seq > head:
        return Resumption(head, gap=True)
    return Resumption(point.seq)
