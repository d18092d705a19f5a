"""An interceptor: some words are not said here, and texts are short."""

import re

from msgspec.structs import replace
from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.frames import OutcomeCode
from imgateway.interfaces import IInterceptor

LONGEST_TEXT_BYTES = 4_096


@implementer(IPlugin, IInterceptor)
class WordGuard:
    """Refuses long texts, stars out bad words; what is no text, or comes from a service, passes as it is."""

    name = "word-guard"

    def __init__(self, words):
        self._bad = re.compile("|".join(map(re.escape, sorted(words))), re.IGNORECASE)

    def before_publish(self, identity, publish):
        if identity.service or not publish.content_type.startswith("text/"):
            return publish
        if len(publish.body) > LONGEST_TEXT_BYTES:
            return OutcomeCode.TOO_LARGE
        text = publish.body.decode("utf-8", "replace")
        clean = self._bad.sub(lambda found: "*" * len(found[0]), text)
        return publish if clean == text else replace(publish, body=clean.encode())
