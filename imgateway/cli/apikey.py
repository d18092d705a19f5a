"""``imgateway apikey``"""

from __future__ import annotations

import fcntl
import os

import click

__all__ = ("apikey",)


@click.command()
@click.option("--id", "id_", required=True, metavar="NAME", help="Whose key it is; sends as service:NAME.")
@click.option(
    "--scopes",
    required=True,
    metavar="A,B",
    help="What it is good for: tokens, service-tokens, push, read, kick, request, drain, or * for all.",
)
@click.option("--rate", default=100.0, show_default=True, help="Requests a second; 0: not limited.")
@click.option("--burst", default=200, show_default=True, help="Requests at once.")
@click.option(
    "--file",
    "file_name",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Add it to this file of keys (router.keys_file), which is made if it is not there.",
)
def apikey(id_: str, scopes: str, rate: float, burst: int, file_name: str | None) -> None:
    """Make a key for the HTTP API and print it, this once.

    Only its SHA-256 is kept. Without --file, what belongs into the file of keys is printed to stderr. A
    running node or router reads the file again at SIGHUP.
    """
    from imgateway.errors import OperatorError
    from imgateway.router.keys import entry_of, make_key

    try:
        text, key = make_key(id_, [scope.strip() for scope in scopes.split(",")], rate, burst)
        if file_name is None:
            click.echo(entry_of(key), err=True)
        else:
            _append(file_name, id_, entry_of(key))
    except OperatorError as error:
        raise click.ClickException(str(error)) from None
    click.echo(text)


def _append(name: str, id_: str, entry: str) -> None:
    """Readable by nobody else; on disk before the key is shown. The file as it was, if that fails: with half
    an entry, or with an id twice, nobody could read it any more."""
    from imgateway.errors import OperatorError
    from imgateway.router.keys import read_keys

    descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # until it is closed: who adds another key meanwhile waits
        if id_ in [one.id for one in read_keys(name, may_be_empty=True)]:
            raise OperatorError(f"{name} has a key with the id {id_}; take it out, or choose another")
        before = os.fstat(descriptor).st_size
        try:
            data = entry.encode()
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)
