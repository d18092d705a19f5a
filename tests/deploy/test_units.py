"""What deploy/ hands to systemd, Docker and HAProxy is accepted by those, and by our own programs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from imgateway.brokers.redis import broker
from imgateway.config import describe
from imgateway.registries import redis_line
from imgateway.router.keys import entry_of, make_key
from imgateway.router.tasks import runner, threads
from imgateway.tap import options as node_options
from imgateway.tap import router as router_tap
from imgateway.tap.check import check
from imgateway.tap.router import check_router

DEPLOY = Path(__file__).parents[2] / "deploy"
SLACK_S = 5.0
"""A busy machine takes longer."""
UNITS = ("imgateway@.service", "imrouter.service")
CLUSTER = ("--broker", "redis://10.0.0.7", "--registry", "redis://10.0.0.7")


def lines(unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", (DEPLOY / "systemd" / unit).read_text(), re.M)


def command_of(unit: str, instance: str = "", **more: str) -> list[str]:
    """What systemd would start on the host gw, with `more` in an environment file."""
    environment = {}
    for text in lines(unit, "Environment"):
        name, _, value = text.strip('"').replace("%i", instance).replace("%l", "gw").partition("=")
        environment[name] = value
    environment |= more
    (start,) = lines(unit, "ExecStart")
    words: list[str] = []
    for word in start.replace("%i", instance).split():
        if re.fullmatch(r"\$\w+", word):
            words += shlex.split(environment[word[1:]])
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda found: environment[found[1]], word))
    return words


def options_of(command: list[str], program: str, options: Any) -> Any:
    """The settings that a twistd command line of ours means."""
    assert command[:3] == [command[0], "-n", "--pidfile="]
    assert command[3] == program
    options.parseOptions(command[4:])
    return options.settings


@pytest.mark.server
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    assert program is not None, "install it with:  sudo apt-get install systemd"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "twistd").symlink_to("/bin/true")

    def complaints(change: Any = lambda text: text) -> str:
        for unit in UNITS:
            text = (DEPLOY / "systemd" / unit).read_text()
            (tmp_path / unit).write_text(change(text.replace("/opt/imgateway/bin", str(tmp_path / "bin"))))
        units = [str(tmp_path / "imgateway@1.service"), str(tmp_path / "imrouter.service")]
        done = subprocess.run([program, "verify", "--man=no", *units], capture_output=True, text=True)
        return done.stderr + ("" if done.returncode == 0 else f"status {done.returncode}")

    assert complaints() == ""
    # It does say so when something is wrong.
    assert "Unknown key" in complaints(lambda text: text.replace("KillMode", "KilMode"))
    assert "not executable" in complaints(lambda text: text.replace("/twistd", "/twist"))


def test_the_nodes_of_a_unit_share_what_can_be_shared(tmp_path: Path) -> None:
    found = []
    for instance in "12":
        command = command_of("imgateway@.service", instance)
        place = command.index("--config")
        assert command[place + 1] == "/etc/imgateway/imgateway.toml"
        del command[place : place + 2]
        settings = options_of(command + list(CLUSTER), "imgateway", node_options.Options())
        check(settings)
        found.append(settings)
    first, second = found
    assert first.node.name == "gw-1"
    assert first.node.data_dir == second.node.data_dir == "/var/lib/imgateway"
    assert first.listen.http != second.listen.http
    shared, own = [one for one in first.listen.clients if "shared:" in one], first.listen.clients[-1]
    assert tuple(shared) == second.listen.clients[:2]
    assert "udp" in own
    assert own not in second.listen.clients


def test_machines_of_one_image_are_told_apart_by_one_line() -> None:
    names = []
    for machine in ({}, {"NODE": "gw7"}, {"NODE": "gw8"}):
        for instance in "12":
            command = command_of("imgateway@.service", instance, **machine)
            names.append(command[command.index("--node") + 1])
    assert names == ["gw-1", "gw-2", "gw7-1", "gw7-2", "gw8-1", "gw8-2"]


def test_what_runs_beside_us_starts_and_stops_in_order() -> None:
    for unit in UNITS:
        after = " ".join(lines(unit, "After")).split()
        assert {"network-online.target", "redis-server.service"} <= set(after)
        # It may be on another machine: then nobody is to start the one that is installed here.
        assert lines(unit, "Wants") == ["network-online.target"]
    # Stopped before it: through it our clients are told to go elsewhere.
    assert "haproxy.service" in " ".join(lines("imgateway@.service", "After")).split()


def test_there_is_time_for_all_of_a_stop() -> None:
    """Also when Redis and the database of the push tasks hang."""
    default = {setting.path: setting.default for setting in describe()}
    api = default["router.drain_s"] + runner.STOP_S + threads.STOP_S
    redis = redis_line.ANSWER_S + broker.STOP_S
    (stop,) = lines("imgateway@.service", "TimeoutStopSec")
    assert float(stop) >= api + default["node.drain_s"] + redis + SLACK_S
    (stop,) = lines("imrouter.service", "TimeoutStopSec")
    assert float(stop) >= api + redis + SLACK_S


def test_containers_have_the_same_time() -> None:
    (stop,) = lines("imgateway@.service", "TimeoutStopSec")
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    ours = [one["stop_grace_period"] for one in services if one.get("image") == "imgateway"]
    assert len(ours) > 2
    assert set(ours) == {f"{stop}s"}
    assert f"docker stop --time {stop}" in (DEPLOY / "Dockerfile").read_text()


def test_the_router_of_a_unit(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s" * 40)
    (tmp_path / "keys.toml").write_text(entry_of(make_key("a", ["*"])[1]))
    command = command_of("imrouter.service")
    place = command.index("--config")
    del command[place : place + 2]
    more = ("--keys", str(tmp_path / "keys.toml"), "--set", f"auth.secret_file={tmp_path}/secret")
    check_router(options_of([*command, *CLUSTER, *more], "imrouter", router_tap.Options()))


# ----------------------------------------------------------------------------------------------- containers


@pytest.fixture(scope="module")
def composed() -> Any:
    """What docker-compose makes of the file; it ends with its own words where it refuses it."""
    program = shutil.which("docker-compose")
    assert program is not None, "install it with:  sudo apt-get install docker-compose"
    command = [program, "-f", str(DEPLOY / "compose.yaml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.mark.server
def test_compose_starts_what_can_start(composed: Any) -> None:
    services = composed["services"]
    assert set(services) == {"redis", "a", "b", "router", "haproxy"}
    for name in "ab":
        settings = options_of(services[name]["command"], "imgateway", node_options.Options())
        check(settings)
        assert settings.broker.url == settings.registry.url == "redis://redis"
        (port,) = services[name]["ports"]
        udp = f"udp://127.0.0.1:{port['published']}"
        assert f"native+udp:{port['target']}" in settings.listen.clients
        # Clients outside come through HAProxy, which has these ports published; to UDP straight.
        front = re.findall(r"79\d\d", str(services["haproxy"]["ports"]))  # dicts or texts, by its version
        assert settings.registry.advertise[2] == f"native+udp={udp}"
        for text in settings.registry.advertise[:2]:
            assert text.rpartition(":")[2] in front
        proxied = {text.rpartition(":")[2] for text in settings.listen.clients if "haproxy:" in text}
        known = services["haproxy"]["environment"]
        assert proxied == {known[f"{name.upper()}_{kind}"].rpartition(":")[2] for kind in ("TCP", "WS")}
        # On all addresses: HAProxy is in another container.
        assert settings.listen.http == "0.0.0.0:" + known[f"{name.upper()}_HTTP"]
    router = options_of(services["router"]["command"], "imrouter", router_tap.Options())
    assert router.router.keys_file == "keys.toml"
    # It asks Docker for the nodes' names, again and again: it needs none of them to start.
    assert "depends_on" not in services["haproxy"]
    # What depends on something stops before it: the nodes drain through HAProxy.
    assert all(set(services[name]["depends_on"]) == {"redis", "haproxy"} for name in "ab")
    assert services["haproxy"]["environment"]["RESOLVER"] == "127.0.0.11:53"
    assert services["redis"]["networks"] == {"inside": None}
    assert composed["networks"]["inside"] == {"internal": True}


@pytest.mark.server
def test_haproxy_understands_its_file_as_compose_hands_it_over(composed: Any) -> None:
    environment = composed["services"]["haproxy"]["environment"]
    assert haproxy_complaints(environment) == ""
    assert haproxy_complaints({}) != ""
    # Without the resolver the names would have to exist when it starts.
    unresolved = {name: value for name, value in environment.items() if name != "RESOLVER"}
    assert "could not resolve address 'a" in haproxy_complaints(
        unresolved | {name: "a.invalid:1" for name in unresolved if name.startswith("A_T")}
    )


@pytest.mark.server
def test_haproxy_becomes_who_it_is_to_be() -> None:
    places = {
        name: f"127.0.0.1:{port}" for port, name in enumerate(("CLIENTS_TCP", "CLIENTS_WS", "STATS"), 1)
    }
    for port, name in enumerate("AB", 10):
        places |= {f"{name}_TCP": f"127.0.0.1:{port}", f"{name}_WS": f"127.0.0.1:{port}", f"{name}_HTTP": "9"}
    assert haproxy_complaints(places) == ""
    assert haproxy_complaints({**places, "RUN_AS": "root"}) == ""
    complaint = haproxy_complaints({**places, "RUN_AS": "no-such-user"})
    assert "cannot find user id for 'no-such-user'" in complaint
    assert "cannot find group id for 'no-such-user'" in complaint


def haproxy_complaints(environment: dict[str, str]) -> str:
    """What it says against the file with these variables, which is nothing where it takes it."""
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "install it with:  sudo apt-get install haproxy"
    command = [program, "-c", "-f", str(DEPLOY / "haproxy.cfg")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == ("ALERT" not in done.stderr)
    return done.stderr


def test_the_image_has_what_a_build_needs_and_no_secrets() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = {
        word for line in re.findall(r"^COPY ((?!--)[^\n]+) \S+$", dockerfile, re.M) for word in line.split()
    }
    assert copied == {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "imgateway", "twisted"}
    ignore = (DEPLOY.parent / ".dockerignore").read_text().split("\n")
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert all((DEPLOY.parent / name).exists() for name in copied)
    (command,) = re.findall(r"^CMD (.*)$", dockerfile, re.M)
    options_of(json.loads(command), "imgateway", node_options.Options())
