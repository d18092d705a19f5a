"""Whether a node is ready for work, and if not, why: each part says so itself."""

from __future__ import annotations

__all__ = ("Health",)


class Health:
    """Ready when every part that ever spoke says ok; a new one is not: it is starting.

    Parts are named by those who set them, such as ``start``, ``store``, ``drain``, ``load``.
    """

    def __init__(self) -> None:
        self._why: dict[str, str] = {"start": "starting"}
        self._notes: dict[str, str] = {}

    def set(self, part: str, ok: bool, why: str = "") -> None:
        """`part` is fine, or is not for the reason `why`, which is for the operator. If it is fine and there
        is a `why`, that is noted."""
        self._why[part] = "" if ok else why or "not ready"
        if ok and why:
            self._notes[part] = why
        else:
            self._notes.pop(part, None)

    def note(self, part: str, why: str) -> None:
        """Something for the operator about a part without which the node is as ready; "": it is fine."""
        self._notes[part] = why

    @property
    def ready(self) -> bool:
        """Every part is fine."""
        return not any(self._why.values())

    def snapshot(self) -> dict[str, str]:
        """Every part with its reason; an empty reason: it is fine."""
        return dict(self._why)

    def told(self, in_public: bool = False) -> tuple[tuple[str, ...], dict[str, str]]:
        """Why it is not ready (empty: it is), and how every part is.

        :param in_public: without the reasons, which name hosts and files.
        """
        found, notes = self._why, self._notes
        if in_public:
            found, notes = {part: why and "not ready" for part, why in found.items()}, {}
        reasons = tuple([f"{part}: {why}" for part, why in found.items() if why])
        return reasons, {part: why or "ok" for part, why in (found | notes).items()}

    def notes(self) -> dict[str, str]:
        """What was noted, by part; an empty one: it is fine."""
        return dict(self._notes)
