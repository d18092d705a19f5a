"""Protocol adapters: the bytes of a wire to our frames and back, one module a wire."""

__all__ = ()
