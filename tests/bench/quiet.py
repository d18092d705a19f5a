"""A scene's progress, for nobody."""

from __future__ import annotations


class Quiet:
    """What a scene tells is not heard."""

    def plan(self, steps: int, step_s: float) -> None: ...

    def step(self, what: str) -> None: ...

    def note(self, text: str) -> None: ...
