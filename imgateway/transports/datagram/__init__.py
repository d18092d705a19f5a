"""Sealed datagrams that neither lose nor reorder: a connection over UDP.

Inside out: `messages` (the grammar inside the seal), `pieces`, `channels`, `giving_up`, `recovery`,
`outgoing`, `incoming` and `flow` (what makes it reliable, without clock or socket), `seal` and `packets` (the
seal and what stands before it), `greeting`, `path`, `connection`, and the two ends `server` and `client`.
"""

__all__ = ()
