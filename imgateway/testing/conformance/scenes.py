"""The scenes, in the order in which they are played: on one program that goes on from one to the next.

Those that end it come last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from imgateway.testing.conformance.abilities import Ability
from imgateway.testing.conformance.living import heartbeat, kicked, pacing, questions, refused, renewing
from imgateway.testing.conformance.play import Play
from imgateway.testing.conformance.receiving import (
    acknowledging,
    gaps,
    greeting,
    order,
    repeats,
    replaced_log,
    resuming,
    strangers,
)
from imgateway.testing.conformance.sending import oversize, publishing, window

__all__ = ("SCENES", "Scene")


class Scene(Struct, frozen=True):
    """`needs`: what its wire must be able to say; `echo`: the program must send back what it is shown;
    `fresh`: the program must have been started anew."""

    name: str
    about: str
    play: Callable[[Play], Awaitable[None]]
    needs: frozenset[Ability] = frozenset()
    echo: bool = False
    fresh: bool = False


SCENES = (
    Scene("greeting", "it logs in", greeting),
    Scene("ack", "it acknowledges messages", acknowledging),
    Scene("order", "it keeps their order", order),
    Scene("resume", "it goes on after a break", resuming),
    Scene("repeat", "it is sent again what it has", repeats),
    Scene("epoch", "its log is replaced", replaced_log, frozenset({Ability.POSITIONS})),
    Scene("gap", "something is missing", gaps, frozenset({Ability.RANGES})),
    Scene("unknown", "the gateway is newer", strangers, frozenset({Ability.EXTENSION})),
    Scene("publish", "its own messages are not answered", publishing, echo=True),
    Scene("window", "few may be unanswered", window, frozenset({Ability.WINDOW}), echo=True),
    Scene("oversize", "it may not publish what is large", oversize, frozenset({Ability.LIMITS}), echo=True),
    Scene("heartbeat", "it lives", heartbeat, frozenset({Ability.BEATS})),
    Scene("request", "it is asked", questions, frozenset({Ability.QUESTIONS})),
    Scene("renew", "its token ends", renewing, frozenset({Ability.RENEWAL})),
    Scene("pace", "it comes again, and not too soon", pacing),
    Scene("kick", "it is told to go", kicked, frozenset({Ability.FAREWELL})),
    Scene("refuse", "it is not let in", refused, frozenset({Ability.FAREWELL}), fresh=True),
)
