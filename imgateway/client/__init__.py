"""The Python client: one API over every transport.

`connect` gives a logged-in `Client`; the rest are the values that it takes and gives.
"""

from imgateway.client.client import Client, Messages, connect
from imgateway.client.rooms import Subscription
from imgateway.client.session import State
from imgateway.client.values import Gap, History, Received

__all__ = ("Client", "Gap", "History", "Messages", "Received", "State", "Subscription", "connect")
