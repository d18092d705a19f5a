"""What is said of a file to who may not use it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from imgateway.auth.keys import load_secret
from imgateway.brokers.directory import Directory
from imgateway.config import AuthSettings, denied
from imgateway.errors import OperatorError, StoreError

NAMES = {7900: "imgateway", 1000: "ann"}


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ann asks; files are imgateway's, wherever they are there."""
    monkeypatch.setattr(denied, "_owner", lambda path: 7900)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(denied, "getpwuid", lambda number: SimpleNamespace(pw_name=NAMES[number]))


REFUSED = PermissionError(13, "Permission denied")


@pytest.mark.usefixtures("asking")
def test_whose_it_is_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k").write_text("")
    end = "is imgateway's, and this runs as ann: run it as imgateway, or chown it"
    assert denied.why_not(REFUSED, tmp_path / "k") == f"Permission denied: {tmp_path}/k {end}"
    assert denied.why_not(REFUSED, f"{tmp_path}/a/b") == f"Permission denied: {tmp_path} {end}"
    monkeypatch.setattr(os, "geteuid", lambda: 42)
    assert "this runs as user 42: run it as imgateway" in denied.why_not(REFUSED, tmp_path)
    assert denied.why_not(FileNotFoundError(2, "No such file"), tmp_path) == "No such file"
    assert denied.why_not(OSError("odd"), tmp_path) == "odd"


def test_what_is_ones_own(tmp_path: Path) -> None:
    said = denied.why_not(REFUSED, tmp_path)
    assert said == f"Permission denied: check the mode of {tmp_path} (chmod)"


@pytest.mark.usefixtures("asking")
def test_a_secret_and_a_data_directory_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: object, *_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "secrets").mkdir()
    for name in ("secrets/token.key", "messages.lock"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(OperatorError, match=r"token\.key: the key cannot be read: .* is imgateway's, and"):
        load_secret(AuthSettings(), str(tmp_path))
    with pytest.raises(StoreError, match=r"Permission denied: \S+messages\.lock is imgateway's, and"):
        Directory(tmp_path).lock()
