"""Deliveries that many get: cut to size, and written once for all whose links write them the same.

What a ring sends is cut into shares of some 48 KB, of which a link with little room takes one at a time. A
share keeps what it looks like in each form, and the blocks that laggards and pullers read are kept for a
while, so that the work is bounded by blocks and forms, not by readers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from imgateway.core.counters import Counters
from imgateway.core.session import Session
from imgateway.frames import Batch, Deliver, Entry, LogKey
from imgateway.interfaces import ICodec
from imgateway.node.delivery import Delivery
from imgateway.node.link import Link

__all__ = ("SHARE_BYTES", "Form", "Forms", "Share", "Shelf", "cut")

SHARE_BYTES = 49_152
"""Of entries in one Deliver, if it has more than one: below what stops the reading of a link."""
SHELF_BYTES = 16_777_216
"""Of written blocks that are kept for whoever reads them next."""
ANY_NUMBER = 1 << 30
"""The window of a codec that leaves it to the node."""
MAX_WINDOWS = 1_000
SHARE_WEIGHT = 1_000
"""What a share takes besides: its objects, and its place on the shelf."""


class Form:
    """How a link's deliveries are written: by which kind of codec, how compressed, how large at most.

    One object for all links that are alike in this; sessions keep it, and what is written is looked up by it.

    :ivar is_mail: its codec has a way of its own for the usual mail.
    :ivar is_shared: False: its codec writes for one link alone, so that nothing written is worth keeping.
    :ivar kind: the form by which what is written is kept, if this one differs from it in the window only.
    :ivar window: entries of durable logs that its codec wants on their way at once.
    """

    __slots__ = ("compression", "counters", "is_mail", "is_shared", "kind", "window")

    def __init__(
        self,
        compression: str,
        is_shared: bool,
        window: int,
        counters: Counters,
        kind: Form | None = None,
        is_mail: bool = False,
    ) -> None:
        self.compression = compression
        self.is_shared = is_shared
        self.is_mail = is_mail
        self.window = window
        self.counters = counters
        self.kind = kind

    def key(self) -> Form:
        """What is written for one form is for all with this key."""
        return self.kind or self

    def fit(self, codec: ICodec) -> None:
        """The codec of its link may want another number of entries on their way than before."""
        if not self.is_shared:
            self.window = codec.window or ANY_NUMBER

    def written(self, before: int, after: int) -> None:
        """So many bytes of messages became so many of frames."""
        if self.compression:
            self.counters.compression_in[self.compression] += before
            self.counters.compression_out[self.compression] += after


class Forms:
    """Those in use: as many as there are kinds of codecs, compressions and sizes of transports. Windows are
    chosen by clients: of those `MAX_WINDOWS` are kept, and share what is written with all others.

    :param compressions: that the settings allow; each client gets the first of its own.
    """

    def __init__(self, compressions: Sequence[str], counters: Counters) -> None:
        self._counters = counters
        self._compressions = {name: name for name in compressions}
        self._forms: dict[tuple[str, str, int, bool], Form] = {}
        self._windows: dict[tuple[Form, int], Form] = {}

    def of(self, link: Link, offered: Sequence[str]) -> Form:
        """The form of a link whose client offered these compressions."""
        traits, codec = link.wire.traits, link.codec
        is_mail, compression = traits.mail, ""
        if offered:
            known = traits.compressions
            name = next((one for one in offered if one in known and one in self._compressions), "")
            compression = self._compressions.get(name, "")
        wire, window = codec.wire, codec.window or ANY_NUMBER
        if not wire:
            return Form(compression, False, window, self._counters, is_mail=is_mail)
        key = (wire, compression, link.connection.max_send_bytes, is_mail)
        form = self._forms.get(key)
        if form is None:
            form = Form(compression, True, ANY_NUMBER, self._counters, is_mail=is_mail)
            self._forms[key] = form
        return form if window == ANY_NUMBER else self._with(form, window)

    def _with(self, form: Form, window: int) -> Form:
        other = self._windows.get((form, window))
        if other is None:
            other = Form(form.compression, True, window, self._counters, form, form.is_mail)
            if len(self._windows) < MAX_WINDOWS:
                self._windows[form, window] = other
        return other


class Share:
    """One Deliver for many.

    :ivar shelf: where it stands, and is to tell what it takes.
    """

    __slots__ = ("_said", "deliver", "log", "shelf", "size", "upto")

    def __init__(self, log: LogKey, deliver: Deliver, size: int) -> None:
        self.log = log
        self.deliver = deliver
        self.upto = deliver.upto
        self.size = size
        self.shelf: Shelf | None = None
        self._said: dict[Form, tuple[bytes, ...]] = {}

    def weight(self) -> int:
        """Bytes that it takes: its messages, what they look like in each form, and the objects."""
        return self.size + sum(len(data) for said in self._said.values() for data in said) + SHARE_WEIGHT

    def said(self, delivery: Delivery, session: Session) -> tuple[bytes, ...]:
        """What goes to this session: one frame, more where its wire takes one entry at a time."""
        form: Form = session.form.key()
        if not form.is_shared and not form.compression:
            # Done for each receiver, so without more ado; what cannot be said whole is said in pieces below.
            link, deliver = session.link, self.deliver
            if len(deliver.entries) < 2 or link.wire.traits.batches:
                data = delivery.say(link, deliver)
                if data is not None:
                    return (data,) if data else ()
        said = self._said.get(form)
        if said is None:
            said = tuple(_written(delivery, session.link, self.deliver, form.compression))
            size = sum(map(len, said))
            form.written(self.size, size)
            if form.is_shared:
                self._said[form] = said
                if self.shelf is not None:
                    self.shelf.grew(size)
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
        pulled=deliver.pulled,
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
    """The shares of blocks that were read of late, in the forms in which they were written; all together up
    to `SHELF_BYTES`."""

    def __init__(self) -> None:
        self._shares: OrderedDict[tuple[Any, ...], tuple[Share, ...]] = OrderedDict()
        self._bytes = 0

    def of(self, log: LogKey, batch: Batch, upto: int) -> tuple[Share, ...]:
        """The block, to send as much of it as stands up to `upto`; 0: all of it, as the answer to a Pull."""
        end = max(batch.after, min(batch.upto, upto)) if upto else batch.upto
        # How far the ring goes is not written anew for each message that comes, but a reader must hear that
        # there is more: it asks on as long as there is.
        key = (log, batch.epoch, batch.after, end, batch.gap, batch.head > end, not upto)
        shares = self._shares.get(key)
        if shares is None:
            entries = batch.entries
            if end < batch.upto:
                entries = tuple([entry for entry in entries if entry.seq <= end])
            shares = cut(log, batch.epoch, batch.after, end, entries, batch.gap, batch.head)
            if not upto:
                shares = tuple([Share(log, replace(one.deliver, pulled=True), one.size) for one in shares])
            if entries:  # else its place is whatever the reader said, and not a border of blocks
                self._shares[key] = shares
                for share in shares:
                    share.shelf = self
                self.grew(sum(share.weight() for share in shares))
        else:
            self._shares.move_to_end(key)
        return shares

    def grew(self, size: int) -> None:
        """What stands here takes so much more: those that were not asked for for longest go."""
        self._bytes += size
        while self._bytes > SHELF_BYTES and self._shares:
            for share in self._shares.popitem(last=False)[1]:
                share.shelf = None
                self._bytes -= share.weight()
