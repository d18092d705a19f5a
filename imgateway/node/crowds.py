"""Crowds: those who follow a log, served in slices.

What came goes to a crowd in rounds: one turn of the process serves so many and no more, whatever log they
follow; then others have their turn, and who is left is served in the next. What comes to a crowd meanwhile is
its next round, as one delivery. Is that more than one delivery may hold, the entries are let go and the next
round only says how far the log has grown: then everybody reads.

Most logs have few followers, and those are served where they stand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from imgateway.core.follow import Follow
from imgateway.frames import Entry, LogKey
from imgateway.node.delivery import READ_BYTES, Delivery, Shared
from imgateway.node.rounds import cut_off

__all__ = ("SLICE", "Crowds")

SLICE = 300
"""Followers served in one turn: 3 ms of them."""
FOLLOWER_BYTES = 8_192
"""What a follower gets counts as one more for each of these: larger frames take longer to send."""
MAX_PASSING = 16
"""Of qos 0 messages that wait for a crowd's round to end; there is no later for more."""


class News:
    """What came to a crowd since its round began. `entries` None: they must be read."""

    __slots__ = ("after", "entries", "epoch", "size", "upto")

    def __init__(self, epoch: int, after: int, upto: int, entries: tuple[Entry, ...] | None) -> None:
        self.epoch = epoch
        self.after = after
        self.upto = upto
        self.entries = entries
        self.size = sum([len(one.message) for one in entries or ()])

    def join(self, later: News, most: int) -> None:
        """What came after this goes with it, up to `most` entries."""
        mine, others = self.entries, later.entries
        self.size += later.size
        if (
            mine is not None
            and others is not None
            and (later.epoch, later.after) == (self.epoch, self.upto)
            and len(mine) + len(others) <= most
            and self.size <= READ_BYTES
        ):
            self.entries = (*mine, *others)
        else:
            self.entries = None
        self.epoch, self.upto = later.epoch, later.upto


class Crowd:
    """Who follows one log on this node, also those that are not in their place yet: what arrives raises their
    heads.

    :ivar left: who is yet to be served in the round that goes on, backwards.
    :ivar is_busy: it stands in the line, or is being served.
    """

    __slots__ = ("cost", "is_busy", "left", "log", "members", "news", "passing", "serve")

    def __init__(self, log: LogKey) -> None:
        self.log = log
        self.members: dict[Follow, None] = {}
        self.left: list[Follow] = []
        self.serve: Callable[[Follow], None]
        self.cost = 1
        self.news: News | None = None
        self.passing: deque[Entry] | None = None
        self.is_busy = False


