"""What the gateway decides, without I/O and without a clock: every time is an argument."""

__all__ = ()
