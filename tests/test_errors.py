"""The tree of exceptions as its docstring draws it; close codes that tell a client what to do next."""

from __future__ import annotations

import inspect
import re

import pytest

from imgateway import errors
from imgateway.errors import (
    BadFrame,
    CloseCode,
    ConnectRefused,
    FrameRefused,
    FrameTooLarge,
    GatewayError,
    LinkError,
    LinkLost,
    LoginRefused,
    ProtocolError,
    RequestFailed,
    StoreBusy,
    UnexpectedFrame,
)

CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}


def drawn() -> dict[str, str]:
    """Name → parent as the docstring draws them; the root's parent is ''."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        found = re.match(r"(?P<branch>[ │├└─]*)(?P<name>[A-Z]\w+)(?:  |$)", line)
        if not found or not line.startswith((" ", "    ")):
            continue
        depth = (len(found["branch"]) - 4) // 4
        del path[depth:]
        parents[found["name"]] = path[-1] if path else ""
        path.append(found["name"])
    return parents


def test_the_tree_is_as_drawn() -> None:
    actual = {
        name: next((base.__name__ for base in kind.__mro__[1:] if issubclass(base, GatewayError)), "")
        for name, kind in CLASSES.items()
    }
    assert drawn() == actual
    assert len(actual) > 15


def test_the_drawing_tells_of_a_second_parent() -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if "InvalidAddress" in line)
    assert "(ValueError too)" in line
    builtin = {name for name, kind in CLASSES.items() if issubclass(kind, ValueError)}
    assert builtin == {"InvalidAddress"}


def test_all_is_complete_and_every_class_says_what_it_is() -> None:
    assert set(errors.__all__) == {*CLASSES, "CloseCode", "TAKEN_OVER"}
    assert all(kind.__doc__ for kind in CLASSES.values())


# ------------------------------------------------------------------------------------------------ close codes


def test_codes_are_unique_and_within_the_ranges_that_say_what_to_do() -> None:
    assert len(CloseCode.__members__) == len(set(CloseCode)), "an alias"
    again = {
        "LOST",
        "HEARTBEAT_TIMEOUT",
        "ACK_TIMEOUT",
        "SLOW_READER",
        "INTERNAL_ERROR",
        "LOGIN_TIMEOUT",
        "STALE",
    }
    later = {"GOING_AWAY", "OVERLOADED", "TOO_MANY_LINKS", "UNAVAILABLE"}
    ranges = {
        "left": {code.name for code in CloseCode if code == 0},
        "again": {code.name for code in CloseCode if 1 <= code <= 99},
        "later": {code.name for code in CloseCode if 100 <= code <= 199},
        "never": {code.name for code in CloseCode if 200 <= code <= 299},
    }
    assert ranges["left"] == {"NORMAL"}
    assert ranges["again"] == again
    assert ranges["later"] == later
    assert sum(map(len, ranges.values())) == len(CloseCode), "outside of all ranges"
    assert 4000 + max(CloseCode) < 5000, "WebSocket's private close codes end there"


@pytest.mark.parametrize("name", [name for name, kind in CLASSES.items() if issubclass(kind, LinkError)])
def test_a_link_error_carries_its_code(name: str) -> None:
    kind = CLASSES[name]
    expected = {
        LinkError: CloseCode.INTERNAL_ERROR,
        ProtocolError: CloseCode.BAD_FRAME,
        BadFrame: CloseCode.BAD_FRAME,
        FrameTooLarge: CloseCode.FRAME_TOO_LARGE,
        UnexpectedFrame: CloseCode.UNEXPECTED_FRAME,
        LoginRefused: CloseCode.BAD_TOKEN,
        LinkLost: CloseCode.LOST,
        StoreBusy: CloseCode.UNAVAILABLE,
    }
    error = kind("why")
    assert (error.code, error.reason, error.retry_after_s, str(error)) == (expected[kind], "why", 0.0, "why")
    assert kind().reason == ""
    other = kind("wait", CloseCode.OVERLOADED, 1.5)
    assert (other.code, other.retry_after_s) == (CloseCode.OVERLOADED, 1.5)
    assert kind.code is expected[kind], "an instance's code must not become the class's"


def test_normal_is_a_code_like_any_other() -> None:
    assert LinkError("bye", CloseCode.NORMAL).code is CloseCode.NORMAL


def test_a_refused_login_may_have_a_number_of_the_applications_own() -> None:
    assert LoginRefused("no").detail == 0
    refused = LoginRefused("no", CloseCode.REVOKED, 0.0, 1024)
    assert (refused.code, refused.detail) == (CloseCode.REVOKED, 1024)


# ------------------------------------------------------------------------------------- told to the SDK's user


@pytest.mark.parametrize("kind", [ConnectRefused, FrameRefused])
def test_a_refusal_names_its_reason_and_code(kind: type[ConnectRefused | FrameRefused]) -> None:
    error = kind(CloseCode.TOKEN_EXPIRED, "too old")
    assert (error.code, error.reason, str(error)) == (205, "too old", "too old (TOKEN_EXPIRED, code 205)")
    assert str(kind(299, "")) == "refused (code 299)"


def test_a_close_code_from_the_wire_gets_its_name() -> None:
    assert str(ConnectRefused(204, "no")) == "no (BAD_TOKEN, code 204)"


def test_a_failed_request_shows_the_beginning_of_its_body() -> None:
    error = RequestFailed(4, b"no such order\xff")
    assert (error.code, error.body) == (4, b"no such order\xff")
    assert str(error) == "request failed (code 4): no such order\ufffd"
    long = RequestFailed(4, b"x" * 10_000)
    assert len(str(long)) < 250
    assert len(long.body) == 10_000
    assert str(RequestFailed(CloseCode.STALE)) == "request failed (STALE, code 7)"
