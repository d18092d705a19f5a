"""What a Redis says that lets nobody in, as a node's operator reads it."""

from __future__ import annotations

from typing import Any

import pytest

from imgateway.errors import StoreError
from tests.brokers.redis_desk import RedisDesk
from tests.brokers.redis_server import Loop
from tests.brokers.scripted_redis import KeptOut


@pytest.mark.parametrize("more", [{}, {"to_replica": True}, {"password": "s3cret"}])
def test_a_page_of_advice_is_one_line(more: dict[str, Any]) -> None:
    """Whatever is asked first: its settings, its version, or whether it takes the password."""
    loop = Loop()
    server = KeptOut(loop)
    desk = RedisDesk(server, loop=loop, **more)  # type: ignore[arg-type]
    try:
        with pytest.raises(StoreError) as problem:
            desk.start()
    finally:
        desk.stop()
        server.stop()
        loop.close()
    said = str(problem.value)
    assert "DENIED" in said
    assert len(said) < 250, said
    assert "loopback interface" not in said
