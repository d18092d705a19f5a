"""What no single field can say: settings that contradict each other."""

from __future__ import annotations

import re
from typing import Any

from imgateway.config.settings import Settings
from imgateway.config.toml import shown
from imgateway.errors import ConfigError

__all__ = ("check",)

# The first must not be less than the second.
_AT_LEAST = (
    ("limits.max_addresses_service", "limits.max_addresses"),
    ("limits.control_abort_bytes", "limits.control_pause_bytes"),
    ("broker.waiting_entries", "broker.batch_entries"),
    ("broker.waiting_bytes", "broker.batch_bytes"),
    ("retention.bytes", "limits.max_body_bytes"),
    ("rooms.memory_bytes", "limits.max_body_bytes"),
    ("broker.batch_bytes", "limits.max_body_bytes"),
)
_LISTENER = re.compile(r"[\w.-]+(,[\w.-]+)*\+[\w.-]+:.+")


def check(settings: Settings) -> None:
    """What no single field can say.

    :raises ConfigError:
    """

    def value(path: str) -> Any:
        section, _, key = path.partition(".")
        return getattr(getattr(settings, section), key)

    for larger, smaller in _AT_LEAST:
        if value(larger) < value(smaller):
            raise ConfigError(f"{larger}: must be at least {smaller} ({value(smaller)}), not {value(larger)}")
    session, auth = settings.session, settings.auth
    if session.dead_s <= session.heartbeat_s:
        raise ConfigError(
            f"session.dead_s: must be above session.heartbeat_s ({session.heartbeat_s}), not {session.dead_s}"
        )
    keys = [name for name in ("secret_file", "public_key_file", "jwks_file") if getattr(auth, name)]
    if len(keys) > 1:
        raise ConfigError(
            f"auth.{keys[1]}: must be empty when auth.{keys[0]} is set: one kind of key checks tokens"
        )
    router = settings.router
    if settings.listen.api and not router.keys_file:
        raise ConfigError(
            "listen.api: needs router.keys_file: nobody may use the API without a key; "
            "make one: imgateway apikey --id NAME --scopes push,read --file FILE"
        )
    if router.backoff_max_s < router.backoff_first_s:
        raise ConfigError(
            f"router.backoff_max_s: must be at least router.backoff_first_s ({router.backoff_first_s}), "
            f"not {router.backoff_max_s}"
        )
    for one in settings.listen.clients:
        if not _LISTENER.fullmatch(one):
            what = "must be PROTOCOL+TRANSPORT:ENDPOINT each, such as native+tcp:tcp:7901"
            raise ConfigError(f"listen.clients: {what}, not {shown(one)}")
