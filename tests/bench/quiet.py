"""What tests of scenes that run for a moment need: a progress for nobody, and patience with the machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import click

P = ParamSpec("P")


class Quiet:
    """What a scene tells is not heard."""

    def plan(self, steps: int, step_s: float) -> None: ...

    def step(self, what: str) -> None: ...

    def note(self, text: str) -> None: ...


def at_the_third(test: Callable[P, None]) -> Callable[P, None]:
    """A test of what is counted, which must succeed once in three times: a busy machine may stand still while
    it lasts. A message that comes twice does not wait for the third."""

    @wraps(test)
    def thrice(*arguments: P.args, **more: P.kwargs) -> None:
        for _ in range(2):
            try:
                return test(*arguments, **more)
            except AssertionError:
                pass
            except click.ClickException as problem:
                if "twice" in problem.message:
                    raise
        return test(*arguments, **more)

    return thrice
