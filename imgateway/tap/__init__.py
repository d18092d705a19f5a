"""``twistd imgateway``: reads the settings, puts the node together, runs it. The only room that composes."""

from imgateway.tap.options import Options
from imgateway.tap.service import makeService

__all__ = ("Options", "makeService")
