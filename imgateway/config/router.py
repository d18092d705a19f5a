"""The HTTP API."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from imgateway.config.kinds import PositiveInt, Seconds, Text

__all__ = ("RouterSettings",)


class RouterSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP API of a cluster: `twistd imrouter`, or a node that serves it (listen.api, or listen.http)."""

    public: Annotated[
        str,
        Meta(
            description="imrouter: the Twisted endpoint description of what clients may ask, allocate and "
            "health; empty: none."
        ),
    ] = "tcp:7990:interface=127.0.0.1"
    private: Annotated[
        Text,
        Meta(description="imrouter: the same of everything else, for business servers and operators."),
    ] = "tcp:7991:interface=127.0.0.1"
    keys_file: Annotated[
        str,
        Meta(
            description="The file of the API keys (imgateway apikey makes one); read again at SIGHUP. Empty: "
            "a node serves no API, and imrouter does not start."
        ),
    ] = ""
    allocation: Annotated[
        Text,
        Meta(
            description="The plugin that says which node a client shall use: round-robin, hash, "
            "consistent-hash, weighted, least-connections, or another package's."
        ),
    ] = "weighted"
    bind_tokens: Annotated[
        bool,
        Meta(
            description="Allocate gives each endpoint with a token of its own, good for that node alone "
            "(auth.node). The tokens' shared secret must be here."
        ),
    ] = False
    max_token_s: Annotated[PositiveInt, Meta(description="The longest that a token may be good.")] = 2_592_000
    max_request_bytes: Annotated[
        PositiveInt, Meta(description="The largest body of a request; uploads of tasks have their own limit.")
    ] = 1_048_576
    timeout_s: Annotated[
        Seconds,
        Meta(description="How long a request may take to arrive, and how long its answer."),
    ] = 30.0
    tasks_timeout_s: Annotated[
        Seconds,
        Meta(
            description="The same where it takes longer: the upload of a push task may take so long to "
            "arrive, and as long to be read; so may a task's report, its results and its repush."
        ),
    ] = 300.0
    connections: Annotated[
        PositiveInt, Meta(description="Connections of one port; what comes above it is cut.")
    ] = 1_000
    backoff_first_s: Annotated[
        Seconds, Meta(description="What clients are told: the wait after the first failed attempt.")
    ] = 0.5
    backoff_max_s: Annotated[Seconds, Meta(description="The same: the longest wait.")] = 30.0
    drain_s: Annotated[
        Seconds, Meta(description="How long requests of the API have to finish when the process is stopped.")
    ] = 10.0
    tasks_url: Annotated[
        str,
        Meta(
            description="Where push tasks are kept: a database URL of SQLAlchemy, such as "
            "postgresql+psycopg://user:password@host/db or mysql+pymysql://…; empty: SQLite in "
            "node.data_dir, which one process can use."
        ),
    ] = ""
    tasks_users: Annotated[PositiveInt, Meta(description="The most lines of one push task.")] = 100_000
    tasks_upload_bytes: Annotated[
        int, Meta(ge=1, le=1_073_741_824, description="The largest upload of a push task.")
    ] = 67_108_864
    tasks_window: Annotated[
        int,
        Meta(ge=1, le=5_000, description="Addresses of a push task whose outcome is not written down yet."),
    ] = 500
    tasks_at_once: Annotated[
        PositiveInt, Meta(description="Push tasks that one process runs side by side; others wait.")
    ] = 4
    tasks_keep_s: Annotated[
        PositiveInt, Meta(description="How long a push task that is over is kept, with its results.")
    ] = 2_592_000
