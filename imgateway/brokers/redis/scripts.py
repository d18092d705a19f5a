"""The Lua scripts: files beside this one, called by the SHA-1 of what is loaded."""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha1
from importlib.resources import files

from msgspec import Struct

__all__ = ("Script", "compose", "scripts")

FOLDER = files(__package__) / "lua"
PLACE = "-- the script stands here"
# What several scripts use, and not all: `-- with NAME` stands for `lua/parts/NAME.lua`.
PART = re.compile(r"^-- with (\w+)$", re.MULTILINE)
# They stand alone: what the prelude looks for is not there yet when they run.
BARE = frozenset({"greet"})
# They only say or ask something, and write nothing that could be refused: they need no number, which would
# be a write of its own.
UNCOUNTED = frozenset({"echo", "emit", "members", "present", "tell"})


class Script(Struct, frozen=True):
    name: str
    source: bytes
    sha: bytes
    counts: bool
    """Whether each call has a number on its line; see `lua/common.lua`."""


@cache
def scripts() -> dict[str, Script]:
    """Every script by name."""
    names = (file.name.rpartition(".") for file in FOLDER.iterdir())
    return {
        name: compose(name, (FOLDER / f"{name}.lua").read_text())
        for name, _, kind in sorted(names)
        if kind == "lua" and name != "common"
    }


def compose(name: str, text: str) -> Script:
    """A script with its parts, and the prelude `lua/common.lua` around it."""
    text = PART.sub(lambda part: (FOLDER / "parts" / f"{part[1]}.lua").read_text(), text)
    if name not in BARE:
        text = (FOLDER / "common.lua").read_text().replace(PLACE, text)
    source = text.encode()
    return Script(name, source, sha1(source).hexdigest().encode(), name not in UNCOUNTED)
