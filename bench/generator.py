"""How a scene runs its load: a compiled program on the core that the server does not have."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from bench.servers import OTHER_CPU, pin


class Generator(NamedTuple):
    """A running one."""

    child: subprocess.Popen[str]

    def told(self) -> dict[str, Any]:
        """Its next line of JSON. :raises ClickException: it has ended instead; what it said."""
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            assert self.child.stderr is not None
            said = self.child.stderr.read().strip() or "nothing was said"
            raise click.ClickException(f"the generator failed: {said[-500:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def awaits(self, word: str) -> None:
        """Until it writes this line to standard error. :raises ClickException: it does not."""
        assert self.child.stderr is not None
        line = self.child.stderr.readline()
        if line.strip() != word:
            raise click.ClickException(f"the generator failed: {line.strip() or 'nothing was said'}")


@contextmanager
def generator(command: list[Any], lines: str = "", cpu: int | None = OTHER_CPU) -> Iterator[Generator]:
    """`lines` go to its standard input; it is ended at the end."""
    with subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=pin(cpu),
    ) as child:  # fmt: skip
        try:
            assert child.stdin is not None
            try:
                child.stdin.write(lines)
                child.stdin.close()
            except BrokenPipeError:
                pass  # it has failed, and told() says why
            yield Generator(child)
        finally:
            child.terminate()


def paired(
    program: Path, mode: str, ports: str, arguments: list[Any], lines: str, cpu_s: Callable[[], float]
) -> dict[str, Any]:
    """One run of ``pairs``: what it says, and of what `cpu_s` counts `cores` and `cpu_us`, for a message.

    :raises ClickException: it failed, no message came, or one came twice.
    """
    with generator([program, mode, "127.0.0.1", ports, *arguments], lines) as load:
        load.awaits("measuring")
        before, began = cpu_s(), time.monotonic()
        result = load.told()
        spent, took = cpu_s() - before, time.monotonic() - began
    check(result)
    return {**result, "cores": spent / took, "cpu_us": spent / result["messages"] * 1e6}


def check(result: dict[str, Any]) -> None:
    """:raises ClickException: in this run of ``pairs`` no message came, or one came twice."""
    if result["twice"]:
        raise click.ClickException(f"{result['twice']} messages came twice")
    if not result["messages"]:
        raise click.ClickException(
            "no message came in all that time: too few seconds, or others need the machine?"
        )
