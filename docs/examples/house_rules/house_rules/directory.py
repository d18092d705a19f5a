"""A backend: who of these people is online?"""

import json

from twisted.internet.defer import gatherResults
from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.errors import RequestFailed
from imgateway.interfaces import IBackend

BAD_QUESTION = 100  # codes from 100 are the service's own
MOST = 100


@implementer(IPlugin, IBackend)
class Directory:
    """``directory``, method ``online``: a JSON list of users → a JSON object, user → devices online."""

    name = "directory"

    def start(self, gateway):
        self._gateway = gateway

    def request(self, caller, request):
        if request.method != "online":
            raise RequestFailed(BAD_QUESTION, b"there is one method: online")
        try:
            users = json.loads(request.body)
        except ValueError:
            users = None
        if not isinstance(users, list) or len(users) > MOST or not all(isinstance(u, str) for u in users):
            raise RequestFailed(BAD_QUESTION, b"a list of at most 100 users")
        asking = gatherResults([self._gateway.sessions(user) for user in users], consumeErrors=True)
        return asking.addCallback(self._answer, users)

    def _answer(self, found, users):
        online = {
            user: sorted(one.session.device for one in sessions if one.online)
            for user, sessions in zip(users, found, strict=True)
        }
        return json.dumps(online).encode()
