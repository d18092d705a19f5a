"""What is built can be installed, and twistd then knows the service.

The clean environments share the packages that this one has, and nothing else of it: a path file names their
directory, and path files inside a directory so named are not read, so an editable install of this tree stays
out of sight.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"


def run(*command: str | Path, cwd: Path) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))
    }
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, for building leaves things behind; and tests and docs as bait."""
    copy = tmp_path_factory.mktemp("source")
    junk = shutil.ignore_patterns("__pycache__", "dropin.cache", "_build")
    for name in ("imgateway", "twisted", "proto", "tests", "docs", "bench"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, copy / name, ignore=junk)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", target, source, cwd=target)
    (built,) = target.glob("*.whl")
    return built


def install(directory: Path, *what: str | Path) -> Path:
    """Makes a clean environment in the directory, installs there, and returns its bin."""
    venv.create(directory, symlinks=True)
    layout = {"base": str(directory), "platbase": str(directory)}
    packages = Path(sysconfig.get_path("purelib", "venv", layout))
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    bin_ = Path(sysconfig.get_path("scripts", "venv", layout))
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(bin_ / "python", "-m", "pip", "install", *options, *what, cwd=directory)
    return bin_


def where(bin_: Path, cwd: Path) -> Path:
    program = "import imgateway; print(imgateway.__file__)"
    return Path(run(bin_ / "python", "-c", program, cwd=cwd).strip())


def test_the_wheel_holds_the_plugin_and_no_tests(wheel: Path, source: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    assert "twisted/plugins/imgateway_tap.py" in names
    assert "imgateway/py.typed" in names
    # An __init__ here would hide the plugins of everybody else.
    assert not names & {"twisted/__init__.py", "twisted/plugins/__init__.py"}
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"imgateway", "twisted"}
    files = (path for kind in ("*.py", "*.lua") for path in (source / "imgateway").rglob(kind))
    sources = {path.relative_to(source).as_posix() for path in files}
    assert sources <= names
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "\nRequires-Dist: hiredis" in metadata


def test_the_installed_wheel_is_known_to_twistd(wheel: Path, tmp_path: Path) -> None:
    bin_ = install(tmp_path / "env", wheel)
    assert where(bin_, tmp_path).is_relative_to(tmp_path / "env")
    assert "imgateway" in run(bin_ / "python", "-c", TWISTD, "--help", cwd=tmp_path)
    assert (bin_ / "imgateway").exists()


def test_an_editable_install_is_known_to_twistd(source: Path, tmp_path: Path) -> None:
    bin_ = install(tmp_path / "env", "--editable", source)
    assert where(bin_, tmp_path).is_relative_to(source)
    assert "imgateway" in run(bin_ / "python", "-c", TWISTD, "--help", cwd=tmp_path)
