"""The policy that is used when no other is named."""

from __future__ import annotations

from zope.interface import implementer

from imgateway.core import policy
from imgateway.frames import Address
from imgateway.interfaces import Identity, IPolicy

__all__ = ("DefaultPolicy",)


@implementer(IPolicy)
class DefaultPolicy:
    """The table of `imgateway.core.policy`, with the rooms and topics that the token lists as grants."""

    name = "default"

    def may(self, identity: Identity, action: str, address: Address) -> bool:
        """True if the table says so."""
        if identity.service:
            return action in policy.ACTIONS
        return policy.may(identity.user, identity.service, identity.claims, action, address)

    def areas(self, address: Address) -> tuple[str, ...]:
        """What stands before the first dot of a room's id."""
        return policy.areas(address)
