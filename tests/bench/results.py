"""A result that was made up: what there may be in one."""

from __future__ import annotations

from bench.figures import Figure, Machine, Result

MACHINE = Machine(
    cores=2,
    model="a model",
    memory_bytes=8_000_000_000,
    kernel="6.1",
    python="3.11.7",
    build="--with-lto --enable-shared",
    load=0.3,
    versions={"mosquitto": "2.0.11", "Twisted": "26.10.0"},
)
RATIO = Figure(
    scene="p2p",
    what="native, SQLite, window 4",
    unit="messages/s",
    ours=(30_000.0, 36_000.0, 33_000.0),
    against="mosquitto 2.0.11",
    theirs=(60_000.0, 58_000.0, 62_000.0),
    asked=0.5,
    stretch=0.8,
    details={
        "p50_ms": (3.0, 4.0, 5.0), "p99_ms": (9.0, 8.0, 7.0), "max_ms": (20.0, 21.0, 19.0),
        "cpu_us": (30.0, 32.0, 31.0), "their_cpu_us": (15.5, 15.0, 16.0),
    },
)  # fmt: skip
VALUE = Figure(
    scene="login",
    what="logins <JWT>",
    unit="logins/s",
    ours=(20_000.0, 21_000.0, 26_000.0),
    against="bare accept in C",
    theirs=(42_000.0,),
    asked=12_000,
    stretch=20_000,
    by="value",
    note="each stays",
)
MEMORY = Figure(
    scene="soak",
    what="18,000 sessions",
    unit="bytes",
    ours=(2_100.0,),
    asked=2_000,
    stretch=1_800,
    better="less",
    series={"rss_bytes": ((0.0, 50e6), (5.0, 51e6), (10.0, 51e6))},
)
UNPINNED = Figure(scene="p2p", what="native, SQLite, window 4, unpinned", unit="messages/s", ours=(9_000.0,))
FAILED = Figure(scene="storm", what="storm", unit="", failed="no | gcc")
FIGURES = (RATIO, VALUE, MEMORY, UNPINNED, FAILED)
RESULT = Result(
    command="imgateway bench table",
    at="2026-11-21T18:00:00+00:00",
    took_s=1_234.5,
    machine=MACHINE,
    figures=FIGURES,
)
