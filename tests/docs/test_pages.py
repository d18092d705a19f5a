"""What the pages say about themselves and about the code's tables."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from enum import IntEnum
from pathlib import Path
from typing import Any

import click
import pytest

from imgateway import errors, frames
from imgateway.cli import main
from imgateway.config import describe

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in [*DOCS.rglob("*.md"), ROOT / "README.md"] if "_build" not in page.parts)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def tables() -> Any:
    spec = importlib.util.spec_from_file_location("tables", DOCS / "_ext" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "codes", [errors.CloseCode, frames.OutcomeCode, frames.ResponseCode, frames.RefusedCode]
)
def test_every_code_has_a_meaning(codes: type[IntEnum], tables: Any) -> None:
    said = tables.meanings(codes.__module__, codes.__name__)
    assert set(said) == {code.name for code in codes}


def test_the_frames_that_wait_for_their_feature(tables: Any) -> None:
    cells = tables.FramesTable.cells
    assert [name for frame, name in frames.FRAME_NAMES.items() if cells(None, frame)[3]] == ["seen"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_settings_that_pages_name_exist(page: Path) -> None:
    known = {setting.path for setting in describe()}
    sections = {path.partition(".")[0] for path in known}
    for path in re.findall(r"`(\w+\.\w+)(?:=[^`]*)?`", page.read_text()):
        section, _, key = path.partition(".")
        if section in sections and key not in ("py", "toml", "env"):
            # `limits` and `session` are fields of Welcome as well.
            assert path in known or (section == "limits" and key in frames.Limits.__struct_fields__), path


@pytest.mark.parametrize("page", sorted((DOCS / "protocol").rglob("*.md")), ids=name_of)
def test_the_codes_that_the_protocol_names_exist(page: Path) -> None:
    enums = (
        errors.CloseCode,
        frames.OutcomeCode,
        frames.ResponseCode,
        frames.RefusedCode,
        frames.UnsubscribedCode,
        frames.Start,
        frames.Mode,
    )
    known = {code.name for codes in enums for code in codes}
    assert set(re.findall(r"`([A-Z][A-Z_]{2,})`", page.read_text())) <= known


def shown_commands() -> list[str]:
    """The command lines of `imgateway` that pages show, without what the shell does with their output."""
    line = re.compile(r"^\$ (?:\S+ .*\| )?(\S*imgateway .*)$", re.MULTILINE)
    shown = [command for page in PAGES for command in line.findall(page.read_text())]
    return sorted({re.sub(r"\$\(.*?\)", "T", re.split(r" [>|] ", command)[0]) for command in shown})


@pytest.mark.parametrize("line", shown_commands())
def test_the_commands_that_pages_show_can_be_parsed(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = main.get_command(click.Context(main), name)
    assert command is not None, name
    if "--help" not in arguments:
        command.make_context(name, arguments)


def test_the_example_package_names_its_parts() -> None:
    project = tomllib.loads((DOCS / "examples" / "house_rules" / "pyproject.toml").read_text())
    assert "twisted.plugins" in project["tool"]["setuptools"]["packages"]
    assert not (DOCS / "examples" / "house_rules" / "twisted" / "plugins" / "__init__.py").exists()
