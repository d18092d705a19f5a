"""What claims and their answers mean, in Python's terms."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from imgateway.frames import SessionKey
from imgateway.interfaces import Presence

__all__ = ("Opening", "presences")


class Opening(Struct):
    """Claims of a session whose answers are not here yet.

    `kicked`: generations that were displaced meanwhile, with their close codes: one of them may turn out to
    be the answer. `is_doubted`: such a kick may have been lost.
    """

    count: int = 0
    kicked: dict[int, int] = {}
    is_doubted: bool = False


def presences(fields: list[Any], user: str) -> tuple[Presence, ...]:
    """What `present` answers; those online first."""
    devices = [
        Presence(
            SessionKey(user, device.decode()), platform.decode(), node.decode(), generation, ms, bool(online)
        )
        for device, platform, node, generation, ms, online in zip(*[iter(fields)] * 6, strict=True)
    ]
    return tuple(sorted(devices, key=lambda one: (not one.online, one.since_ms, one.session.device)))
