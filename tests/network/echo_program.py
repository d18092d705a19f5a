"""A program to try with ``imgateway conformance``: our own client, which sends back what it is shown."""

import os

from twisted.internet import reactor

from imgateway.client import Client

client = Client(
    os.environ["IMGATEWAY_URL"],
    token=lambda: os.environ["IMGATEWAY_TOKEN"],
    device="echo",
    protocol=os.environ["IMGATEWAY_PROTOCOL"],
    on_message=lambda received: echo(received.message.body),
    wait=True,
)


def echo(body):
    client.publish(os.environ["IMGATEWAY_ECHO_TO"], body).addErrback(lambda failure: None)


client.start().addErrback(lambda failure: print(failure.getErrorMessage()))
reactor.run()
