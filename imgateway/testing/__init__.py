"""Fakes for tests, ours and yours: connections without sockets (`wires`) on a network in memory
(`network`).
"""

__all__ = ()
