"""Whose a file is, for who may not use it."""

from __future__ import annotations

import os
from pathlib import Path
from pwd import getpwuid

__all__ = ("in_the_way", "why_not")


def why_not(error: OSError, path: str | Path) -> str:
    """What the system says; where it denies something also whose `path` is, or the first directory above it
    that is there, and who asked."""
    said = error.strerror or str(error)
    if not isinstance(error, PermissionError):
        return said
    place = next(filter(os.path.exists, (Path(path), *Path(path).absolute().parents)))
    owner, asking = _owner(place), os.geteuid()
    if owner == asking:
        return f"{said}: check the mode of {place} (chmod)"
    name = _name(owner)
    return f"{said}: {place} is {name}'s, and this runs as {_name(asking)}: run it as {name}, or chown it"


def in_the_way(directory: str | Path) -> Path | None:
    """The file that stands where this directory, or one above it, has to be; None: there is none."""
    places = (Path(directory), *Path(directory).absolute().parents)
    place = next(filter(os.path.exists, places))
    return None if place.is_dir() else place


def _owner(path: Path) -> int:
    return path.stat().st_uid


def _name(number: int) -> str:
    try:
        return getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
