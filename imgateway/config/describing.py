"""What a setting is, for people and for whoever checks or writes one: all of it drawn from the sections."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from imgateway.config.settings import Settings

__all__ = ("Setting", "describe", "section_text", "sections")


class Setting(NamedTuple):
    """One setting, for people: `allowed` is a phrase such as "a whole number, at least 1"."""

    section: str
    key: str
    kind: Any
    allowed: str
    unit: str
    default: Any
    description: str

    @property
    def path(self) -> str:
        return f"{self.section}.{self.key}"


@cache
def describe() -> tuple[Setting, ...]:
    """All settings in the order of the file."""
    return tuple(_described())


def section_text(section: str) -> str:
    """What a section is about: one paragraph."""
    return " ".join((sections()[section].__doc__ or "").split())


@cache
def sections() -> dict[str, type[Struct]]:
    """The class of each section."""
    return get_type_hints(Settings)


def _described() -> Iterator[Setting]:
    for section, cls in sections().items():
        hints = get_type_hints(cls, include_extras=True)
        for field in msgspec.structs.fields(cls):
            kind = hints[field.name]
            metas = [meta for meta in get_args(kind)[1:] if isinstance(meta, Meta)]
            description = next(meta.description for meta in metas if meta.description)
            yield Setting(
                section, field.name, kind, _allowed(kind), _unit(field.name), field.default, description
            )


def _allowed(kind: Any) -> str:
    plain, *metas = get_args(kind)
    if get_origin(plain) is Literal:
        return "one of " + ", ".join(get_args(plain))
    if get_origin(plain) is tuple:
        item = get_args(plain)[0]
        return "a list of " + (" and ".join(get_args(item)) if get_origin(item) is Literal else "texts")
    if plain is bool:
        return "true or false"
    if plain is str:
        return "text, not empty" if any(meta.min_length for meta in metas) else "text"
    bounds = []
    for name, phrase in (("ge", "at least"), ("gt", "above"), ("le", "at most")):
        for bound in (getattr(meta, name) for meta in metas):
            # The bounds that only keep arithmetic sane would be noise.
            if bound is not None and bound not in (2**53, 1e9):
                bounds.append("at most a year" if bound == 31_536_000 else f"{phrase} {bound:,}")
    return ", ".join(["a whole number" if plain is int else "a number", " and ".join(bounds)])


UNITS = {
    "_bytes_rate": "bytes per second",
    "_s": "seconds",
    "_bytes": "bytes",
    "_bytes_burst": "bytes",
    "_rate": "per second",
}


def _unit(name: str) -> str:
    return next((unit for ending, unit in UNITS.items() if f"_{name}".endswith(ending)), "")
