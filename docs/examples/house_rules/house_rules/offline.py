"""A session listener: a push notification for who has mail and is not here, one until they come back."""

import json
import os
from io import BytesIO

from twisted.logger import Logger
from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.interfaces import ISessionListener

log = Logger()


def post(note):
    """Hand the note to the push service's HTTP address, in PUSH_URL; nobody waits for it."""
    # Imported here: this file is read by every twistd, long before anything is to be posted.
    from twisted.internet import reactor
    from twisted.web.client import Agent, FileBodyProducer

    body = FileBodyProducer(BytesIO(json.dumps(note).encode()))
    posting = Agent(reactor, connectTimeout=5).request(b"POST", os.environb[b"PUSH_URL"], None, body)
    posting.addErrback(lambda failure: log.failure("the push service was not reached", failure))


@implementer(IPlugin, ISessionListener)
class OfflinePush:
    name = "offline-push"

    def __init__(self, send=post):
        self._send = send
        self._told = set()

    def opened(self, session, identity):
        self._told.discard(session.user)

    def resumed(self, session, identity):
        self._told.discard(session.user)

    def closed(self, session, code, reason): ...

    def stored_offline(self, address, message):
        if address.id not in self._told:
            self._told.add(address.id)
            self._send({"user": address.id, "from": message.sender, "type": message.content_type})
