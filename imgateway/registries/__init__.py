"""Which nodes of the cluster live: in this process, in Redis, in ZooKeeper."""

__all__ = ()
