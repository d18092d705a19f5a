"""How far others are with what we asked for."""

from __future__ import annotations

import sys
from typing import Any

import click

from imgateway.cli.lines import at_a_terminal, tell

__all__ = ("Bar", "remark")


class Bar:
    """A bar on stderr, if a person looks at it and results are not shown beside it."""

    def __init__(self, label: str, results: bool = False) -> None:
        self._label = label
        self._shown = at_a_terminal() and not (results and sys.stdout.isatty())
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Draw it."""
        if not self._shown:
            return
        if self._bar is None:
            self._bar = click.progressbar(
                length=total, label=self._label, file=sys.stderr, show_pos=True, show_percent=True
            )
            self._bar.__enter__()
        self._bar.length = total
        # Not `update`, which only goes forward.
        self._bar.make_step(done - self._bar.pos)
        self._bar.render_progress()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)


def remark(text: str) -> None:
    """As `tell`, where a bar may stand in the line."""
    if at_a_terminal():
        click.echo("\r\x1b[K", nl=False, err=True)
    tell(text)
