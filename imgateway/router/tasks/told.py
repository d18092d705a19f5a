"""What goes over HTTP of push tasks; each struct is drawn in the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from imgateway.router.tasks.orders import Message
from imgateway.router.tasks.tables import ItemState
from imgateway.router.tasks.uploads import Bad

__all__ = (
    "STATES",
    "FirstLine",
    "NewTask",
    "Repush",
    "TaskLine",
    "TaskList",
    "TaskMade",
    "TaskReport",
    "TaskTold",
    "WhichResults",
    "WhichTasks",
)

FURTHEST = 2**53 - 1  # the largest number that all who read JSON take; databases take more
Rate = Annotated[float, Meta(ge=0, le=1_000_000, description="Users a second; 0: as fast as it goes.")]
At = Annotated[
    Annotated[datetime, Meta(tz=True)] | UnsetType,
    Meta(description="When to begin: RFC 3339 with an offset. Not given: at once."),
]
Name = Annotated[str, Meta(max_length=200, description="For people.")]
MsgId = Annotated[
    str,
    Meta(
        max_length=64,
        pattern="^[ -~]*$",
        description="The message's idempotency key, printable ASCII: users have it once, however many tasks "
        "push it. Empty: one is made.",
    ),
]
Strict = Annotated[
    bool, Meta(description="One bad line refuses the whole upload; else the good ones are pushed.")
]


class NewTask(Struct, frozen=True, forbid_unknown_fields=True):
    """What the task shall do. In NDJSON a first line ``{"task": {…}}`` can say the same instead."""

    name: Name = ""
    text: Annotated[str, Meta(description="The message, if it is a text.")] = ""
    message: Annotated[
        str, Meta(description='The message as JSON: {"text": …}, {"json": …} or {"body": base64}, and more.')
    ] = ""
    rate: Rate = 0.0
    at: At = UNSET
    strict: Strict = False
    msg_id: MsgId = ""


class TaskLine(Struct, frozen=True, forbid_unknown_fields=True):
    """What the first line of an NDJSON upload may say."""

    message: Message
    name: Name = ""
    rate: Rate = 0.0
    at: At = UNSET
    strict: Strict = False
    msg_id: MsgId = ""


class FirstLine(Struct, frozen=True, forbid_unknown_fields=True):
    task: TaskLine


class TaskTold(Struct, frozen=True):
    """A push task and how far it is. Times are Unix milliseconds; 0: not yet."""

    id: str
    name: str
    state: Annotated[
        str,
        Meta(
            description="uploading; scheduled; queued: nobody runs it just now; running; paused; cancelled; "
            "done; deleting: it was over for long, and is going."
        ),
    ]
    sender: str
    router: Annotated[str, Meta(description="The process that runs it; empty: none.")]
    rate: float
    at_ms: int
    created_ms: int
    started_ms: int
    finished_ms: int
    total: Annotated[int, Meta(description="Good lines.")]
    unsent: Annotated[int, Meta(description="Those that have no outcome yet.")]
    taken: Annotated[int, Meta(description="Those that a log took.")]
    refused: int
    bad: Annotated[int, Meta(description="Lines that could not be used.")]
    bad_lines: Annotated[tuple[Bad, ...], Meta(description="The first 100 of them.")]


class TaskMade(Struct, frozen=True):
    """The task that was made."""

    task: TaskTold


class TaskList(Struct, frozen=True):
    """Tasks, the newest first."""

    tasks: tuple[TaskTold, ...]
    next: Annotated[int, Meta(description="The value of `before` for the next page; 0: this was the last.")]


class WhichTasks(Struct, frozen=True, forbid_unknown_fields=True):
    before: Annotated[int, Meta(ge=0, le=FURTHEST, description="`next` of the page before.")] = 0
    limit: Annotated[int, Meta(ge=1, le=500)] = 50


class TaskReport(Struct, frozen=True):
    """What became of a task's users, now."""

    id: str
    state: str
    total: int
    delivered: Annotated[int, Meta(description="A device of the user has acknowledged it.")]
    waiting: Annotated[int, Meta(description="In the mailbox; nobody has acknowledged it yet.")]
    refused: Annotated[dict[str, int], Meta(description="By the code of the outcome.")]
    gone: Annotated[int, Meta(description="The mailbox lost it before anybody had it: age or quota.")]
    unknown: Annotated[
        int, Meta(description="Taken where nobody acknowledges, or by a log that was replaced since.")
    ]
    unsent: Annotated[int, Meta(description="No outcome yet.")]
    bad: int
    as_of_ms: int


StateName = Literal["unsent", "waiting", "refused", "delivered", "gone", "unknown"]
STATES: dict[str, ItemState] = {
    "unsent": ItemState.UNSENT,
    "waiting": ItemState.TAKEN,
    "refused": ItemState.REFUSED,
    "delivered": ItemState.DELIVERED,
    "gone": ItemState.GONE,
    "unknown": ItemState.UNKNOWN,
}


class WhichResults(Struct, frozen=True, forbid_unknown_fields=True):
    state: Annotated[tuple[StateName, ...], Meta(description="May be repeated; none: all.")] = ()
    after: Annotated[int, Meta(ge=0, le=FURTHEST, description="`next` of the page before.")] = 0
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1_000


class Repush(Struct, frozen=True, forbid_unknown_fields=True):
    """What to push once more."""

    as_new: Annotated[
        bool,
        Meta(
            description="Also what waits in a mailbox, and what nobody can tell, as a second message: users "
            "may then see both."
        ),
    ] = False
    rate: Annotated[Rate | UnsetType, Meta(description="Another rate than before.")] = UNSET
    at: At = UNSET
    finished_ms: Annotated[
        Annotated[int, Meta(ge=0, le=FURTHEST)] | UnsetType,
        Meta(
            description="The task's, as it was told before. If the task has another by now, for it was "
            "pushed again already, the answer is 409. Not given: whichever it has."
        ),
    ] = UNSET
