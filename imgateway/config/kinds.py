"""The kinds of values that many settings have."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

__all__ = ("Count", "PositiveInt", "Rate", "Seconds", "Text")

PositiveInt = Annotated[int, Meta(ge=1, le=2**53)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]  # a year: what is longer is a slip of the keyboard
Rate = Annotated[float, Meta(ge=0, le=1e9)]
Text = Annotated[str, Meta(min_length=1)]
