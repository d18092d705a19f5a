"""What a codec has to say whose wire leaves sessions, silence and resending to the node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf

from imgateway.frames import Address, Frame, Keep

__all__ = ("PlainCodec",)


class PlainCodec:
    """The half of an `ICodec` that most wires have no use for; a codec inherits it and adds the other."""

    __slots__ = ()

    silence_s = 0.0
    window = 0

    def restore(self, record: bytes) -> Iterable[Frame | Keep]:
        """Nothing is kept."""
        return ()

    def undoes(self, record: bytes) -> Iterable[Address]:
        """Nothing was followed."""
        return ()

    def puts_off(self) -> bool:
        """Who is refused something may ask again."""
        return False

    def retry(self) -> Iterator[Frame | Keep]:
        """Nothing is put off."""
        return iter(())

    def again(self, now: float) -> tuple[bytes, float]:
        """Nothing is resent while a connection lives."""
        return b"", inf

    def waive(self) -> int:
        """Every receipt counts."""
        return 0
