"""A program to try with ``imgateway conformance``: paho-mqtt, which sends back what it is shown.

The argument is the version of the protocol: 4 is MQTT 3.1.1, 5 is MQTT 5.
"""

import os
import sys
from urllib.parse import urlsplit

from paho.mqtt.client import CallbackAPIVersion, Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

version = int(sys.argv[1])
url = urlsplit(os.environ["IMGATEWAY_URL"])
topic = os.environ["IMGATEWAY_ECHO_TO"].replace(":", "/")
client = Client(
    CallbackAPIVersion.VERSION2,
    client_id="paho",
    protocol=version,
    clean_session=None if version == 5 else False,
)
client.username_pw_set("", os.environ["IMGATEWAY_TOKEN"])
client.on_message = lambda client, _, message: client.publish(topic, message.payload, 1)
if version == 5:
    lasting = Properties(PacketTypes.CONNECT)
    lasting.SessionExpiryInterval = 3600
    client.connect(url.hostname, url.port, clean_start=False, properties=lasting)
else:
    client.connect(url.hostname, url.port)
client.loop_forever()
