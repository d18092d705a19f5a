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
    """Hand the note to the push service's HTTP address, in PUSH_URL; fires when it has answered."""
    # Imported here: this file is read by every twistd, long before anything is to be posted.
    from twisted.internet import reactor
    from twisted.web.client import Agent, FileBodyProducer

    body = FileBodyProducer(BytesIO(json.dumps(note).encode()))
    return Agent(reactor, connectTimeout=5).request(b"POST", os.environb[b"PUSH_URL"], None, body)


@implementer(IPlugin, ISessionListener)
class OfflinePush:
    name = "offline-push"

    def __init__(self, send=post):
        self._send = send
        self._told = set()  # and those whom it is just being told
        self._warned = False

    def opened(self, session, identity):
        self._told.discard(session.user)

    def resumed(self, session, identity):
        self._told.discard(session.user)

    def closed(self, session, code, reason): ...

    def stored_offline(self, address, message):
        user = address.id
        if user in self._told:
            return
        if self._send is post and "PUSH_URL" not in os.environ:
            if not self._warned:
                self._warned = True
                log.warn("PUSH_URL is not set: nobody is notified")
            return
        self._told.add(user)
        sending = self._send({"user": user, "from": message.sender, "type": message.content_type})
        sending.addErrback(self._not_told, user)

    def gap(self, session, address): ...

    def entered(self, session, address): ...

    def left(self, session, address): ...

    def _not_told(self, failure, user):
        self._told.discard(user)  # the next message tries again
        log.warn("the push service was not reached: {why}", why=failure.getErrorMessage())
