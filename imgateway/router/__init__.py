"""The HTTP API of a gateway or of a whole cluster, and a router's way to the nodes.

`routes` is the table that everything is made from: what is asked and answered (`schema`), the document
(`openapi`), the checks (`api`), on sockets (`web`). `gateway` is the cluster for a process that is no node.
"""

__all__ = ()
