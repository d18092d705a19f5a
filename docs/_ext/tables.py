"""Tables that are read from the code when the docs are built, so that they cannot say anything else.

``{settings-table}``: every setting, a section each. ``{metrics-table}``: every metric of a node;
``{metrics-table} MODULE``: those of its ``MEASURES``. ``{http-api}``: every route of the HTTP API.
``{policy-table}``: what the default policy allows. ``{frames-table}``: every frame. ``{link-table}``: the
life of a link. ``{docstring-table} MODULE``: the table in a module's docstring. ``{codes-table} MODULE
CLASS``: members of an enum and what the string after each of them says; ``{codes-table} MODULE CLASS FROM
TO`` some of them.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence
from enum import IntEnum
from importlib import import_module
from types import SimpleNamespace
from typing import Any, cast

from docutils import nodes
from docutils.core import publish_doctree
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from imgateway import config
from imgateway.core.counters import MEASURES
from imgateway.core.handshake import TABLE, Event, LinkState
from imgateway.core.policy import ACTIONS, RULES
from imgateway.frames import CLIENT_FRAMES, FRAME_NAMES, KINDS, SERVER_FRAMES
from imgateway.node.exchange import UNSUPPORTED
from imgateway.router.doors import Doors
from imgateway.router.nodes import Fleet
from imgateway.router.openapi import document
from imgateway.router.pages import Pages
from imgateway.router.pushing import Pushing
from imgateway.router.tasks import TaskPages
from imgateway.router.users import Users


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> nodes.table:
    """A table; what stands between backquotes is code."""
    rows = list(rows)
    group = nodes.tgroup(cols=len(heads))
    for column in zip(heads, *rows, strict=True):
        group += nodes.colspec(colwidth=min(60, max(map(len, column))))
    head, body = nodes.thead(), nodes.tbody()
    head += row(heads)
    body += [row(cells) for cells in rows]
    group += [head, body]
    return nodes.table("", group)


def row(cells: Sequence[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", paragraph(cell)) for cell in cells))


def paragraph(text: str) -> nodes.paragraph:
    pieces = text.split("`")
    return nodes.paragraph(
        "", "", *(nodes.literal("", p) if i % 2 else nodes.Text(p) for i, p in enumerate(pieces) if p)
    )


class SettingsTable(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for name in dict.fromkeys(setting.section for setting in config.describe()):
            section = nodes.section(ids=[f"settings-{name}"], names=[f"settings-{name}"])
            section += nodes.title("", "", nodes.Text(name))
            section += nodes.paragraph("", config.section_text(name))
            section += table(
                ("Setting", "Default", "Allowed", "What it is"),
                (self.cells(setting) for setting in config.describe() if setting.section == name),
            )
            found.append(section)
        return found

    def cells(self, setting: Any) -> Sequence[str]:
        allowed = setting.allowed + (f"; {setting.unit}" if setting.unit else "")
        default = setting.default
        shown = ", ".join(f"`{one}`" for one in default) if isinstance(default, tuple) else f"`{default}`"
        return (
            f"`{setting.path}`",
            shown if default not in ("", ()) else "empty",
            allowed,
            setting.description,
        )


class MetricsTable(SphinxDirective):
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        measures = import_module(self.arguments[0]).MEASURES if self.arguments else MEASURES
        rows = (
            (f"`{one.metric}`", one.kind, f"`{one.label}`" if one.label else "", one.help) for one in measures
        )
        return [table(("Metric", "Kind", "Label", "What it counts"), rows)]


class PolicyTable(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        rows = (
            [
                f"`{kind}`",
                *(RULES[act, kind].value if (act, kind) in RULES else "services" for act in ACTIONS),
            ]
            for kind in sorted(KINDS)
        )
        return [table(("Address", *ACTIONS), rows)]


class FramesTable(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [table(("Frame", "Way", "Fields", "A node of this version"), map(self.cells, FRAME_NAMES))]

    def cells(self, frame: Any) -> Sequence[str]:
        way = " and ".join(
            text
            for text, frames in (("client to gateway", CLIENT_FRAMES), ("gateway to client", SERVER_FRAMES))
            if frame in frames
        )
        fields = ", ".join(f"`{name}`" for name in frame.__struct_fields__)
        return (f"`{FRAME_NAMES[frame]}`", way, fields, "refuses it" if frame in UNSUPPORTED else "")


class LinkTable(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        # The rows of a state, but for those that hold in all of them.
        everywhere = [event for event in Event if all((state, event) in TABLE for state in LinkState)]
        rows = [
            (f"`{state.value}`", event.value, f"`{after.value}`")
            for (state, event), after in TABLE.items()
            if event not in everywhere
        ]
        rows += [("any", event.value, f"`{TABLE[LinkState.OPEN, event].value}`") for event in everywhere]
        return [table(("State", "What happens", "Then"), rows)]


class DocstringTable(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = inspect.cleandoc(import_module(self.arguments[0]).__doc__ or "")
        (found,) = publish_doctree(text, settings_overrides={"report_level": 5}).findall(nodes.table)
        for name in list(found.findall(nodes.title_reference)):  # `name` in a docstring
            name.replace_self(nodes.literal("", name.astext()))
        return [found]


class CodesTable(SphinxDirective):
    required_arguments = 2
    optional_arguments = 2

    def run(self) -> list[nodes.Node]:
        module, name, *bounds = self.arguments
        low, high = map(int, bounds or (0, 999))
        said = meanings(module, name)
        codes: type[IntEnum] = getattr(import_module(module), name)
        rows = (
            (str(int(code)), f"`{code.name}`", said.get(code.name, ""))
            for code in codes
            if low <= code <= high
        )
        return [table(("Code", "Name", "Meaning"), rows)]


def meanings(module: str, name: str) -> dict[str, str]:
    """What the string after each member of an enum says."""
    found = ModuleAnalyzer.for_module(module).find_attr_docs()
    return {member: " ".join(lines).strip() for (owner, member), lines in found.items() if owner == name}


def api_routes() -> tuple[Any, ...]:
    """Every route of the HTTP API; what they do needs a gateway, what they are does not."""
    nobody: Any = None
    settings = config.RouterSettings()
    parts: list[Any] = [
        Doors(nobody, nobody, nobody, settings, 30.0, nobody),
        Pushing(nobody, config.LimitSettings()),
        TaskPages(cast(Any, SimpleNamespace(max_upload_bytes=settings.tasks_upload_bytes)), nobody),
        Users(nobody, nobody),
        Fleet(nobody),
        Pages(nobody, nobody, nobody),
    ]
    return tuple(route for part in parts for route in part.routes())


class HttpApi(SphinxDirective):
    """Drawn from the same OpenAPI document that is served."""

    def run(self) -> list[nodes.Node]:
        routes = api_routes()
        self.document = json.loads(document(routes))
        self.pending: list[str] = []
        found: list[nodes.Node] = [self.operation(route) for route in routes]
        shown: set[str] = set()
        fields = self.section("What the fields hold", "http-api-schemas")
        while names := [name for name in dict.fromkeys(self.pending) if name not in shown]:
            for name in names:
                shown.add(name)
                fields += self.schema(name)
        return [*found, fields]

    def section(self, title: str, name: str) -> nodes.section:
        made = nodes.section(ids=[name], names=[name])
        made += nodes.title("", "", nodes.Text(title))
        return made

    def operation(self, route: Any) -> nodes.section:
        told = self.document["paths"][route.path][route.method.lower()]
        made = self.section(f"{route.method} {route.path}", f"http-api-{route.operation}")
        made += paragraph(told["summary"])
        made += [paragraph(text) for text in told.get("description", "").split("\n\n") if text]
        rows = [
            (f"`{one['name']}`", one["in"], *self.cells(one["schema"], one.get("description", "")))
            for one in told.get("parameters", ())
        ]
        if rows:
            made += table(("Parameter", "In", "Kind", "What it is"), rows)
        answers = []
        if "requestBody" in told:
            told_body = told["requestBody"]
            kinds = self.contents(told_body["content"])
            answers.append(("body", kinds, told_body.get("description", "")))
        answers += [
            (status, self.contents(answer.get("content", {})), answer["description"])
            for status, answer in told["responses"].items()
        ]
        made += table(("Body, statuses", "Content", "What it is"), answers)
        return made

    def contents(self, content: Any) -> str:
        return ", ".join(
            self.kind(one["schema"]) if kind == "application/json" else f"`{kind}`"
            for kind, one in content.items()
        )

    def schema(self, name: str) -> list[nodes.Node]:
        schema = self.document["components"]["schemas"][name]
        made: list[nodes.Node] = [nodes.target("", "", ids=[f"http-api-schema-{name.lower()}"])]
        made.append(paragraph(f"`{name}`: {schema.get('description', '')}".rstrip(": ")))
        required = schema.get("required", ())
        rows = [
            (f"`{field}`", *self.cells(one, one.get("description", "")), "yes" if field in required else "")
            for field, one in schema.get("properties", {}).items()
        ]
        if rows:
            made.append(table(("Field", "Kind", "What it is", "Always"), rows))
        elif "enum" in schema:
            made.append(paragraph(", ".join(f"`{one}`" for one in schema["enum"])))
        return made

    def cells(self, schema: Any, about: str) -> tuple[str, str]:
        if "default" in schema and schema["default"] not in ("", [], {}):
            about = f"{about} Default: `{json.dumps(schema['default'])}`.".strip()
        return self.kind(schema), about

    def kind(self, schema: Any) -> str:
        """``list of text`` for an array of strings; structs by their names."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            self.pending.append(name)
            return f"`{name}`"
        if "anyOf" in schema:
            return " or ".join(self.kind(one) for one in schema["anyOf"])
        if "enum" in schema:
            return ", ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
        if schema.get("type") == "array":
            return f"list of {self.kind(schema.get('items', {}))}"
        if schema.get("type") == "object":
            return f"object: name → {self.kind(schema.get('additionalProperties', {}))}"
        names = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null"}
        return names.get(schema.get("type", ""), schema.get("type", "any"))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("http-api", HttpApi)
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("metrics-table", MetricsTable)
    app.add_directive("policy-table", PolicyTable)
    app.add_directive("frames-table", FramesTable)
    app.add_directive("link-table", LinkTable)
    app.add_directive("docstring-table", DocstringTable)
    app.add_directive("codes-table", CodesTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
