"""A program to try with ``imgateway conformance``: a small MobileIMSDK client, which sends back what it is
shown."""

import os
import random
import sys
import threading
import time
import uuid
from urllib.parse import urlsplit

from tests.network.mobileimsdk import Phone, said

port = urlsplit(os.environ["IMGATEWAY_URL"]).port
user, token = os.environ["IMGATEWAY_USER"], os.environ["IMGATEWAY_TOKEN"]
to = os.environ["IMGATEWAY_ECHO_TO"].partition(":")[2]
known = set()
unanswered = {}


def show(phone, message):
    if message["fp"] not in known:
        known.add(message["fp"])
        fp = str(uuid.uuid4())
        unanswered[fp] = message["dataContent"]
        phone.tell(to, message["dataContent"], fp)


def beat(phone):
    try:
        while True:
            time.sleep(3)
            phone.say(said(1, "{}", user))
    except OSError:
        pass


def connection(first):
    """One connection, to its end; the time of the first login."""
    phone = Phone(port)
    phone.socket.settimeout(300)
    first = phone.log_in(user, token, first)
    threading.Thread(target=beat, args=(phone,), daemon=True).start()
    for fp, text in tuple(unanswered.items()):
        phone.tell(to, text, fp)
    while (heard := phone.hear()) is not None:
        if heard["type"] == 4:
            unanswered.pop(heard["dataContent"], None)
        elif heard["type"] == 2:
            if heard.get("QoS"):
                phone.confirm(heard)
            show(phone, heard)
        elif heard["type"] == 54:
            sys.exit("kicked out")
    return first


first, attempt = 0, 0
while True:
    began = time.monotonic()
    try:
        first = connection(first)
    except AssertionError as refused:
        sys.exit(f"not let in: {refused}")
    except (OSError, EOFError):
        pass
    attempt = 0 if time.monotonic() - began > 10 else attempt + 1
    time.sleep(0.5 * 2**attempt * random.uniform(0.5, 1))
