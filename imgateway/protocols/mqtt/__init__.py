"""MQTT 3.1.1 and 5: the packets as bytes, and the rules of its sessions."""

__all__ = ()
