"""Tables that stand in docstrings, read back so that a test can hold the code to them."""

from __future__ import annotations

import inspect


def rows(docstring: str | None) -> list[tuple[str, ...]]:
    """The body rows of the one reStructuredText simple table in a docstring, cell by cell."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    borders = [number for number, line in enumerate(lines) if line and set(line) == {"=", " "}]
    top, middle, bottom = borders
    edges = [0]
    for number, (left, right) in enumerate(zip(lines[top], lines[top][1:], strict=False)):
        if (left, right) == (" ", "="):
            edges.append(number + 1)
    spans = list(zip(edges, [*edges[1:], None], strict=True))
    return [tuple(line[start:end].strip() for start, end in spans) for line in lines[middle + 1 : bottom]]
