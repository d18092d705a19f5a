"""Tables that are read from the code when the docs are built, so that they cannot say anything else.

``{settings-table}``: every setting, a section each. ``{metrics-table}``: every metric. ``{policy-table}``:
what the default policy allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from imgateway import config
from imgateway.core.counters import MEASURES
from imgateway.core.policy import ACTIONS, RULES
from imgateway.frames import KINDS


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> nodes.table:
    """A table; what stands between backquotes is code."""
    group = nodes.tgroup(cols=len(heads))
    group += [nodes.colspec(colwidth=1) for _ in heads]
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
    def run(self) -> list[nodes.Node]:
        rows = (
            (f"`{one.metric}`", one.kind, f"`{one.label}`" if one.label else "", one.help) for one in MEASURES
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


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("metrics-table", MetricsTable)
    app.add_directive("policy-table", PolicyTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
