"""Who may log in, and what the transports and wires add of their own."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from imgateway.config.kinds import Count, Text

__all__ = (
    "AuthSettings",
    "CompressionSettings",
    "WebSocketSettings",
    "UdpSettings",
    "MobileImsdkSettings",
    "MqttSettings",
)


class AuthSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Who may log in. If no file is named, a secret made in the data directory signs the tokens (HS256)."""

    authenticator: Annotated[Text, Meta(description="The plugin that checks a greeting.")] = "token"
    policy: Annotated[Text, Meta(description="The plugin that says who may do what to which address.")] = (
        "default"
    )
    audience: Annotated[Text, Meta(description="What a token's aud must name.")] = "imgateway"
    secret_file: Annotated[
        str,
        Meta(description="A file with the shared secret of HS256 tokens, at least 32 bytes."),
    ] = ""
    public_key_file: Annotated[
        str, Meta(description="A PEM file with the RSA (RS256) or P-256 (ES256) key that checks tokens.")
    ] = ""
    jwks_file: Annotated[
        str, Meta(description="A JSON Web Key Set with such keys; a token's kid chooses.")
    ] = ""
    leeway_s: Annotated[
        int, Meta(ge=0, le=600, description="How far the clocks of issuer and gateway may differ.")
    ] = 5
    node: Annotated[
        str,
        Meta(
            description="Tokens must name this node in their claim node, as a router with router.bind_tokens "
            "makes them; empty: the claim is not looked at."
        ),
    ] = ""


class CompressionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How what rooms send is made smaller, for clients that offer it. Levels cost the time that serves
    everybody."""

    algorithms: Annotated[
        tuple[Literal["zstd", "br"], ...],
        Meta(
            description="What is used at all; of these each client gets the first of its own list. "
            "Empty: nothing is compressed."
        ),
    ] = ("zstd", "br")
    min_bytes: Annotated[
        Count, Meta(description="Messages that go out together are left as they are below this.")
    ] = 512
    zstd_level: Annotated[int, Meta(ge=1, le=12, description="zstd's level; more is smaller and slower.")] = 3
    br_level: Annotated[
        int, Meta(ge=0, le=9, description="brotli's quality; more is smaller and slower.")
    ] = 5


class WebSocketSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Which pages may connect."""

    origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins whose pages may connect, such as https://chat.example.org; empty: pages of "
            "the same host. Who sends no Origin always may."
        ),
    ] = ()


class UdpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Sealed datagrams: ``imgateway token --udp`` gives their key with the token."""

    secret_file: Annotated[
        str,
        Meta(
            description="A file with the secret that all UDP keys are made from: 32 random bytes in base64, "
            "the same on all nodes; empty: the data directory's own, made at the first start."
        ),
    ] = ""
    max_resends: Annotated[
        Count,
        Meta(
            description="How often a lost message is sent again before it is given up; 0: until it arrives "
            "or the connection ends, which alone keeps the promises."
        ),
    ] = 0


class MobileImsdkSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """For MobileIMSDK's clients, which must be set to the same."""

    sense_mode: Annotated[
        Literal["none", "3S", "5S", "10S", "15S", "30S", "60S", "120S"],
        Meta(
            description="How often the clients say that they are there, which decides how long silence is "
            "taken for life; none: 20 s over TCP and WebSocket, 10 s over UDP."
        ),
    ] = "none"
    sm: Annotated[bool, Meta(description="Whatever is sent to them says when, in milliseconds.")] = False


class MqttSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """For clients of MQTT."""

    max_keepalive_s: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="The longest keepalive of a client of MQTT 5, which is told so; 0: whatever it asks "
            "for. 3.1.1 has no way to tell it.",
        ),
    ] = 0
