"""Deliveries that many get: cut to size, and written once for all whose links write them the same.

What a ring sends is cut into shares of some 48 KB, of which a link with little room takes one at a time. A
share keeps what it looks like in each form, and the blocks that laggards and pullers read are kept for a
while, so that the work is bounded by blocks and forms, not by readers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from imgateway.core.session import Session
from imgateway.frames import Batch, Deliver, Entry, LogKey
from imgateway.node.delivery import Delivery
from imgateway.node.link import Link

__all__ = ("SHARE_BYTES", "Form", "Forms", "Share", "Shelf", "cut")

SHARE_BYTES = 49_152
"""Of entries in one Deliver, if it has more than one: below what stops the reading of a link."""
SHELF_BYTES = 16_777_216
"""Of written blocks that are kept for whoever reads them next."""


class Form:
    """How a link's deliveries are written: by which kind of codec, how compressed, how large at most.

    One object for all links that are alike in this; sessions keep it, and what is written is looked up by it.
    """

    __slots__ = ("compression",)

    def __init__(self, compression: str) -> None:
        self.compression = compression


class Forms:
    """Those in use. :param compressions: that the settings allow; each client gets the first of its own."""

    def __init__(self, compressions: Sequence[str]) -> None:
        self._compressions = {name: name for name in compressions}
        self._forms: dict[tuple[str, str, int], Form] = {}

    def of(self, link: Link, offered: Sequence[str]) -> Form:
        """The form of a link whose client offered these compressions."""
        known = link.wire.traits.compressions
        name = next((one for one in offered if one in known and one in self._compressions), "")
        compression = self._compressions.get(name, "")
        wire = link.codec.wire
        if not wire:
            return Form(compression)  # its codec writes for it alone
        key = (wire, compression, link.connection.max_send_bytes)
        form = self._forms.get(key)
        if form is None:
            form = self._forms[key] = Form(compression)
        return form


class Share:
    """One Deliver for many."""

    __slots__ = ("_said", "after", "deliver", "log", "size", "upto")

    def __init__(self, log: LogKey, deliver: Deliver, size: int) -> None:
        self.log = log
        self.deliver = deliver
        self.after = deliver.after
        self.upto = deliver.upto
        self.size = size
        self._said: dict[Form, tuple[bytes, ...]] = {}

    def said(self, delivery: Delivery, session: Session) -> tuple[bytes, ...]:
        """What goes to this session: one frame, more where its wire takes one entry at a time."""
        form: Form = session.form
        said = self._said.get(form)
        if said is None:
            said = self._said[form] = tuple(_written(delivery, session.link, self.deliver, form.compression))
        return said


def _written(delivery: Delivery, link: Link, deliver: Deliver, compression: str) -> Iterator[bytes]:
    """Entry by entry where the wire or its content wants that; what it cannot say is told as a gap."""
    entries = deliver.entries
    if len(entries) < 2 or link.wire.traits.batches:
        whole = delivery.say(
            link, _with(deliver, entries, deliver.after, deliver.upto, deliver.gap, compression)
        )
        if whole is not None:
            if whole:
                yield whole
            return
    after, gap = deliver.after, deliver.gap
    for entry in entries:
        upto = deliver.upto if entry is entries[-1] else entry.seq
        data = delivery.say(link, _with(deliver, (entry,), after, upto, gap, compression))
        if data is None:
            data = delivery.say(link, _with(deliver, (), after, upto, True, ""))
        if data:
            yield data
        after, gap = upto, False


def _with(
    deliver: Deliver, entries: tuple[Entry, ...], after: int, upto: int, gap: bool, compression: str
) -> Deliver:
    return Deliver(
        deliver.address,
        deliver.lane,
        deliver.epoch,
        after,
        upto,
        entries,
        gap,
        max(upto, deliver.head),
        compression,
    )


def cut(
    log: LogKey, epoch: int, after: int, upto: int, entries: Sequence[Entry], gap: bool, head: int
) -> tuple[Share, ...]:
    """The range ``(after, upto]`` as shares, in order. Where there are no entries there is one without."""
    if len(entries) == 1:
        deliver = Deliver(log.address, log.lane, epoch, after, upto, tuple(entries), gap, head)
        return (Share(log, deliver, len(entries[0].message)),)
    shares = []
    first = size = 0
    for index, entry in enumerate(entries):
        if size and size + len(entry.message) > SHARE_BYTES:
            end = entries[index - 1].seq
            deliver = Deliver(
                log.address, log.lane, epoch, after, end, tuple(entries[first:index]), gap, head
            )
            shares.append(Share(log, deliver, size))
            after, gap, first, size = end, False, index, 0
        size += len(entry.message)
    rest = Deliver(log.address, log.lane, epoch, after, upto, tuple(entries[first:]), gap, head)
    return (*shares, Share(log, rest, size))


class Shelf:
    """The shares of blocks that were read of late, up to `SHELF_BYTES`."""

    def __init__(self) -> None:
        self._shares: OrderedDict[tuple[LogKey, int, int, int, bool], tuple[Share, ...]] = OrderedDict()
        self._bytes = 0

    def of(self, log: LogKey, batch: Batch, upto: int) -> tuple[Share, ...]:
        """The block as far as `upto`."""
        end = max(batch.after, min(batch.upto, upto)) if upto else batch.upto
        key = (log, batch.epoch, batch.after, end, batch.gap)
        shares = self._shares.get(key)
        if shares is None:
            entries = batch.entries
            if end < batch.upto:
                entries = tuple([entry for entry in entries if entry.seq <= end])
            shares = cut(log, batch.epoch, batch.after, end, entries, batch.gap, batch.head)
            self._shares[key] = shares
            self._bytes += _weight(shares)
            while self._bytes > SHELF_BYTES and len(self._shares) > 1:
                self._bytes -= _weight(self._shares.popitem(last=False)[1])
        else:
            self._shares.move_to_end(key)
        return shares


def _weight(shares: tuple[Share, ...]) -> int:
    # An entry, its encoding in two forms, and the objects.
    return sum(3 * share.size + 500 for share in shares)
