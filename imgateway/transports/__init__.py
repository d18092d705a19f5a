"""Transport adapters: sockets to connections, at both ends, one module a transport."""

__all__ = ()
