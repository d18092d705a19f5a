"""Scene storm, very small: everybody comes back to what he had."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import storm
from bench.figures import Options
from imgateway.config import LimitSettings
from tests.bench.quiet import Quiet, at_the_third

pytestmark = [pytest.mark.network, pytest.mark.server]


@at_the_third
def test_all_are_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storm, "QUIET_S", 0.5)
    monkeypatch.setattr(storm, "AFTER_S", 0.2)
    back, failures, bystanders = storm.scene(Options(sessions=40, rate=200.0, runs=1), Quiet())
    assert failures.ours == (0.0,)
    assert failures.details["caught_up"] == (40.0,)
    assert back.details["resumed"] == (40.0,)
    assert back.value is not None
    assert 0 < back.value <= (back.detail("caught_up_s") or 0)
    assert (back.asked, back.stretch) == (30.0, 8.0)
    assert (bystanders.asked, bystanders.stretch) == (100.0, 50.0)
    assert (bystanders.detail("messages") or 0) > 20
    assert bystanders.judged == bystanders.value


def test_what_the_limits_allow() -> None:
    limits = LimitSettings(login_rate=3_000, login_burst=5_000)
    assert storm.allowed(15_000, limits) == "the limits let all in within 3.3 s"
    assert storm.allowed(4_000, limits) == "the limits let all in within 0.0 s"
    slow = LimitSettings(login_rate=1_000, login_burst=1_000)
    assert storm.allowed(15_000, slow).endswith("within 14.0 s; 8 s would take limits.login_rate=1750")
