"""What `test_matrix` has observed, as tables, and the page that must have them."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

__all__ = (
    "ABSENT",
    "ARRIVES",
    "PARKED",
    "REFUSED",
    "looks",
    "on_the_page",
    "outcomes",
    "refusals",
    "said",
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol" / "matrix.md"
ARRIVES, PARKED, REFUSED, ABSENT = "arrives", "set aside", "refused", "–"
_H = TypeVar("_H", bound=Hashable)


def on_the_page(name: str, drawn: str) -> None:
    """The page has this between its marks of that name; or gets it, if it is to be written anew."""
    page = PAGE.read_text()
    marks = rf"(?<=<!-- observed: {name} -->\n\n).*?(?=\n\n<!-- until here -->)"
    assert re.search(marks, page, re.S), f"{PAGE} has no marks for {name}"
    written = re.sub(marks, lambda _: drawn, page, count=1, flags=re.S)
    if os.environ.get("IMGATEWAY_WRITE_MATRIX"):
        PAGE.write_text(written)
    else:
        assert page == written, "the page says something else: IMGATEWAY_WRITE_MATRIX=1 writes it anew"


def outcomes(
    carriers: Sequence[str], whats: Sequence[str], table: Mapping[tuple[str, str], Sequence[str]]
) -> str:
    """Carriers that are alike in everything stand together.

    :param table: (sender, receiver) → what became of each of `whats`.
    """
    rows = []
    for senders, cells in alike({one: tuple(table[one, other] for other in carriers) for one in carriers}):
        for receivers, became in alike(dict(zip(carriers, cells, strict=True))):
            rows.append([named(senders, carriers), named(receivers, carriers), *became])
    return drawn(["from", "to", *whats], rows)


def refusals(noticed: Mapping[tuple[str, str], str]) -> str:
    """:param noticed: (sender, what it sent) → what it notices."""
    rows = [[one, what, sees] for (one, what), sees in noticed.items()]
    return drawn(["from", "what is too long", "the sender notices"], rows)


def said(speakers: Mapping[str, tuple[str, tuple[str, str]]]) -> str:
    """:param speakers: wire → its user, and the two things that it says."""
    rows = [[", ".join(wires), f"`{user}`", *says] for wires, (user, says) in alike(speakers)]
    return drawn(["from", "user", "a text", "more"], rows)


def looks(seen: Mapping[str, Mapping[tuple[str, bool], Mapping[str, str]]]) -> str:
    """A section for each receiving wire; those that are shown the same share one.

    :param seen: receiver → (sender, is it the one with more) → the fields.
    """
    sections = []
    same = {wire: tuple((key, tuple(look.items())) for key, look in of.items()) for wire, of in seen.items()}
    for wires, shown in alike(same):
        fields = [name for name, _ in shown[0][1]]
        by_sender: dict[str, list[tuple[str, ...]]] = {}
        for (sender, _), look in shown:
            by_sender.setdefault(sender, []).append(tuple(quoted(*field) for field in look))
        rows = []
        for senders, both in alike({sender: tuple(cells) for sender, cells in by_sender.items()}):
            for kind, cells in zip(("a text", "more"), both, strict=True):
                rows.append([", ".join(senders), kind, *cells])
        sections.append(f"### Received on {' and '.join(wires)}\n\n{drawn(['sent on', '', *fields], rows)}")
    return "\n\n".join(sections)


def quoted(field: str, value: str) -> str:
    return f"`{value}`" if value and field != "id" else value


def alike(rows: Mapping[str, _H]) -> list[tuple[list[str], _H]]:
    """Keys with equal values, together, where the first of them stood."""
    groups: dict[_H, list[str]] = {}
    for key, value in rows.items():
        groups.setdefault(value, []).append(key)
    return [(keys, value) for value, keys in groups.items()]


def named(some: Sequence[str], carriers: Sequence[str]) -> str:
    """A wire without its transports if all of them are meant."""
    if len(some) == len(carriers):
        return "everybody"
    wires = dict.fromkeys(one.partition(" ")[0] for one in some)
    names: list[str] = []
    for wire in wires:
        mine = [one for one in some if one.startswith(wire + " ")]
        whole = len(mine) == sum(one.startswith(wire + " ") for one in carriers)
        names += [wire] if whole else mine
    return ", ".join(names)


def drawn(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(heads), "|".join(["---"] * len(heads)), *(" | ".join(row) for row in rows)]
    return "\n".join(f"|{line}|" if line.startswith("---") else f"| {line} |" for line in lines)
