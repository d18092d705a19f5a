"""Tokens made on the spot, with the secret that the node itself checks them with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import click

from imgateway.errors import InvalidAddress, OperatorError

__all__ = ("Minter", "minter")

Minter = Callable[[str, str, float, bool, bool], str]


def minter(
    config: str | None,
    data_dir: str | None,
    otherwise: str = "",
    rooms: Sequence[str] = (),
    topics: Sequence[str] = (),
    udp_at: str = "127.0.0.1:7901",
    own: Mapping[str, str] | None = None,
) -> Minter:
    """A function (user, device, ttl_s, service, udp) → token, with its UDP key if `udp`. It reads the secrets
    each time: they may change.

    :param config: the node's configuration file.
    :param data_dir: comes before what that file says.
    :param otherwise: what the user can do when the secret cannot be read, for the error line.
    :param rooms: the ids of rooms that its tokens may publish to without being there.
    :param topics: the ids of topics that its tokens are good for.
    :param udp_at: where the node should listen on UDP, for the error line.
    :param own: claims for a policy of somebody's own.
    :raises click.ClickException: one line.
    """
    from imgateway.auth.keys import load_secret
    from imgateway.auth.token import mint
    from imgateway.auth.udp import load_udp_secret, udp_secret_path, with_udp_key
    from imgateway.config import load

    try:
        settings = load(config)
    except OperatorError as error:
        raise click.ClickException(str(error)) from None
    auth = settings.auth
    directory = data_dir if data_dir is not None else settings.node.data_dir
    if auth.public_key_file or auth.jwks_file:
        raise click.ClickException(
            f"{config}: the node checks tokens with a public key: only their issuer makes them{otherwise}"
        )

    def make(user: str, device: str, ttl_s: float, service: bool, udp: bool) -> str:
        try:
            secret = load_secret(auth, directory)
            now_s, audience = time.time(), auth.audience
            token = mint(secret, user, device, ttl_s, service, now_s, audience, rooms, topics, own or {})
            if not udp:
                return token
            if not settings.udp.secret_file and not udp_secret_path(settings.udp, directory).exists():
                raise click.ClickException(f"{_no_udp_secret(directory, udp_at)}{otherwise}")
            return with_udp_key(token, load_udp_secret(settings.udp, directory, make=False))
        except InvalidAddress as error:
            raise click.UsageError(f"{user if not device else f'{user}, {device}'!r}: {error}") from None
        except OperatorError as error:
            hint = "; name the node's directory with --data-dir (a node makes the secret at its first start)"
            is_set = str(error).startswith(("auth.secret_file:", "udp.secret_file:"))
            raise click.ClickException(f"{error}{'' if is_set else hint}{otherwise}") from None

    return make


def _no_udp_secret(directory: str, udp_at: str) -> str:
    return (
        f"no UDP secret in {directory}/secrets: this node has never listened on udp; give it one more "
        f"listener, --listen native+udp:{udp_at} (or, for another node, name its directory with --data-dir)"
    )
