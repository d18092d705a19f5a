"""The command ``imgateway``: its parts, and what they all do about errors.

Exit status: 0 when everything asked for was done, 1 when it was not (one line on stderr says why), 2 when the
command line was wrong, 3 when the HTTP API could not be reached, 128 + N when signal N cut the work short.

What takes long to import (Twisted's reactor, the client, PyJWT) is imported by the command that needs it,
when it runs.
"""

from __future__ import annotations

from typing import Any

import click

from imgateway import __version__
from imgateway.cli.apikey import apikey
from imgateway.cli.bench import bench
from imgateway.cli.chat import chat
from imgateway.cli.conformance import conformance
from imgateway.cli.fleet import drain, nodes, undrain
from imgateway.cli.link import link
from imgateway.cli.listen import listen
from imgateway.cli.probe import probe
from imgateway.cli.push import push
from imgateway.cli.send import send
from imgateway.cli.settings import checkconfig, genconfig
from imgateway.cli.store import backup, restore
from imgateway.cli.token import token
from imgateway.cli.users import kick, online
from imgateway.cli.version import version
from imgateway.cli.world import Terminated

__all__ = ("main",)


class Commands(click.Group):
    """Lists its commands as they were added, first what a newcomer needs; tells a full disk in one line, and
    has Ctrl-C and SIGTERM end every command without a word, with the status 130 and 143."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            ctx.exit(143 if isinstance(interrupt, Terminated) else 130)
        except BrokenPipeError:
            raise  # click ends without a word, as it should
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{name}{error.strerror or error}") from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="imgateway", message="%(prog)s %(version)s")
def main() -> None:
    """Talk to an imgateway node, and look after one.

    A first conversation, beside a node (twistd -n --pidfile= imgateway):

    \b
      imgateway listen tcp://127.0.0.1:7901 --user bob
      imgateway send tcp://127.0.0.1:7901 --user alice user:bob "hello"
    """


for command in (
    token,
    apikey,
    chat,
    send,
    listen,
    push,
    online,
    kick,
    nodes,
    drain,
    undrain,
    probe,
    link,
    conformance,
    genconfig,
    checkconfig,
    backup,
    restore,
    bench,
    version,
):
    main.add_command(command)
