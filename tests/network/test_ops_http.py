"""The operators' HTTP port on a real socket."""

from __future__ import annotations

import pytest
import pytest_twisted
import treq
from twisted.internet.error import CannotListenError

from imgateway.core.counters import Counters
from imgateway.ops.health import Health
from imgateway.ops.http import listen
from imgateway.ops.metrics import registry

pytestmark = pytest.mark.network


@pytest_twisted.ensureDeferred
async def test_pages_are_served_until_it_is_stopped() -> None:
    from twisted.internet import reactor

    health, metrics = Health(), registry({"node": "a"}, Counters().read)
    listener = await listen("tcp:0:interface=127.0.0.1", health, metrics, reactor)
    try:
        assert listener.address == f"http://127.0.0.1:{listener.port}"
        answers = {}
        for page in ("healthz", "readyz", "metrics", "none"):
            answer = await treq.get(f"{listener.address}/{page}", persistent=False, reactor=reactor)
            answers[page] = (answer.code, await answer.text())
        assert {page: code for page, (code, _) in answers.items()} == {
            "healthz": 200,
            "readyz": 503,
            "metrics": 200,
            "none": 404,
        }
        assert "starting" in answers["readyz"][1]
        assert "imgateway_links_open 0.0" in answers["metrics"][1]

        with pytest.raises(CannotListenError):
            await listen(f"tcp:{listener.port}:interface=127.0.0.1", health, metrics, reactor)
    finally:
        await listener.stop()
