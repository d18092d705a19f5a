"""What the processes of a cluster say to each other: nodes and routers.

`Peers` is what a process wants of the others; `Line` carries it; `frames` is what is said. `elsewhere` finds
where else a client may go.
"""

from imgateway.cluster.elsewhere import elsewhere
from imgateway.cluster.line import Line
from imgateway.cluster.peers import Here, Nowhere, Peers

__all__ = ("Here", "Line", "Nowhere", "Peers", "elsewhere")
