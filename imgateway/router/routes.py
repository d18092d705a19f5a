"""The table of routes: one row says how a request is asked, checked and answered, and the OpenAPI document is
drawn from the same row.

Why no framework: ids are one percent-decoded segment of the path each and may hold a ``/`` (``a%2Fb``), which
routers that match the decoded path take for two; what is left of one is this table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import IO, Any, Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from msgspec import Struct

from imgateway.router.problems import Problem

__all__ = ("Call", "Page", "Part", "Route", "Table", "Upload", "query_of")


class Upload(Struct, frozen=True):
    """A body that is taken as it is, on disk above 1 MB, instead of a JSON object."""

    kinds: tuple[str, ...]
    """The content types that are taken."""
    max_bytes: Callable[[], int]
    """The most that it may have now: the setting may be read anew."""
    description: str


class Page(Struct, frozen=True):
    """An answer that is no JSON object of a schema."""

    kind: str
    """The content type."""
    data: bytes
    headers: Mapping[str, str] = {}


class Call(Struct, frozen=True):
    """One request, checked against its route."""

    path: Mapping[str, str] = {}
    """The segments in braces, decoded."""
    query: Any = None
    """The route's query struct."""
    body: Any = None
    """The route's body struct."""
    file: IO[bytes] | None = None
    """The body of a route with `upload`, at its start; closed when the request is answered."""
    kind: str = ""
    """The body's content type, without parameters, in lower case."""
    key: str = ""
    """The id of the API key; empty where none is asked for."""
    scopes: frozenset[str] = frozenset()
    """What that key may do."""
    token: str = ""
    """What stood in Authorization: Bearer, on routes that ask for no key."""
    accept: str = ""
    peer: str = ""
    public: bool = False
    """It came through the clients' port."""
    known: dict[str, str] = {}
    """What is told if it may be done or not: the `msg_id` of what is pushed, and how to ask `again`."""

    @property
    def sender(self) -> str:
        """Who sends what this request publishes."""
        return f"service:{self.key}"


class Route(Struct, frozen=True):
    """One row.

    `answers`: status → the struct that is answered with it (None: no body; a content type: a `Page` of that
    kind); what `do` returns is answered with the first status whose type it has. `problems`: the kinds that
    this row adds to those that any may have. `scope` '' : no API key is asked for. `public`: for clients too.
    `waits_s`: (the body struct) → how long its answer may take; None: as long as any.
    """

    method: str
    path: str
    do: Callable[[Call], Any]
    summary: str
    scope: str
    answers: Mapping[int, type[Struct] | str | None]
    query: type[Struct] | None = None
    body: type[Struct] | None = None
    upload: Upload | None = None
    problems: tuple[str, ...] = ()
    public: bool = False
    description: str = ""
    waits_s: Callable[[Any], float] | None = None

    @property
    def operation(self) -> str:
        """Its name in the OpenAPI document: the verb and the words of the path."""
        words = re.findall(r"[a-z_.]+", self.path.removeprefix("/v1"))
        return "_".join([self.method.lower(), *words]).replace(".", "_")

    def status_of(self, result: Any) -> int:
        """The status that `result` is answered with."""
        for status, answer in self.answers.items():
            if answer is None:
                fits = result is None
            elif isinstance(answer, str):
                fits = isinstance(result, Page)
            else:
                fits = isinstance(result, answer)
            if fits:
                return status
        raise TypeError(f"{self.method} {self.path} answered with {type(result).__name__}")


class Part(Protocol):
    """What adds routes to the API."""

    def routes(self) -> Sequence[Route]: ...


class Table:
    """Finds the route of a request.

    :raises ValueError: two rows are for the same method and path.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._rows: dict[int, list[tuple[tuple[str, ...], dict[str, Route]]]] = {}
        for route in routes:
            segments = tuple(route.path.split("/")[1:])
            row = self._row(segments)
            if route.method in row:
                raise ValueError(f"two routes for {route.method} {route.path}")
            row[route.method] = route

    def _row(self, segments: tuple[str, ...]) -> dict[str, Route]:
        rows = self._rows.setdefault(len(segments), [])
        for known, row in rows:
            if known == segments:
                return row
        rows.append((segments, {}))
        return rows[-1][1]

    def find(self, method: str, path: bytes) -> tuple[Route, dict[str, str]]:
        """The route and the decoded segments of its path; HEAD is GET.

        :raises Problem: there is no such path, or not with this method.
        """
        segments = path.split(b"/")[1:]
        for pattern, row in self._rows.get(len(segments), ()):
            found = _match(pattern, segments)
            if found is None:
                continue
            route = row.get("GET" if method == "HEAD" else method)
            if route is None:
                allowed = sorted({*row, *(["HEAD"] if "GET" in row else [])})
                raise Problem(
                    "method-not-allowed",
                    f"{method[:20]} is not for this path",
                    f"it takes {', '.join(allowed)}",
                    headers={"Allow": ", ".join(allowed)},
                )
            return route, found
        raise Problem("not-found", "there is no such path", "/openapi.json lists those that there are")


def _match(pattern: tuple[str, ...], segments: list[bytes]) -> dict[str, str] | None:
    found = {}
    for wanted, segment in zip(pattern, segments, strict=True):
        if not wanted.startswith("{"):
            if segment != wanted.encode():
                return None
            continue
        if not segment:
            return None
        try:
            found[wanted[1:-1]] = unquote_to_bytes(segment).decode()
        except UnicodeDecodeError:
            raise Problem(
                "invalid-request", f"{wanted} in the path is not UTF-8", "percent-encode its UTF-8 bytes"
            ) from None
    return found


def query_of(kind: type[Struct] | None, text: bytes) -> Any:
    """What stands after the ``?``, as the struct; names with a list type may be repeated.

    :raises Problem: an unknown name, a value that does not fit, a repetition.
    """
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError:  # not ASCII, not UTF-8 once decoded, or too many
        raise Problem(
            "invalid-request", "the query is not UTF-8, percent-encoded, of at most 1,000 values"
        ) from None
    if kind is None:
        kind = _Nothing
    many = _repeated(kind)
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in many:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise Problem("invalid-request", f"the query has {name} twice", "give it once")
        else:
            values[name] = value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Problem("invalid-request", f"the query: {error}", "see /openapi.json") from None


@cache  # msgspec evaluates the annotations anew each time: a fifth of a small request
def _repeated(kind: type[Struct]) -> frozenset[str]:
    """The names that may stand in a query more than once."""
    fields = msgspec.structs.fields(kind)
    return frozenset(field.encode_name for field in fields if isinstance(field.default, tuple))


class _Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No query."""
