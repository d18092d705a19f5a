"""How publications become appends: one for each log that is named, and none for what was taken before.

A repeat of an append that is still on its way joins it. What waits is counted, and whoever publishes is
told when that becomes too much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from imgateway.brokers.appends import Answer, Append, Shared, Told, Waiting
from imgateway.config import BrokerSettings
from imgateway.core.dedup import DIGEST_BYTES, Dedup, digest, keyed
from imgateway.frames import (
    DURABLE_KINDS,
    RING_KINDS,
    Address,
    LogKey,
    Message,
    Outcome,
    OutcomeCode,
    log_of,
    user_address,
)
from imgateway.interfaces import Publication
from imgateway.wire.messages import encode_message

__all__ = ("Intake",)

UNKNOWN = Outcome(OutcomeCode.UNKNOWN)


class Intake:
    """Everything by keyword.

    :param known: the appends under way by digest, and the seqs of those that were taken, if they are kept.
    :param epoch_of: a log's epoch, for what was taken before.
    :param congested: told when more waits than may wait, and when that is over.

    :ivar digests: of `digest_bytes` each; a store that keeps them has others, with its own secret.
    """

    def __init__(
        self,
        *,
        settings: BrokerSettings,
        known: Dedup[Append],
        congested: Callable[[bool], None],
        epoch_of: Callable[[LogKey], int] = lambda log: 0,
        digest_bytes: int = DIGEST_BYTES,
    ) -> None:
        self.digests = keyed(b"", digest_bytes)
        self.entries = 0
        """Publishes and addresses that wait."""
        self.bytes = 0
        self.is_congested = False
        self._settings = settings
        self._known = known
        self._congested = congested
        self._epoch_of = epoch_of

    def one(
        self,
        publication: Publication,
        log: LogKey,
        only_device: str,
        encoded: bytes,
        shared: Shared | None,
        waiting: Waiting,
        index: int,
        except_device: str = "",
    ) -> Append | None:
        """One address of a publish. None: it was taken before, or is being taken just now."""
        message = publication.message
        # A copy for oneself is told apart by a name that no device can have.
        target = only_device or (except_device and "\0")
        mark = digest(self.digests, log, target, message.sender, message.device, message.msg_id)
        found = self._known.get(mark)
        if found is None:
            found = Append(
                log,
                encoded,
                mark,
                message,
                [(waiting, index)],
                only_device,
                except_device,
                max(1, message.expires_ms - message.sent_ms) if message.expires_ms else 0,
                publication.resent,
                shared,
            )
            self._known.expect(mark, found)
            waiting.missing += 1
            self.entries += 1
            self.bytes += len(encoded)
            return found
        if type(found) is Append:
            found.waiting.append((waiting, index))
            waiting.missing += 1
            self.entries += 1  # whoever comes again and again while the store is away takes memory, too
        elif index >= 0:
            waiting.outcomes[index] = Outcome(OutcomeCode.DUPLICATE, self._epoch_of(log), found)  # type: ignore[arg-type]
        return None

    def plain(self, message: Message, log: LogKey, told: Told) -> Append | None:
        """A message to one log, with nothing else about it. None: it is a repeat, or was one, which is not
        looked into here."""
        mark = digest(self.digests, log, "", message.sender, message.device, message.msg_id)
        if self._known.get(mark) is not None:
            return None
        encoded = encode_message(message)
        append = Append(log, encoded, mark, message, [], told=told)
        self._known.expect(mark, append)
        self.entries += 1
        self.bytes += len(encoded)
        if self.entries >= self._settings.waiting_entries or self.bytes >= self._settings.waiting_bytes:
            self.check()
        return append

    def all(
        self, publication: Publication, encoded: bytes, waiting: Waiting
    ) -> tuple[list[Append], list[int]]:
        """Any number of addresses, and a copy for the sender's own log.

        :returns: what is to be appended, which belongs together; and the indices of the addresses of rings,
            whose turn comes once the rest has its place: whoever is told of a ring may publish.
        """
        to, message = publication.to, publication.message
        shared = Shared() if len(to) > 1 else None
        appends: list[Append] = []
        places: dict[Address, int] = {}
        copies: list[tuple[int, int]] = []
        rings: list[int] = []
        own = user_address(message.sender)
        copy_self = publication.copy_self and own not in to
        for index, address in enumerate(to):
            if address.kind == "device":
                whole = user_address(address.id)
                if whole in to:
                    # The user's entry is for all devices: one for this device would be the same again.
                    address = whole
                elif copy_self and whole == own and address.device != message.device:
                    # And so would one for a device that gets the copy below.
                    if places.setdefault(own, index) != index:
                        copies.append((index, places[own]))
                    continue
            elif address.kind not in DURABLE_KINDS and address.kind not in RING_KINDS:
                waiting.outcomes[index] = UNKNOWN
                continue
            if address in places:
                copies.append((index, places[address]))
                continue
            places[address] = index
            if address.kind in RING_KINDS:
                rings.append(index)
                continue
            append = self.one(publication, log_of(address), address.device, encoded, shared, waiting, index)
            if append is not None:
                appends.append(append)
        if copy_self:
            copy = encode_message(msgspec.structs.replace(message, to=to))
            append = self.one(
                publication, log_of(own), "", copy, None, waiting, places.get(own, -1), message.device
            )
            if append is not None:
                appends.append(append)
        waiting.same = copies
        return appends, rings

    def check(self) -> None:
        """More waits than may wait: say so, once."""
        if not self.is_congested and (
            self.entries >= self._settings.waiting_entries or self.bytes >= self._settings.waiting_bytes
        ):
            self.is_congested = True
            self._congested(True)

    def relax(self) -> None:
        """Half of that may wait again: say so."""
        if (
            self.is_congested
            and self.entries * 2 <= self._settings.waiting_entries
            and self.bytes * 2 <= self._settings.waiting_bytes
        ):
            self.is_congested = False
            self._congested(False)

    def settle(self, settled: Iterable[tuple[Append, Outcome]]) -> list[Answer]:
        """This became of appends. :returns: how the publishes that wait for nothing more are answered, in
        order."""
        answers: list[Answer] = []
        size = entries = 0
        for append, outcome in settled:
            size += len(append.encoded)
            if append.told is not None:
                entries += 1
                answer, about = append.told
                answers.append((answer, (outcome,), about))
            if not append.waiting:
                continue
            entries += len(append.waiting)
            for waiting, index in append.waiting:
                if index >= 0:
                    waiting.outcomes[index] = outcome
                waiting.missing -= 1
                if not waiting.missing:
                    answers.append((Waiting.tell, waiting, ()))
        self.entries -= entries
        self.bytes -= size
        return answers
