"""What the transport tests share: the transports in memory, and a certificate."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.certificate import write_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with key.pem and cert.pem, self-made, for localhost and 127.0.0.1."""
    return write_certificate(tmp_path_factory.mktemp("tls"))
