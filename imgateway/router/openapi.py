"""The OpenAPI 3.1 document, drawn from the same table and structs that the API works with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from imgateway import __version__
from imgateway.router.keys import SCOPES
from imgateway.router.problems import KINDS, PROBLEM_JSON, ProblemDocument
from imgateway.router.routes import Route

__all__ = ("OPENAPI_JSON", "document", "problems_of")

OPENAPI_JSON = "application/vnd.oai.openapi+json;version=3.1"
_REF = "#/components/schemas/{name}"

_ABOUT = """The HTTP API of a gateway, or of a whole cluster of gateway nodes.

Requests carry an API key: `Authorization: Bearer KEY`. Errors are problem documents (RFC 9457). Fields that
are not known are refused in what is sent; what is answered may have more of them in later versions."""


def document(routes: Sequence[Route]) -> bytes:
    """The document, in JSON."""
    return msgspec.json.format(msgspec.json.encode(_document(routes)), indent=1) + b"\n"


def problems_of(route: Route) -> tuple[str, ...]:
    """The kinds of problems that this route may answer with."""
    kinds = ["invalid-request", *route.problems]
    if route.scope:
        kinds += ["no-key", "forbidden", "too-many"]
    if route.body is not None or route.upload is not None:
        kinds += ["too-large", "wrong-content-type"]
    kinds += ["internal", "unavailable", "timeout"]
    return tuple(dict.fromkeys(kinds))


def _document(routes: Sequence[Route]) -> dict[str, Any]:
    kinds = list(dict.fromkeys(_structs(routes)))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    known = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "imgateway",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": _scopes()},
                "token": {"type": "http", "scheme": "bearer", "description": "The client's own token."},
            },
        },
    }


def _scopes() -> str:
    lines = [f"- `{scope}`: {what}" for scope, what in SCOPES.items()]
    return "\n".join(["An API key. Its scopes say what it is good for; `*` is all of them:", "", *lines])


def _structs(routes: Sequence[Route]) -> Iterator[Any]:
    yield ProblemDocument
    for route in routes:
        if route.body is not None:
            yield route.body
        for answer in route.answers.values():
            if answer is not None and not isinstance(answer, str):
                yield answer


def _operation(route: Route, known: dict[Any, Any]) -> dict[str, Any]:
    about = [route.description] if route.description else []
    if route.scope:
        about.append(f"Scope: `{route.scope}`.")
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.path.split("/")[2] if route.path.startswith("/v1/") else "service"],
    }
    if about:
        operation["description"] = "\n\n".join(about)
    parameters = [*_path_parameters(route), *_query_parameters(route)]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": bool(_required(route.body)),
            "content": {"application/json": {"schema": known[route.body]}},
        }
    if route.upload is not None:
        operation["requestBody"] = {
            "required": True,
            "description": route.upload.description,
            "content": {kind: {"schema": {"type": "string"}} for kind in route.upload.kinds},
        }
    operation["responses"] = dict(sorted(_responses(route, known)))
    if route.scope:
        operation["security"] = [{"key": []}]
    elif route.query is not None and "token" in route.query.__struct_fields__:
        operation["security"] = [{"token": []}, {}]
    else:
        operation["security"] = []
    return operation


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for segment in route.path.split("/"):
        if segment.startswith("{"):
            yield {"name": segment[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(route: Route) -> Iterator[dict[str, Any]]:
    if route.query is None:
        return
    _, components = msgspec.json.schema_components([route.query], ref_template=_REF)
    schema = components[route.query.__name__]
    for name, field in schema["properties"].items():
        field = dict(field)
        parameter = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        if "description" in field:
            parameter["description"] = field.pop("description")
        yield {**parameter, "schema": field}


def _required(struct: Any) -> list[str]:
    return [field.name for field in msgspec.structs.fields(struct) if field.required]


def _responses(route: Route, known: dict[Any, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    told: dict[int, list[str]] = {}
    for kind in problems_of(route):
        told.setdefault(KINDS[kind][0], []).append(kind)
    for status, answer in route.answers.items():
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if isinstance(answer, str):
            response["content"] = {answer: {"schema": {"type": "string"}}}
        elif answer is not None:
            response["content"] = {"application/json": {"schema": known[answer]}}
        if status in told:
            response["content"][PROBLEM_JSON] = {"schema": known[ProblemDocument]}
            told.pop(status)
        yield str(status), response
    for status, kinds in told.items():
        what = "; ".join(f"{kind}: {KINDS[kind][1]}" for kind in kinds)
        yield (
            str(status),
            {"description": what, "content": {PROBLEM_JSON: {"schema": known[ProblemDocument]}}},
        )
