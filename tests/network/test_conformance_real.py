"""``imgateway conformance`` with real programs: our client, and paho-mqtt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .nodes import CLI, eventually, imgateway

pytestmark = pytest.mark.network
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def verdicts(program: str, *args: str) -> dict[tuple[str, str], str]:
    """Each check and its verdict; nothing was wrong."""
    return {(line["scene"], line["check"]): line["verdict"] for line in played(program, *args)}


def played(program: str, *args: str, status: int = 0) -> list[dict[str, str]]:
    """The lines of all checks."""
    command = f"{sys.executable} {HERE / program}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # Longer than a busy machine may let the program stand still; and one check waits half of it.
    more = ("--json", "--patience", "6s" if "window" in args else "4s", "--run", command)
    done = imgateway("conformance", *args, *more, env=environment, timeout=100, cwd=ROOT)
    assert done.returncode == status, done.stdout + done.stderr
    *lines, _ = map(json.loads, done.stdout.splitlines())
    return lines


REPEATED = ("publish", "repeats what has no answer on the next, with the same ids in the same order")


@pytest.mark.parametrize(
    ("protocol", "transport"), [("native", "tcp"), ("json", "websocket"), ("native", "udp")]
)
def test_our_client(protocol: str, transport: str) -> None:
    wanted = ("--protocol", protocol, "--transport", transport, "--only", "order,resume")
    found = verdicts("echo_program.py", *wanted)
    assert set(found.values()) == {"right"}
    assert ("resume", "says how far it is") in found


@pytest.mark.parametrize(("version", "scenes"), [("4", "resume,gap"), ("5", "resume,repeat,publish,gap")])
def test_paho(version: str, scenes: str) -> None:
    found = verdicts(f"echo_paho.py {version}", "--protocol", "mqtt", "--only", scenes)
    assert found["resume", "shows both once"] == "right"
    assert found["gap", "something is missing"] == "not applicable"
    assert version == "4" or found[REPEATED] == "right"


def test_paho_has_more_waiting_than_it_is_told_may() -> None:
    """It passes over the receive maximum of MQTT 5: a client that is wrong is told so."""
    lines = played("echo_paho.py 5", "--protocol", "mqtt", "--only", "window", status=1)
    wrong = [(line["check"], line["detail"]) for line in lines if line["verdict"] == "wrong"]
    assert wrong == [("keeps to the number that may wait for an answer", "6 wait; 2 may")]


def test_a_program_that_cannot_be_started() -> None:
    done = imgateway("conformance", "--run", "exec ./no-such-program", timeout=30)
    assert done.returncode == 1
    assert "the program has ended, with status 127" in done.stdout
    assert "0 right, 1 wrong, 16 not applicable" in done.stdout


def test_a_client_of_mobileimsdk() -> None:
    found = verdicts("echo_mobileimsdk.py", "--protocol", "mobileimsdk", "--only", "repeat,publish")
    assert found["repeat", "shows nothing twice"] == "right"
    assert found[REPEATED] == "right"


def test_a_signal_ends_the_program_too(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = f"echo $$ > {mark}; sleep 300; true"
    process = subprocess.Popen([*CLI, "conformance", "--run", command], stderr=subprocess.PIPE, text=True)
    try:
        pid = int(eventually(lambda: mark.exists() and mark.read_text().strip(), what="the program"))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (130, "")
    eventually(lambda: not list(living(pid)), what="the end of all that it started")


def living(group: int) -> Iterator[str]:
    """The processes of a group that have not ended; who is not waited for may be listed a while longer."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it ended just now
        if int(process_group) == group and state != "Z":
            yield path.parent.name
