"""Scene login, very small: a real node, a real baseline, and what may be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.figures import Options
from bench.login import scene
from tests.bench.quiet import Quiet

pytestmark = [pytest.mark.network, pytest.mark.server]


def test_everybody_logs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stay, leave = scene(Options(sessions=60, runs=2, brokers=("memory:",)), Quiet())
    assert stay.what == "memory, JWT, all stay"
    assert leave.what == "memory, JWT, each leaves at once"
    for figure in (stay, leave):
        assert len(figure.ours) == len(figure.theirs) == 2
        assert min(figure.ours) > 10
        assert (figure.detail("p50_ms") or 0) > 0
        assert figure.judged == figure.value  # not the ratio: the baseline knows nobody
    assert (stay.asked, stay.stretch) == (12_000, 20_000)
    assert leave.asked is None
