"""Addresses as text, and whose connections are counted together."""

from __future__ import annotations

import pytest

from imgateway.transports.places import host_port, source_of


def test_a_host_with_colons_is_put_into_brackets() -> None:
    assert host_port("192.0.2.1", 7901) == "192.0.2.1:7901"
    assert host_port("2001:db8::1", 7901) == "[2001:db8::1]:7901"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", ""])
def test_this_machine_is_not_counted(host: str) -> None:
    assert source_of(host) == ""


@pytest.mark.parametrize("host", ["192.0.2.1", "12.7.0.1", "::12", "::ffff:192.0.2.1"])
def test_others_are(host: str) -> None:
    assert source_of(host) == host
