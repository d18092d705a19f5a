"""Where publishes for rings go in: their answers as Deferreds, and a word when too much waits."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from imgateway.brokers.redis.rings import RedisRings
from imgateway.config import BrokerSettings
from imgateway.frames import Address, Outcome
from imgateway.interfaces import Publication
from imgateway.wire.messages import encode_message

__all__ = ("Entrance",)


class Entrance:
    """Everything by keyword.

    :param congested: `IBrokerListener.congested`; told when logs or rings have more waiting than may wait,
        and when neither has.
    """

    def __init__(
        self, *, rings: RedisRings, settings: BrokerSettings, congested: Callable[[bool], None]
    ) -> None:
        self._rings = rings
        self._entries, self._bytes = settings.waiting_entries, settings.waiting_bytes
        self._congested = congested
        self._are_logs = self._are_rings = False

    def publish(self, publication: Publication, address: Address, encoded: bytes) -> Deferred[Outcome]:
        """One address among others."""
        taken: Deferred[Outcome] = Deferred()

        def answer(outcome: Outcome) -> None:
            self.relax()
            taken.callback(outcome)

        self._rings.publish(publication, address, encoded, answer)
        self._check()
        return taken

    def publish_alone(self, publication: Publication, address: Address) -> Deferred[tuple[Outcome, ...]]:
        """The only address."""
        encoded = encode_message(publication.message)
        return self.publish(publication, address, encoded).addCallback(lambda outcome: (outcome,))

    def emit(self, publication: Publication, address: Address, encoded: bytes) -> None:
        """qos 0: nobody waits for an answer, and when too much waits it is dropped."""
        if not self._are_rings:
            self._rings.emit(publication, address, encoded, self._emitted)
            self._check()

    def logs_congested(self, on: bool) -> None:
        """What the logs say of themselves."""
        self._tell(on, self._are_rings)

    def relax(self) -> None:
        """With each answer, and now and then: what waits last may be asked by others, and its answers do not
        come here."""
        rings = self._rings
        if (
            self._are_rings
            and rings.waiting <= self._entries // 2
            and rings.waiting_bytes <= self._bytes // 2
        ):
            self._tell(self._are_logs, False)

    def _check(self) -> None:
        rings = self._rings
        if not self._are_rings and (rings.waiting >= self._entries or rings.waiting_bytes >= self._bytes):
            self._tell(self._are_logs, True)

    def _emitted(self, outcome: Outcome) -> None:
        self.relax()  # what waits may be of qos 0 alone

    def _tell(self, logs: bool, rings: bool) -> None:
        was = self._are_logs or self._are_rings
        self._are_logs, self._are_rings = logs, rings
        if (logs or rings) != was:
            self._congested(logs or rings)
