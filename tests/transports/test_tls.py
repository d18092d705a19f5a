"""What a peer may ask of TLS that is not data: records sealed by hand, for no library sends so many."""

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL

from imgateway.errors import CloseCode
from imgateway.testing.wires import BareWire, Network, RawPeer, accepting
from imgateway.transports.tcp import TCPTransport
from imgateway.transports.tls import A_SECOND, AT_ONCE, PORTION, BoundedTLS
from imgateway.transports.websocket import WebSocketTransport

WIRE = BareWire()
DATA, HANDSHAKE = 23, 22
NEW_KEYS, NEW_KEYS_OF_BOTH = b"\x18\0\0\x01\0", b"\x18\0\0\x01\x01"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Sealer:
    """A TLS 1.3 client whose records are made here once it has greeted.

    :ivar raw: what it is connected by.
    """

    def __init__(self, network):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        secrets = {}
        context.set_keylog_callback(lambda _, line: secrets.update([line.split(b" ")[::2]]))
        tls = SSL.Connection(context)
        tls.set_connect_state()
        self.raw = RawPeer.on(network, 7901)
        with pytest.raises(SSL.WantReadError):
            tls.do_handshake()
        self.raw.send(tls.bio_read(2**15))
        tls.bio_write(self.raw.data)
        tls.do_handshake()
        self.raw.send(tls.bio_read(2**15))
        assert tls.get_cipher_name() == "TLS_AES_256_GCM_SHA384"
        self._use(bytes.fromhex(secrets[b"CLIENT_TRAFFIC_SECRET_0"].decode()))

    def _use(self, secret):
        self._secret = secret
        self._seal = AESGCM(self._derived(b"key", 32)).encrypt
        self._iv = int.from_bytes(self._derived(b"iv", 12))
        self._number = 0

    def _derived(self, label, size):
        info = size.to_bytes(2) + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
        return HKDFExpand(hashes.SHA384(), size, info).derive(self._secret)

    def record(self, text, kind=DATA):
        """A record that holds `text`."""
        head = b"\x17\x03\x03" + (len(text) + 17).to_bytes(2)
        nonce = (self._iv ^ self._number).to_bytes(12)
        self._number += 1
        return head + self._seal(nonce, text + bytes([kind]), head)

    def new_keys(self, message=NEW_KEYS_OF_BOTH):
        """A KeyUpdate; what follows is sealed with the new key."""
        record = self.record(message, HANDSHAKE)
        self._use(self._derived(b"traffic upd", 48))
        return record


class Stage:
    """A listener with TLS, and a client of it that has greeted."""

    def __init__(self, pem, transport=None, prefix="", **options):
        self.network = Network(**options)
        self.accepted = []
        endpoint = f"{prefix}ssl:7901:privateKey={pem}/key.pem:certKey={pem}/cert.pem"
        self.network.result(
            (transport or TCPTransport()).listen(endpoint, [WIRE], accepting(self.accepted), self.network, {})
        )
        self.client = Sealer(self.network)
        [self.server] = self.accepted
        self.end = self.network.links[-1].server
        """The server's socket."""

    def send(self, data):
        self.client.raw.send(data)

    def held(self):
        """How many bytes wait for the client to read."""
        return len(self.end.dataBuffer) - self.end.offset + sum(map(len, self.end._tempDataBuffer))

    def is_cut(self):
        if self.server.reason is None:
            return False
        told = "too many TLS records without data", CloseCode.BAD_FRAME
        assert (self.server.reason, self.server.code) == told
        return True


@pytest.fixture
def stage(certificate):
    return Stage(certificate)


@pytest.mark.parametrize("chunk", [0, 1, 5, 7, 26, 28, 1000])
def test_records_come_in_any_chunks(certificate, chunk):
    stage = Stage(certificate, chunk=chunk)
    client = stage.client
    stage.send(client.record(b"a") + client.new_keys() + client.record(b"b" * 10_000) + client.record(b"c"))
    assert stage.server.data == b"a" + b"b" * 10_000 + b"c"
    stage.send(b"".join(client.new_keys() for _ in range(AT_ONCE - 1)) + client.record(b"d"))
    assert not stage.is_cut()
    assert stage.server.data[-1:] == b"d"
    stage.send(client.new_keys())
    assert stage.is_cut()


