"""``imgateway backup`` and ``imgateway restore``"""

from __future__ import annotations

from pathlib import Path

import click

from imgateway.cli.options import config_option, data_dir_option, refusals
from imgateway.cli.progress import Progress

__all__ = ("backup", "restore")


@click.command()
@click.argument("target")
@data_dir_option
@config_option
def backup(target: str, data_dir: str | None, config: str | None) -> None:
    """Copy a node's messages to the file TARGET.

    The file must not exist. The node may go on working. Secrets are not in the copy: keep DIR/secrets too.
    """
    from imgateway.brokers.backup import backup as copy

    parent = Path(target).parent
    if not parent.is_dir():
        raise click.ClickException(f"the directory {parent} does not exist")
    with refusals(), Progress("pages copied") as progress:
        copy(_directory(config, data_dir), target, progress)
    size = Path(target).stat().st_size
    click.echo(f"{target}: {size:,} bytes")


@click.command()
@click.argument("source")
@click.option("--force", is_flag=True, help="Replace the messages that are in the directory now.")
@data_dir_option
@config_option
def restore(source: str, force: bool, data_dir: str | None, config: str | None) -> None:
    """Put the copy SOURCE in place, for a node that is stopped.

    Clients see that the logs are others than before, and are told that something may be missing. Secrets are
    not in the copy: put DIR/secrets back too. Run it as the user that the node runs as.
    """
    from imgateway.brokers.backup import restore as put_back
    from imgateway.brokers.directory import DATABASE

    with refusals(), Progress("pages copied") as progress:
        directory = _directory(config, data_dir)
        own_secret = _signs_itself(config)
        present = Path(directory) / DATABASE
        if present.exists() and not force:
            raise click.ClickException(
                f"{present} is there already: --force replaces it, --data-dir names another place"
            )
        put_back(source, directory, progress)
    click.echo(f"{directory}: restored; the node may start")
    if own_secret and not (Path(directory) / "secrets" / "token.key").exists():
        from imgateway.cli.lines import tell

        tell(
            f"there is no secrets/token.key in {directory}: put yours back, or every token issued so far ends"
        )


def _directory(config: str | None, data_dir: str | None) -> str:
    from imgateway.config import load

    return data_dir if data_dir is not None else load(config).node.data_dir


def _signs_itself(config: str | None) -> bool:
    """The node's tokens are signed with the secret in its data directory, and not with a key elsewhere."""
    from imgateway.config import load

    auth = load(config).auth
    return not (auth.secret_file or auth.public_key_file or auth.jwks_file)
