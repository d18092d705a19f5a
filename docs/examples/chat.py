"""A chat with one friend: python chat.py URL TOKEN FRIEND. Type lines; Ctrl-D ends it."""

import sys

from twisted.internet import stdio, task
from twisted.internet.defer import Deferred
from twisted.protocols.basic import LineReceiver

from imgateway.client import connect
from imgateway.errors import ConnectRefused, LinkLost


class Keyboard(LineReceiver):
    delimiter = b"\n"

    def __init__(self, on_line):
        self.on_line = on_line
        self.ended = Deferred()

    def lineReceived(self, line):
        self.on_line(line.decode("utf-8", "replace"))

    def connectionLost(self, reason=None):
        self.ended.callback(None)


async def chat(reactor, url, token, friend, open_keyboard=stdio.StandardIO, show=print):
    def on_message(received):
        show(f"{received.message.sender}: {received.message.body.decode('utf-8', 'replace')}")

    def on_gap(gap):
        show("(something is missing here)")

    def say(line):
        # Nobody waits for this one; it is sent again until it has its outcome, or its error is told.
        client.publish(f"user:{friend}", line).addErrback(lambda failure: show(f"not sent: {failure.value}"))

    client = await connect(
        url, token=token, device="chat", on_message=on_message, on_gap=on_gap, reactor=reactor
    )
    show(f"you are {client.user}")
    keyboard = Keyboard(say)
    open_keyboard(keyboard)
    await keyboard.ended
    await client.close()


async def main(reactor, *arguments):
    if len(arguments) != 3:
        sys.exit("usage: python chat.py URL TOKEN FRIEND")
    try:
        await chat(reactor, *arguments)
    except (ConnectRefused, LinkLost) as error:  # turned down for good; or nobody was there at the start
        sys.exit(str(error))


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
