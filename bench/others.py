"""What is measured beside the scenes, each with a table of its own shape."""

from __future__ import annotations

import click

from bench import checks
from bench.servers import compiled, scratch

__all__ = ("OTHERS",)

COUNT = click.IntRange(min=1)
MANY = click.IntRange(min=0)
POSITIVE = click.FloatRange(min=0, min_open=True)
ANY = click.FloatRange(min=0)


@click.command()
@click.option("--seed", default=7, show_default=True)
@click.option("--entries", default=9_600, type=click.IntRange(min=32), show_default=True)
@click.option("--runs", default=5, type=COUNT, show_default=True, help="The fastest counts.")
def compression(seed: int, entries: int, runs: int) -> None:
    """Ratio and processor time of zstd, brotli and zlib on a room's chat."""
    from bench.compression import measure

    for line in measure(seed, entries, runs):
        click.echo(line)


@click.command()
@click.option("--size", default=4_000, type=COUNT, show_default=True, help="Body bytes.")
@click.option("--seconds", default=20.0, type=POSITIVE, show_default=True)
@click.option("--rate", default=200.0, type=POSITIVE, show_default=True, help="Messages a second.")
def stalled(size: int, seconds: float, rate: float) -> None:
    """A member of a flooded room stops reading for a while: what is held for it, and what it gets."""
    from bench.stalled import run

    with scratch() as directory:
        run(directory, size, seconds, rate)


@click.command("large-room")
@click.option("--members", default=100_000, type=COUNT, show_default=True)
@click.option("--size", default=100, type=COUNT, show_default=True, help="Body bytes.")
@click.option("--seconds", default=10.0, type=POSITIVE, show_default=True)
@click.option("--rate", default=20.0, type=POSITIVE, show_default=True, help="Messages a second.")
def large_room(members: int, size: int, seconds: float, rate: float) -> None:
    """A very large room in one process without sockets: time of a slice, memory, how long others wait."""
    from bench.large_room import run

    run(members, size, seconds, rate)


@click.command("cluster-nodes")
@click.option("--nodes", "counts", multiple=True, default=(2, 4, 8), show_default=True, type=COUNT)
@click.option(
    "--each", default=50.0, type=POSITIVE, show_default=True, help="Messages a second of each node."
)
@click.option("--pairs", default=10, type=COUNT, show_default=True, help="Pairs of each node.")
@click.option("--seconds", default=15, type=COUNT, show_default=True)
@click.option("--runs", default=3, type=COUNT, show_default=True)
def cluster_nodes(counts: tuple[int, ...], each: float, pairs: int, seconds: int, runs: int) -> None:
    """What a QoS 1 message from node to node costs with more and more nodes, at a low rate."""
    from bench.cluster import nodes

    with scratch() as directory:
        nodes(directory, compiled(directory, "pairs"), counts, each, pairs, seconds, runs)


@click.command()
@click.option("--users", default=100_000, type=click.IntRange(1, 100_000), show_default=True)
@click.option("--broker", default="embedded:", show_default=True)
@click.option("--database", default="", help="router.tasks_url; empty: SQLite.")
@click.option(
    "--rate", default=0.0, type=ANY, show_default=True, help="Users a second; 0: as fast as it goes."
)
@click.option("--window", default=500, type=COUNT, show_default=True, help="router.tasks_window.")
@click.option(
    "--online",
    default=0,
    type=MANY,
    show_default=True,
    help="So many are, at two nodes of a cluster on Redis.",
)
def tasks(users: int, broker: str, database: str, rate: float, window: int, online: int) -> None:
    """A push task to many users, over the HTTP API of one node, or with --online of a router."""
    from bench.tasks import run, run_cluster

    if online > users:
        raise click.UsageError(f"--online {online:,}: of {users:,} users")
    if online and broker != "embedded:":
        raise click.UsageError("with --online the broker is a Redis that is started for it: no --broker")
    if why := checks.broker(broker):
        raise click.UsageError(why)
    with scratch() as directory:
        if online:
            program = compiled(directory, "pairs")
            run_cluster(directory, program, users, online, database, rate, window)
        else:
            run(directory, users, broker, database, rate, window)


@click.command()
@click.option("--size", default=140, type=COUNT, show_default=True, help="Bytes of a message, with its head.")
@click.option("--seconds", default=2.0, type=POSITIVE, show_default=True)
@click.option("--runs", default=3, type=COUNT, show_default=True)
def appends(size: int, seconds: float, runs: int) -> None:
    """What an append costs Redis: one by one, from few and many nodes, and many in a script."""
    from bench.appends import run

    with scratch() as directory:
        run(directory, ((1, 1), (8, 1), (64, 1), (8, 20)), size, seconds, runs)


@click.command()
@click.option("--sessions", default=5_000, type=COUNT, show_default=True)
@click.option(
    "--rate", default=500, type=COUNT, show_default=True, help="Sessions a second that are sent away."
)
@click.option("--load", default=500.0, type=POSITIVE, show_default=True, help="Messages a second, meanwhile.")
@click.option("--processes", default=2, type=COUNT, show_default=True, help="Of clients.")
def drain(sessions: int, rate: int, load: float, processes: int) -> None:
    """A node of two drains while its clients (SDK) talk: pace, messages lost, how long a client is away."""
    from bench.drain import run

    with scratch() as directory:
        run(directory, sessions, rate, load, processes)


@click.command()
@click.option("--nodes", default=3, type=COUNT, show_default=True)
@click.option("--seconds", default=5.0, type=POSITIVE, show_default=True)
@click.option(
    "--processes", default=2, type=COUNT, show_default=True, help="That ask, each over one connection."
)
@click.option("--runs", default=3, type=COUNT, show_default=True)
def allocate(nodes: int, seconds: float, processes: int, runs: int) -> None:
    """GET /v1/allocate at one router: calls a second, and what one costs."""
    from bench.allocate import run

    with scratch() as directory:
        run(directory, nodes, seconds, processes, runs)


OTHERS = (compression, stalled, large_room, cluster_nodes, tasks, appends, drain, allocate)
