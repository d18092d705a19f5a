"""What went wrong with a request, as a problem document (RFC 9457): for programs a kind, for people what
happened and what to do."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from imgateway.errors import GatewayError

__all__ = ("KINDS", "PROBLEM_JSON", "Problem", "ProblemDocument")

PROBLEM_JSON = "application/problem+json"

KINDS: dict[str, tuple[int, str]] = {
    "invalid-request": (400, "The request is not as the API wants it"),
    "no-key": (401, "No API key, or not a good one"),
    "bad-token": (401, "No token, or not a good one"),
    "forbidden": (403, "The API key may not do this"),
    "not-found": (404, "There is no such thing"),
    "gone": (404, "The client is not connected"),
    "method-not-allowed": (405, "Not with this method"),
    "conflict": (409, "Not in the state that it is in"),
    "too-large": (413, "The body is too large"),
    "wrong-content-type": (415, "The body is of another kind than is taken here"),
    "too-many": (429, "Too many requests"),
    "internal": (500, "The gateway failed"),
    "client-failed": (502, "The client could not be asked"),
    "unavailable": (503, "Not just now"),
    "timeout": (504, "No answer in time"),
}
"""The kinds of problems: their HTTP status and title."""


class ProblemDocument(Struct, frozen=True):
    """A problem (RFC 9457), as application/problem+json."""

    type: Annotated[str, Meta(description="urn:imgateway:problem: and the kind.")]
    title: Annotated[str, Meta(description="The kind in words; always the same for the same kind.")]
    status: Annotated[int, Meta(description="The HTTP status.")]
    detail: Annotated[str, Meta(description="What is wrong with this request.")]
    advice: Annotated[str, Meta(description="What to do about it.")]
    code: Annotated[int | UnsetType, Meta(description="With gone and client-failed: the ResponseCode.")] = (
        UNSET
    )
    msg_id: Annotated[
        str | UnsetType,
        Meta(
            description="Of a push, or of a task's message, that may be taken or not: the msg_id that it "
            "had, or was given. With it the same can be asked again."
        ),
    ] = UNSET


class Problem(GatewayError):
    """A request that gets a problem for an answer.

    :param kind: one of `KINDS`, which settles status and title.
    :param detail: what is wrong with this request; without keys and tokens. What it quotes may be any text.
    :param advice: what the caller can do.
    :param retry_after_s: goes into the Retry-After header, rounded up.
    :param code: the ResponseCode that it stands for.
    :param headers: further headers of the answer.
    :param msg_id: of the push that it is about.
    :param in_doubt: what was asked may be done or not.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        advice: str = "",
        retry_after_s: float | None = None,
        code: int | None = None,
        headers: dict[str, str] | None = None,
        msg_id: str = "",
        in_doubt: bool = False,
    ) -> None:
        detail, advice = _writable(detail), _writable(advice)
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = KINDS[kind]
        self.detail = detail
        self.advice = advice
        self.retry_after_s = retry_after_s
        self.code = code
        self.headers = headers or {}
        self.msg_id = msg_id
        self.in_doubt = in_doubt

    def document(self) -> bytes:
        """The document, in JSON."""
        code = UNSET if self.code is None else self.code
        kind = f"urn:imgateway:problem:{self.kind}"
        told = ProblemDocument(
            kind, self.title, self.status, self.detail, self.advice, code, self.msg_id or UNSET
        )
        return msgspec.json.encode(told) + b"\n"


def _writable(text: str) -> str:
    """The text with lone surrogates, which no UTF-8 can say, as escapes."""
    return text.encode(errors="backslashreplace").decode()
