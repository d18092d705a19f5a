"""Making push tasks: from an upload in batches, or from a push for later at once.

Everything here blocks: it is called from a thread.
"""

from __future__ import annotations

from secrets import token_hex
from typing import IO

import msgspec
from sqlalchemy.exc import IntegrityError

from imgateway.config import LimitSettings, RouterSettings
from imgateway.frames import address_text
from imgateway.router.problems import Problem
from imgateway.router.pushing import publish_of
from imgateway.router.schema import Push
from imgateway.router.tasks.orders import BETWEEN, Message, Said, said
from imgateway.router.tasks.store import NoSuchTask, Store, Task
from imgateway.router.tasks.uploads import Bad, lines_of

__all__ = ("BAD_LINES", "Making", "Order")

BATCH = 1_000
BATCH_CHARACTERS = 2_000_000
"""Of lines' own fields in one statement: MariaDB takes 16 MB, and escapes make it some times as long."""
BAD_LINES = 100
"""Bad lines that are told one by one; more are counted."""


class Order(msgspec.Struct, frozen=True):
    """What a task shall do. `at_ms` 0: at once; `rate` 0: as fast as it goes; `msg_id` '' : the task's id."""

    name: str
    message: Message = Message()
    rate: float = 0.0
    at_ms: int = 0
    strict: bool = False
    msg_id: str = ""
    id: str = msgspec.field(default_factory=lambda: token_hex(10))
    """The task's."""


class Making:
    """Writes new tasks down.

    :param router: and `limits` may be replaced: the next task goes by them.
    """

    def __init__(self, store: Store, router: RouterSettings, limits: LimitSettings) -> None:
        self._store = store
        self.router = router
        self.limits = limits

    def said(self, order: Order) -> Said:
        """The message of an order. :raises Problem: it has none, or it is too large."""
        content = said(order.message)
        if content is None:
            raise Problem("invalid-request", "message: give one of body, text and json")
        kind, body = content
        self._fits(body)
        asked = order.message
        headers = tuple(asked.headers.items())
        return Said(order.msg_id or order.id, kind, body, headers, asked.ttl_s, asked.lane, between=BETWEEN)

    def _fits(self, body: bytes) -> None:
        most = self.limits.max_body_bytes
        if len(body) > most:
            raise Problem("too-large", f"message: a body of {len(body):,} bytes; the most are {most:,}")

    def task(
        self, sender: str, order: Order, message: Said, file: IO[bytes], kind: str, first: int
    ) -> tuple[Task, list[Bad]]:
        """Read the lines, write them in batches, and only then let the task run.

        :param message: what `said` made of the order.
        :raises Problem: the lines cannot be used.
        """
        number = self._store.begin(
            order.id, order.name, sender, msgspec.json.encode(message), order.rate, order.at_ms
        )
        try:
            return self._fill(number, order, file, kind, first)
        except NoSuchTask:
            raise Problem("unavailable", "reading the list took too long", "send it again", 5.0) from None
        except BaseException:
            self._store.discard(number)
            raise

    def _fill(
        self, number: int, order: Order, file: IO[bytes], kind: str, first: int
    ) -> tuple[Task, list[Bad]]:
        batch: list[tuple[int, str, str | None]] = []
        users: set[str] = set()
        devices: list[tuple[int, str]] = []
        bad: list[Bad] = []
        total = failed = size = 0
        most = self.router.tasks_users
        try:
            for line in lines_of(file, kind, self.limits.max_body_bytes, first):
                if isinstance(line, Bad):
                    failed += line.upto - line.line + 1
                    bad += [line] if len(bad) < BAD_LINES else []
                    continue
                total += 1
                if total > most:
                    raise Problem(
                        "too-large",
                        f"more than {most:,} lines",
                        "make several tasks, or set router.tasks_users",
                    )
                batch.append((line.line, line.address, line.own))
                if line.own is None:
                    if line.address.startswith("device:"):
                        devices.append((line.line, _whole(line.address)))
                    else:
                        users.add(line.address)
                size += len(line.own or "")
                if len(batch) == BATCH or size >= BATCH_CHARACTERS:
                    self._store.add(number, batch)
                    batch, size = [], 0
        except ValueError as error:  # no line's fault, but the file's
            raise Problem("invalid-request", str(error)) from None
        if failed and (order.strict or not total):
            some = "; ".join(f"line {one.line}: {one.error}" for one in bad[:10])
            raise Problem(
                "invalid-request",
                f"{failed:,} of {total + failed:,} lines cannot be used: {some}"
                + ("; …" if len(bad) > 10 else ""),
                "mend them" + (", or leave strict away" if total else ""),
            )
        if not total:
            raise Problem("invalid-request", "there are no lines", "send one user a line")
        if batch:
            self._store.add(number, batch)
        # The user's message is for all its devices. One publish with both would say it once, two would twice.
        same = [(n, whole) for n, whole in devices if whole in users]
        for begin in range(0, len(same), BATCH):
            self._store.readdress(number, same[begin : begin + BATCH])
        bad_lines = msgspec.json.encode(bad).decode()
        return self._store.complete(number, total, failed, bad_lines), bad

    def push(self, id: str, sender: str, push: Push, msg_id: str) -> Task:
        """A push for later; if there is a task with this id, that one.

        :raises Problem: it cannot be one, or its task was cancelled.
        """
        publish = publish_of(push, self.limits.max_addresses_service)
        self._fits(publish.body)
        message = Said(
            msg_id,
            publish.content_type,
            publish.body,
            publish.headers,
            publish.ttl_s,
            publish.lane,
            publish.qos,
            BETWEEN,
        )
        at_ms = int(push.at.timestamp() * 1000) if push.at else 0
        values = {
            "name": f"push {msg_id}",
            "sender": sender,
            "message": msgspec.json.encode(message),
            "rate": 0.0,
            "at_ms": at_ms,
        }
        to = [address_text(address) for address in publish.to]
        users = set(to)
        rows = [(n, whole if (whole := _whole(one)) in users else one, None) for n, one in enumerate(to, 1)]
        try:
            task = self._store.put(id, values, rows)
        except IntegrityError:  # another router was quicker
            task = self._store.get(id)
        if task.state == "cancelled":
            raise Problem(
                "conflict",
                f"the push with this msg_id was cancelled: task {id}",
                "push it with another msg_id, or have the task pushed again: POST /v1/tasks/ID/repush",
            )
        return task


def _whole(address: str) -> str:
    """A device's user, both as `address_text` has them; anything else as it is."""
    kind, _, rest = address.partition(":")
    return f"user:{rest.partition('/')[0]}" if kind == "device" else address
