"""Who a client is and what it may: tokens, keys, the default policy."""

__all__ = ()
