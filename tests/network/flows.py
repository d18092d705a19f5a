"""Steady traffic over the client SDK, and what must be true of it in the end, whatever happened meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from imgateway.client import Client, Gap, Received
from imgateway.frames import OutcomeCode

from .nodes import Node, soon, until

__all__ = ("Flow", "Listener", "Publisher")

TAKEN = (OutcomeCode.OK, OutcomeCode.DUPLICATE)


class Publisher:
    """Publishes 0, 1, 2 … to an address, so many at once, until told to stop.

    :param pause_s: how long after an outcome the next one begins.
    :param more: of the Client's arguments.
    """

    def __init__(
        self,
        node: Node,
        user: str,
        to: str,
        outbox: Path | None,
        url: str | Sequence[str],
        outstanding: int = 16,
        pause_s: float = 0.0,
        **more: Any,
    ) -> None:
        self.user = user
        self.to = to
        self.begun = 0
        self.acked: dict[bytes, int] = {}
        self.failed: list[BaseException] = []
        self.rate_hint = outstanding
        self.pause_s = pause_s
        self._stopping = False
        self._waiting = 0
        self._calls: list[Any] = []
        self.client = Client(
            url,
            token=node.token(user, service=True),
            device="pen",
            outbox=str(outbox) if outbox else None,
            wait=True,
            backoff=lambda attempt: 0.05,
            **more,
        )
        self.client.start().addErrback(self.failed.append)

    def go(self) -> None:
        while self._waiting < self.rate_hint and not self._stopping:
            body = b"%s %d" % (self.user.encode(), self.begun)
            self.begun += 1
            self._waiting += 1
            self.client.publish(self.to, body).addCallbacks(
                self._taken, self._failed, (body,), errbackArgs=(body,)
            )

    def _taken(self, outcomes: Any, body: bytes) -> None:
        (outcome,) = outcomes
        assert outcome.code in TAKEN, outcome
        self.acked[body] = outcome.seq
        self._waiting -= 1
        if self._stopping:
            return
        # Through the reactor: an answer at once must not nest.
        from twisted.internet import reactor

        self._calls = [call for call in self._calls if call.active()]
        self._calls.append(reactor.callLater(self.pause_s, self.go))  # type: ignore[attr-defined]

    def _failed(self, reason: Any, body: bytes) -> None:
        self.failed.append(reason.value)

    def halt(self) -> None:
        """No more."""
        self._stopping = True
        for call in self._calls:
            if call.active():
                call.cancel()

    async def stop(self) -> None:
        """No more; fires when everything that was begun has its outcome."""
        self.halt()
        await soon(lambda: not self._waiting or self.failed, what=f"the last outcomes of {self.user}")
        assert not self.failed, self.failed


class Listener:
    """Writes down everything that the application is shown."""

    def __init__(
        self,
        node: Node,
        user: str,
        state: Path | None,
        url: str | Sequence[str],
        device: str = "ear",
        **more: Any,
    ) -> None:
        self.shown: list[tuple[bytes, int]] = []
        self.gaps: list[Gap] = []
        self.downs: list[tuple[int, str]] = []
        self.client = Client(
            url,
            token=node.token(user),
            device=device,
            state=str(state) if state else None,
            on_message=self._heard,
            on_gap=self.gaps.append,
            wait=True,
            backoff=lambda attempt: 0.05,
            **more,
        )
        self.client.on_down = lambda code, reason: self.downs.append((code, reason))
        self.client.start().addErrback(lambda _: None)

    def _heard(self, received: Received) -> None:
        self.shown.append((received.message.body, received.seq))


class Flow:
    """Publishers and one listener; `check` holds the promises against what happened."""

    def __init__(self, node: Node, directory: Path, urls: tuple[str, ...], outbox: bool = True) -> None:
        self.listener = Listener(node, "bob", directory / "bob.state", urls[0])
        self.publishers = [
            Publisher(node, f"p{number}", "user:bob", directory / f"p{number}.out" if outbox else None, url)
            for number, url in enumerate(urls)
        ]

    def go(self) -> None:
        for publisher in self.publishers:
            publisher.go()

    @property
    def acked(self) -> int:
        return sum(len(publisher.acked) for publisher in self.publishers)

    async def stop(self) -> None:
        for publisher in self.publishers:
            await publisher.stop()
        await soon(lambda: len(self.listener.shown) >= self.acked, what="the last deliveries")

    def check(self) -> None:
        """Exactly once, in order, the seq that was acknowledged, no gap."""
        shown = self.listener.shown
        assert self.listener.gaps == []
        seqs = [seq for _, seq in shown]
        assert seqs == sorted(set(seqs)), "not rising"
        for publisher in self.publishers:
            name = publisher.user.encode()
            mine = [(body, seq) for body, seq in shown if body.split()[0] == name]
            assert [body for body, _ in mine] == [b"%s %d" % (name, n) for n in range(publisher.begun)]
            assert dict(mine) == publisher.acked

    async def close(self) -> None:
        for publisher in self.publishers:
            publisher.halt()
        closing: list[Deferred[None]] = [one.client.close(1.0) for one in (*self.publishers, self.listener)]
        for over in closing:
            await until(over)
