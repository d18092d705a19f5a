"""A gateway for long connections: TCP, WebSocket and UDP in front of one core.

A publish is acknowledged once it is on disk, a message is shown once, and whoever missed something is told.
This module imports nothing of ours, so that the twistd plugin, which names it, stays cheap to load.
"""

__all__ = ("__version__",)

__version__ = "0.1.0"
