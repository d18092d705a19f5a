"""Where the logs and the claims of sessions live, one module a store."""

__all__ = ()
