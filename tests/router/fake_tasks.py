"""Push tasks without a database and without threads, for tests of what is around them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import succeed

__all__ = ("Tasks",)


class Tasks:
    """In the place of push tasks: no database, no thread."""

    max_upload_bytes = 64
    patience_s = 300.0
    limits: Any = None
    started = stopped = 0
    refused: Any = None
    """What `lock` raises."""

    def __init__(self, *values: Any, **more: Any) -> None:
        self.more = more

    @classmethod
    def reset(cls) -> None:
        cls.started = cls.stopped = 0
        cls.refused = None

    def go_by(self, router: Any, limits: Any) -> None:
        Tasks.limits = limits

    def measures(self) -> Any:
        return ()

    def lock(self) -> None:
        if Tasks.refused:
            raise Tasks.refused

    def start(self) -> Any:
        Tasks.started += 1

    def stop(self) -> Any:
        Tasks.stopped += 1
        return succeed(None)

    def schedule(self, key: str, push: Any, msg_id: str) -> Any:
        raise NotImplementedError
