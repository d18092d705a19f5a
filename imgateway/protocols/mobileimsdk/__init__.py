"""The MobileIMSDK wire, for clients that nobody here wrote: JSON objects over TCP, WebSocket and bare UDP."""

__all__ = ()
