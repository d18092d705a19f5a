"""Whether a node is ready for work, and if not, why: each part says so itself."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ("Health",)


class Health:
    """Ready when every part that ever spoke says ok; a new one is not: it is starting.

    Parts are named by those who set them, such as ``start``, ``store``, ``drain``, ``load``.
    """

    def __init__(self) -> None:
        self._why: dict[str, str] = {"start": "starting"}

    def set(self, part: str, ok: bool, why: str = "") -> None:
        """`part` is fine, or is not for the reason `why`, which is for the operator."""
        self._why[part] = "" if ok else why or "not ready"

    @property
    def ready(self) -> bool:
        """Every part is fine."""
        return not any(self._why.values())

    def snapshot(self) -> Mapping[str, str]:
        """Every part with its reason; an empty reason: it is fine."""
        return dict(self._why)
