"""The imgateway command, for people and for scripts."""

__all__ = ()
