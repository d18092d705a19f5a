"""What a client sends compressed costs a node no more than its bytes."""

from __future__ import annotations

from typing import Any

import pytest

from imgateway.errors import CloseCode
from imgateway.frames import Address, Deliver
from imgateway.wire.compression import zstd
from tests.conformance.house import House
from tests.conformance.wires import Wire


def test_a_compressed_deliver_from_a_client_is_not_looked_into(
    house: House, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a node decompresses")

    for module in ("imgateway.wire.reading", "imgateway.wire.compression"):
        monkeypatch.setattr(f"{module}.decompressed", never)
    client = house.login(wire)
    bomb = zstd.compress(bytes(16 << 20))
    client.say(Deliver(Address("room", "7"), 0, 1, 0, 1, (), compression="zstd", compressed=bomb))
    assert client.bye() == CloseCode.UNEXPECTED_FRAME