def test_records_of_one_byte_and_large_ones_are_no_concern(stage):
    client = stage.client
    stage.send(b"".join(client.record(b"%c" % (n % 250)) for n in range(20_000)))
    stage.send(b"".join(client.record(b"x" * 16_384) for _ in range(64)))
    assert (len(stage.server.data), stage.server.reason) == (20_000 + 2**20, None)


def test_new_keys_now_and_then(stage):
    for _ in range(10 * AT_ONCE):
        stage.send(stage.client.new_keys() + stage.client.record(b"x"))
        stage.network.advance(1 / A_SECOND)
    assert stage.server.reason is None
    stage.send(b"".join(stage.client.new_keys() for _ in range(AT_ONCE)))
    assert not stage.is_cut()


@pytest.mark.parametrize("transport", [TCPTransport, WebSocketTransport])
def test_who_asks_for_new_keys_and_reads_nothing_is_cut(certificate, transport):
    stage = Stage(certificate, transport())
    if transport is WebSocketTransport:
        stage.send(stage.client.record(UPGRADE))
    assert stage.server.events == ["opened"]
    stage.client.raw.transport.pauseProducing()
    stage.network.capacity = 100
    sent = 0
    while stage.server.reason is None and sent <= 10 * AT_ONCE:
        stage.send(stage.client.new_keys())
        sent += 1
        assert stage.held() < 30 * AT_ONCE
        stage.network.advance(1 / A_SECOND)  # time alone forgives nothing
    assert stage.is_cut()


def test_a_read_full_of_them_is_not_answered_to_its_end(stage, monkeypatch):
    answers = []
    monkeypatch.setattr(stage.end, "write", answers.append)
    stage.send(b"".join(stage.client.new_keys() for _ in range(2_000)))
    assert stage.is_cut()
    assert len(stage.client.new_keys()) * (AT_ONCE + PORTION) >= sum(map(len, answers)) > 0


def test_keys_of_the_peer_alone_count_too(stage):
    stage.send(b"".join(stage.client.new_keys(NEW_KEYS) for _ in range(AT_ONCE)))
    assert not stage.is_cut()
    stage.send(stage.client.new_keys(NEW_KEYS))
    assert stage.is_cut()


def test_a_connection_that_is_being_closed_is_cut_too(stage):
    stage.server.connection.close(CloseCode.NORMAL)
    stage.send(b"".join(stage.client.new_keys() for _ in range(2 * AT_ONCE)))
    assert stage.server.reason == "closed with code 0"
    assert stage.network.getDelayedCalls() == []


def test_behind_a_proxy_header(certificate):
    stage = Stage(certificate, prefix="haproxy:")
    stage.send(stage.client.record(b"PROXY TCP4 192.0.2.7 198.51.100.1 51000 7901\r\nhello"))
    assert (stage.server.connection.peer, stage.server.data) == ("192.0.2.7:51000", b"hello")
    stage.send(b"".join(stage.client.new_keys() for _ in range(2 * AT_ONCE)))
    assert stage.is_cut()


def test_a_greeting_of_old_that_has_no_records_is_refused(certificate, monkeypatch):
    """OpenSSL 3 takes it, and of what comes afterwards no head could be found."""
    network, accepted = Network(), []
    endpoint = f"ssl:7901:privateKey={certificate}/key.pem:certKey={certificate}/cert.pem"
    network.result(TCPTransport().listen(endpoint, [WIRE], accepting(accepted), network, {}))
    monkeypatch.setattr(BoundedTLS, "_checkHandshakeStatus", lambda tls: None)
    RawPeer.on(network, 7901).send(b"\x81\x03\x01\x03\x03\0\x10")
    [server] = accepted
    assert (server.reason, server.code) == ("no TLS records", CloseCode.BAD_FRAME)
