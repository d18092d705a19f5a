"""What an operator sees of a running node: health, metrics, logs."""

__all__ = ()
