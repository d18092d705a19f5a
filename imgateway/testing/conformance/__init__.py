"""A scripted gateway that a client is tried on: what it is told, and what it must make of that."""

__all__ = ()
