"""The file with every setting, at its default."""

from __future__ import annotations

import textwrap

from imgateway.config.describing import describe, section_text
from imgateway.config.toml import toml

__all__ = ("generate",)


def generate() -> str:
    """A TOML file with every setting at its default, and what it means; `load` reads it as ``Settings()``."""
    lines = ["# imgateway: every setting, at its default. What you do not change you may delete."]
    section = ""
    for setting in describe():
        if setting.section != section:
            section = setting.section
            lines += ["", *_comment(section_text(section)), f"[{section}]"]
        about = f"{setting.allowed[0].upper()}{setting.allowed[1:]}" + (
            f"; {setting.unit}" if setting.unit else ""
        )
        lines += [
            "",
            *_comment(f"{setting.description} {about}."),
            f"{setting.key} = {toml(setting.default)}",
        ]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