class Crowds:
    """By log: the crowds of a node."""

    def __init__(self, delivery: Delivery, reactor: IReactorTime) -> None:
        self._delivery = delivery
        self._reactor = reactor
        self._crowds: dict[LogKey, Crowd] = {}
        self._line: deque[Crowd] = deque()
        self._left = SLICE
        self._turning: IDelayedCall | None = None

    def __len__(self) -> int:
        """Logs that are followed."""
        return len(self._crowds)

    def stop(self) -> None:
        """Nobody is served any more."""
        self._line.clear()
        if self._turning is not None:
            self._turning.cancel()
            self._turning = None

    def enter(self, follow: Follow) -> None:
        crowd = self._crowds.get(follow.log)
        if crowd is None:
            crowd = self._crowds[follow.log] = Crowd(follow.log)
        crowd.members[follow] = None

    def leave(self, follow: Follow) -> bool:
        """Whether it was the last."""
        members = self._crowds[follow.log].members
        del members[follow]
        if not members:
            del self._crowds[follow.log]
        return not members

    # ------------------------------------------------------------------------------------------------- news

    def arrived(self, log: LogKey, epoch: int, after: int, upto: int, entries: tuple[Entry, ...]) -> None:
        """Entries for everyone who stands right before them."""
        crowd = self._crowds.get(log)
        if crowd is None:
            return
        if len(crowd.members) == 1 and self._left > 0 and not (crowd.is_busy or self._line):
            (lone,) = crowd.members
            size = sum([len(one.message) for one in entries])
            self._left -= 1 + size // FOLLOWER_BYTES
            try:
                self._delivery.offer(lone, log, epoch, after, upto, entries, size, None)
            except Exception:
                cut_off(lone.session, Failure())
            if self._left <= 0:
                self._turn_soon()
            return
        limits = self._delivery.limits
        news = News(epoch, after, upto, entries)
        if len(entries) > limits.deliver_window_entries or (
            news.size > limits.deliver_window_bytes and len(entries) > 1
        ):
            news.entries = None
        self._add(crowd, news)

    def moved(self, log: LogKey, epoch: int, head: int) -> None:
        """The log grew: whoever is live reads."""
        crowd = self._crowds.get(log)
        if crowd is not None:
            self._add(crowd, News(epoch, -1, head, None))

    def _add(self, crowd: Crowd, news: News) -> None:
        if crowd.news is None:
            crowd.news = news
        else:
            crowd.news.join(news, self._delivery.limits.deliver_window_entries)
        self._serve(crowd)

    def passed(self, log: LogKey, entry: Entry) -> None:
        """qos 0: to the links that can take it now."""
        crowd = self._crowds.get(log)
        if crowd is None:
            return
        if crowd.passing is None:
            crowd.passing = deque()
        if len(crowd.passing) < MAX_PASSING:
            crowd.passing.append(entry)
            self._serve(crowd)

    # --------------------------------------------------------------------------------------------- in turns

    def _serve(self, crowd: Crowd) -> None:
        """Its first slice goes out now, unless this turn has served enough, or others wait."""
        if crowd.is_busy:
            return
        if self._left > 0 and not self._line:
            self._go_on(crowd)
        else:
            self._stand_in_line(crowd)

    def _stand_in_line(self, crowd: Crowd) -> None:
        crowd.is_busy = True
        self._line.append(crowd)
        self._turn_soon()

    def _turn_soon(self) -> None:
        if self._turning is None:
            self._turning = self._reactor.callLater(0, self._turn)

    def _turn(self) -> None:
        self._turning = None
        self._left = SLICE
        while self._line and self._left > 0:
            self._go_on(self._line.popleft())
        if self._line:
            self._turn_soon()

    def _go_on(self, crowd: Crowd) -> None:
        crowd.is_busy = True  # what sending brings about may bring news
        while self._left > 0 and (crowd.left or self._begin(crowd)):
            follow = crowd.left.pop()
            if follow not in crowd.members:
                continue
            self._left -= crowd.cost
            try:
                crowd.serve(follow)
            except Exception:
                cut_off(follow.session, Failure())  # the others have nothing to do with it
        crowd.is_busy = False
        if crowd.left or crowd.news is not None or crowd.passing:
            self._stand_in_line(crowd)
        elif self._left <= 0:
            self._turn_soon()

    def _begin(self, crowd: Crowd) -> bool:
        """A round of what came; False: nothing did."""
        delivery, members = self._delivery, crowd.members
        shared: Shared | None = {} if len(members) > 1 else None
        if crowd.passing:
            entry = crowd.passing.popleft()
            size = len(entry.message)
            crowd.serve = lambda follow: delivery.passed(follow, entry, shared)
        elif crowd.news is not None:
            news, crowd.news = crowd.news, None
            epoch, after, upto, entries, size = news.epoch, news.after, news.upto, news.entries, news.size
            if entries is None:
                size = 0
                crowd.serve = lambda follow: delivery.moved(follow, epoch, upto)
            else:
                taken = entries
                crowd.serve = lambda follow: delivery.offer(
                    follow, follow.log, epoch, after, upto, taken, size, shared
                )
        else:
            return False
        crowd.cost = 1 + size // FOLLOWER_BYTES
        crowd.left = [*members]
        crowd.left.reverse()
        return bool(crowd.left)
