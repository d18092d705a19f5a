"""The bytes of the native wire: generated protobuf code, entries as they are stored, framing."""

__all__ = ()
