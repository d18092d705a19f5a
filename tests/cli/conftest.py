from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgateway.auth.keys import make_secret
from imgateway.cli import main
from imgateway.cli.world import World
from tests.cli.fake_api import KEY, FakeApi
from tests.cli.fake_client import Stage

URL = "tcp://127.0.0.1:7901"


@pytest.fixture
def data_dir(tmp_path: Path) -> str:
    """A node's data directory, with its secret."""
    path = tmp_path / "node"
    make_secret(str(path))
    return str(path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.delenv("IMGATEWAY_TOKEN", raising=False)

    def run(*args: str, stage: Stage | None = None, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(
            main, [str(arg) for arg in args], obj=stage and stage.world, env=env, catch_exceptions=False
        )

    return run


@pytest.fixture
def stage() -> Stage:
    return Stage()


Run = Callable[..., Any]
Ask = Callable[..., Result]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    api = FakeApi()
    yield api
    api.close()


@pytest.fixture
def ask(api: FakeApi) -> Ask:
    """Runs a command for operators, with the API's URL and a key in the environment."""

    def ask(*args: str, world: World | None = None, env: dict[str, str] | None = None) -> Result:
        surroundings = {"IMGATEWAY_ROUTER": api.url, "IMGATEWAY_API_KEY": KEY, **(env or {})}
        return CliRunner().invoke(main, args, obj=world, env=surroundings, catch_exceptions=False)

    return ask
