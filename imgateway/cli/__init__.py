"""The imgateway command, for people and for scripts."""

from imgateway.cli.main import main

__all__ = ("main",)
