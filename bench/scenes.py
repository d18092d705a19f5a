"""Which scenes there are, and what each takes; a scene's module is imported when it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib import import_module
from typing import Any, NamedTuple

from bench.checks import broker, descriptors, either, pairs_over, room_over
from bench.figures import Figure, Options, Tell

__all__ = ("SCENES", "Scene", "Vain")


class Vain(NamedTuple):
    """An option that would be ignored, were it taken. `when`: of what was asked for."""

    option: str
    when: Callable[[Options], bool]
    why: str


class Scene(NamedTuple):
    """One scene. `takes`: the fields of `Options` that it minds, each with its value if none is said."""

    name: str
    about: str
    takes: dict[str, Any]
    choices: dict[str, tuple[str, ...]] = {}
    """What a field may be, where it is not for the scene alone to say."""
    module: str = ""
    vain: tuple[Vain, ...] = ()
    """What does not go together."""
    wrong: Callable[[Options], str] = lambda options: ""
    """What cannot be measured, and why; empty: it can."""
    programs: Callable[[Options], tuple[str, ...]] = lambda options: ("gcc",)
    """What has to be installed."""

    def ignored(self, said: Collection[str], options: Options) -> str:
        """Why one of these options would change nothing; empty: none of them."""
        return next((one.why for one in self.vain if one.option in said and one.when(options)), "")

    def refused(self, options: Options) -> str:
        """Why this cannot be measured; empty: it can."""
        return self.wrong(options) or next(filter(None, map(broker, options.brokers)), "")

    def run(self, options: Options, tell: Tell) -> list[Figure]:
        """What it finds. :raises ClickException: it cannot go on, and why."""
        found: list[Figure] = import_module(f"bench.{self.module or self.name}").scene(options, tell)
        return found

    def options(self, **values: Any) -> Options:
        """Its own defaults, and these before them."""
        return Options(**{**self.takes, **values})


ONE_BROKER = Vain("brokers", lambda options: len(options.brokers) > 1, "it measures one --broker in a call")


def beside_mosquitto(options: Options) -> tuple[str, ...]:
    """What a scene with this baseline needs."""
    return ("gcc",) if options.against == "none" else ("gcc", "mosquitto")


SCENES = {
    scene.name: scene
    for scene in (
        Scene(
            "p2p",
            "Pairs of users who send to each other, against mosquitto; with --rate in an open loop.",
            {
                "protocol": "native", "transport": "tcp", "brokers": ("memory:", "embedded:"), "pairs": 100,
                "windows": (1, 4), "size": 100, "qos": 1, "seconds": 4.0, "runs": 3, "rate": 0.0,
                "against": "mosquitto", "unpinned": False,
            },
            {
                "protocol": ("native", "mqtt", "mqtt-kept", "mobileimsdk"),
                "transport": ("tcp", "websocket", "udp"), "against": ("mosquitto", "none"),
            },
            vain=(Vain("windows", lambda options: options.rate > 0, "with --rate there is no --window"),),
            wrong=either(pairs_over, descriptors),
            programs=beside_mosquitto,
        ),
        Scene(
            "room",
            "One message to many: fan-out against C or Autobahn, aggregation, and who is not in the room.",
            {
                "transport": "tcp", "brokers": ("memory:",), "members": 0, "size": 100, "seconds": 5.0,
                "runs": 3, "rate": 0.0, "against": "", "unpinned": False, "parts": ("fan-out",),
            },
            {
                "transport": ("tcp", "websocket"), "against": ("c", "autobahn", "none"),
                "parts": ("fan-out", "tick", "bystanders"),
            },
            vain=(
                ONE_BROKER,
                Vain(
                    "rate", lambda options: set(options.parts) == {"fan-out"},
                    "the fan-out is as fast as it goes; --rate is for --part tick and --part bystanders",
                ),
                Vain(
                    "against", lambda options: "fan-out" not in options.parts,
                    "--against is for --part fan-out; the others have a baseline of their own",
                ),
            ),
            wrong=either(room_over, descriptors),
        ),
        Scene(
            "login",
            "Logins a second, each of another user with a JWT of its own, over TCP.",
            {
                "brokers": ("memory:", "embedded:"), "sessions": 15_000, "runs": 3, "against": "c",
                "unpinned": False,
            },
            {"against": ("c", "none")},
            wrong=descriptors,
        ),
        Scene(
            "idle",
            "Memory of a session that is logged in and says nothing.",
            {"transport": "tcp", "brokers": ("memory:",), "sessions": 0, "runs": 3, "unpinned": False},
            {"transport": ("tcp", "websocket", "udp")},
            vain=(
                Vain(
                    "brokers", lambda options: options.transport == "udp" and len(options.brokers) > 1,
                    "over udp it measures one --broker in a call",
                ),
            ),
            wrong=descriptors,
            programs=lambda options: () if options.transport == "websocket" else ("gcc",),
        ),
        Scene(
            "storm",
            "All sessions are dropped and come back at once, while a few pairs go on talking.",
            {"brokers": ("embedded:",), "sessions": 15_000, "rate": 200.0, "runs": 1, "unpinned": False},
            vain=(ONE_BROKER,),
            wrong=descriptors,
        ),
        Scene(
            "latency",
            "From publish to deliver at half of the most that goes, on SQLite.",
            {
                "brokers": ("embedded:",), "pairs": 100, "windows": (1, 4), "size": 100, "seconds": 5.0,
                "runs": 3, "against": "mosquitto", "unpinned": False,
            },
            {"against": ("mosquitto", "none")},
            wrong=descriptors,
            programs=beside_mosquitto,
        ),
        Scene(
            "cluster",
            "The load of p2p from node to node over Redis, against one node.",
            {"pairs": 100, "windows": (1, 4, 16), "size": 100, "seconds": 4.0, "runs": 3, "rate": 0.0},
            wrong=descriptors,
            programs=lambda options: ("gcc", "redis-server"),
        ),
        Scene(
            "udp",
            "Very many sessions over UDP, each with a Ping a minute.",
            {"brokers": ("memory:",), "sessions": 200_000, "seconds": 60.0, "runs": 1, "unpinned": False},
            vain=(ONE_BROKER,),
        ),
        Scene(
            "pauses",
            "How long garbage collection stops a process with very many sessions.",
            {"sessions": 200_000, "seconds": 30.0, "runs": 1, "unpinned": False},
        ),
        Scene(
            "soak",
            "Long: 18,000 TCP sessions with traffic, a million over UDP, 200,000 TCP over several processes.",
            {"sessions": 0, "minutes": 10.0, "parts": ("tcp", "udp", "cluster")},
            {"parts": ("tcp", "udp", "cluster")},
            wrong=lambda options: descriptors(options) if "tcp" in options.parts else "",
            programs=lambda options: ("gcc", "redis-server") if "cluster" in options.parts else ("gcc",),
        ),
    )
}  # fmt: skip
