"""Values as a TOML file may write them."""

from __future__ import annotations

import json
from typing import Any

__all__ = ("shown", "toml")


def toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        # TOML's basic strings escape as JSON's do, but for DEL, which JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"


def shown(value: Any) -> str:
    """A value of the file as the file may write it, shortened."""
    text = toml(value) if isinstance(value, str | bool | int | float | list | tuple) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
