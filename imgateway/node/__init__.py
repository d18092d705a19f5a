"""A running node: the links, and the hub that carries entries from the broker to them."""

__all__ = ()
