"""The boards' MQTT client, in the real MicroPython: against mosquitto, and against a server that misbehaves."""

from __future__ import annotations

import datetime
import json
import queue
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mqtt_bed import WITHIN_S, Broker, Client, free_port, wait_until

FIRMWARE = Path(__file__).resolve().parent.parent.parent / "firmware"
MOST_WAKE_UPS = 400  # a second, of a board that beats a hundred times; asking each millisecond makes a thousand more

# A board that answers on `out/...` what it is told on `in/...`, and prints what happens to it.
PROGRAM = """
import asyncio, json, sys, time
sys.path.insert(0, sys.argv[1])
from brownout_node.transport.mqtt import MqttClient

options = dict(port=1883, user="b1", password=None, keep_alive_s=10, tls=None)
options.update(json.loads(sys.argv[2]))
times = []

def on_message(topic, payload):
    if topic == "in/echo":
        client.publish("out/echo", payload, 1)
    elif topic == "in/flood":  # as much as the socket and the buffer take, and some
        for number in range(int(payload)):
            client.publish("out/flood", b"%06d" % number + bytes(500))
        print("flooded", client.dropped)
    elif topic == "in/window":
        print("window", [client.publish("out/window", b"%d" % number, 1) for number in range(10)])
    elif topic == "in/state":
        print("state", client.unacknowledged, client.skipped, client.attempts)
    else:
        print("message", topic, payload)

def on_connected():
    client.publish("up/b1", b"1", 1, True)
    print("connected", client.attempts)

def below(n):
    return time.ticks_us() % n

async def heartbeat():
    last = time.ticks_ms()
    while True:
        await asyncio.sleep_ms(10)
        now = time.ticks_ms()
        if time.ticks_diff(now, last) > 300:
            print("blocked", time.ticks_diff(now, last))
        last = now

async def main():
    beat = asyncio.create_task(heartbeat())
    runner = asyncio.create_task(client.run())
    error = None
    while True:
        await asyncio.sleep_ms(20)
        if client.error is not error:
            error = client.error
            print("error", repr(error))

topics = (("in/#", 1), ("zero", 0))
client = MqttClient(options, "b1", ("up/b1", b"0"), topics, on_message, lambda: None, on_connected, below)
asyncio.run(main())
"""


class Board:
    """The program above as a process, and the lines that it prints."""

    def __init__(self, micropython: str, directory: Path, **options: Any) -> None:
        script = directory / "board.py"
        script.write_text(PROGRAM)
        self.lines: queue.Queue[str] = queue.Queue()
        self._process = subprocess.Popen(
            [micropython, "-X", "heapsize=200k", str(script), str(FIRMWARE), json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.put(line.rstrip())

    def expect(self, start: str, within_s: float = WITHIN_S) -> str:
        """The next line that starts so; a traceback or a blocked loop on the way fails the test."""
        deadline = time.monotonic() + within_s
        seen = []
        while time.monotonic() < deadline:
            try:
                line = self.lines.get(timeout=deadline - time.monotonic())
            except queue.Empty:
                break
            assert not line.startswith(("Traceback", "blocked")), [line, *list(self.lines.queue)]
            if line.startswith(start):
                return line
            seen.append(line)
        raise AssertionError(f"no line {start!r}, but {seen}")

    def wake_ups(self, for_s: float) -> int:
        """How often it went to sleep in that time, as the kernel counts it."""

        def count() -> int:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
            return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

        before = count()
        time.sleep(for_s)
        return count() - before

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(WITHIN_S)


@pytest.fixture
def board(micropython: str, tmp_path: Path) -> Iterator[Callable[..., Board]]:
    boards: list[Board] = []

    def start(**options: Any) -> Board:
        boards.append(Board(micropython, tmp_path, **{"host": "127.0.0.1", **options}))
        return boards[-1]

    yield start
    for started in boards:
        started.kill()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def peer(broker: Broker) -> Iterator[Client]:
    client = Client("peer", broker.port, "out/#", "up/#", qos=1)
    yield client
    client.close()


def round_trip(peer: Client, payload: bytes) -> None:
    peer.publish("in/echo", payload, qos=1)
    assert peer.next() == ("out/echo", payload)


# Against a real broker.


@pytest.mark.needs("mosquitto")
def test_messages_of_both_qualities_pass_both_ways(board, broker, peer):
    one = board(port=broker.port)
    one.expect("connected")
    assert peer.next() == ("up/b1", b"1")
    for size in (0, 1, 100, 127, 128, 600):
        round_trip(peer, bytes(range(256)) * 3 if size == 600 else b"x" * size)
    peer.publish("zero", b"\x00\xff")
    assert one.expect("message") == r"message zero b'\x00\xff'"
    peer.publish("in/state", b"")
    assert one.expect("state") == "state 0 0 1"


@pytest.mark.needs("mosquitto")
def test_the_broker_tells_when_a_board_is_gone(board, broker, peer):
    one = board(port=broker.port)
    assert peer.next() == ("up/b1", b"1")
    one.kill()
    assert peer.next() == ("up/b1", b"0")
    late = Client("late", broker.port, "up/#")
    assert late.next() == ("up/b1", b"0")
    late.close()


@pytest.mark.needs("mosquitto")
def test_a_long_packet_is_skipped_and_the_next_one_is_taken(board, broker, peer):
    one = board(port=broker.port)
    one.expect("connected")
    peer.next()
    for size in (2030, 3000, 70000):
        peer.publish("in/long", bytes(size), qos=1)
    round_trip(peer, b"after")
    peer.publish("in/state", b"")
    assert one.expect("state", 10.0) == "state 0 2 1"


@pytest.mark.needs("mosquitto")
def test_the_board_comes_back_when_the_broker_does(board, broker, peer):
    one = board(port=broker.port)
    one.expect("connected")
    peer.close()
    broker.kill()
    one.expect("error")
    broker.start()
    one.expect("connected", 10.0)
    again = Client("again", broker.port, "out/#", qos=1)
    round_trip(again, b"back")
    again.close()


@pytest.mark.needs("mosquitto")
def test_an_idle_board_keeps_its_connection(board, broker, peer):
    one = board(port=broker.port, keep_alive_s=1)
    one.expect("connected")
    peer.next()
    with pytest.raises(queue.Empty):
        print(peer.messages.get(timeout=4.0))  # no will: the pings went through
    round_trip(peer, b"still there")
    assert not one.lines.qsize()


@pytest.mark.needs("mosquitto")
def test_a_stalled_broker_blocks_nothing_and_messages_are_dropped_at_the_bound(board, broker, peer):
    one = board(port=broker.port)
    one.expect("connected")
    peer.next()
    peer.publish("in/flood", b"20000")
    wait_until(lambda: peer.messages.qsize() > 0, "the flood began")
    broker.send_signal(signal.SIGSTOP)
    dropped = int(one.expect("flooded", 20.0).split()[1])
    assert dropped > 0
    broker.send_signal(signal.SIGCONT)
    last = 0
    while not peer.messages.empty() or last == 0:
        topic, payload = peer.next()
        assert topic == "out/flood"
        assert len(payload) == 506  # whole messages only
        last = int(payload[:6])
    round_trip_after_flood(peer)


def round_trip_after_flood(peer: Client) -> None:
    peer.publish("in/echo", b"alive", qos=1)
    deadline = time.monotonic() + 15.0
    while time.monotonic() < deadline:
        if peer.next(15.0) == ("out/echo", b"alive"):
            return
    raise AssertionError("no echo after the flood")


@pytest.mark.needs("mosquitto")
def test_a_password_is_sent_and_a_refusal_is_said(board, broker, tmp_path):
    class Guarded(Broker):
        def __init__(self, directory: Path) -> None:
            super().__init__(directory)
            passwords = directory / "passwords"
            tool = shutil.which("mosquitto_passwd")
            assert tool
            subprocess.run([tool, "-c", "-b", str(passwords), "b1", "secret"], check=True)
            text = self._config.read_text().replace("allow_anonymous true", "allow_anonymous false")
            self._config.write_text(f"{text}password_file {passwords}\n")

    (tmp_path / "guarded").mkdir()
    guarded = Guarded(tmp_path / "guarded")
    guarded.start()
    try:
        board(port=guarded.port, user="b1", password="secret").expect("connected")
        assert "refused by the broker: 5" in board(port=guarded.port, user="b1", password="wrong").expect("error")
    finally:
        guarded.kill()


def certificates(directory: Path) -> None:
    """ca.der, and server.pem with server.key for the name `broker`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)

    def make(name: str, issuer_name: str, issuer_key: Any, ca: bool) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        named = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, issuer_name)]
        builder = x509.CertificateBuilder(named[1], named[0], key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
            now + datetime.timedelta(days=1)
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return builder.sign(issuer_key or key, hashes.SHA256()), key

    ca, ca_key = make("bed", "bed", None, True)
    server, server_key = make("broker", "bed", ca_key, False)
    (directory / "ca.der").write_bytes(ca.public_bytes(serialization.Encoding.DER))
    (directory / "server.pem").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    (directory / "server.key").write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@pytest.mark.needs("mosquitto")
def test_tls_is_spoken_and_a_broker_with_the_wrong_name_is_refused(board, tmp_path):
    class Encrypted(Broker):
        def __init__(self, directory: Path) -> None:
            super().__init__(directory)
            certificates(directory)
            text = self._config.read_text()
            self.encrypted = free_port()
            self._config.write_text(
                f"{text}listener {self.encrypted} 127.0.0.1\nset_tcp_nodelay true\n"
                f"certfile {directory}/server.pem\nkeyfile {directory}/server.key\n"
            )

    broker = Encrypted(tmp_path)
    broker.start()
    try:
        tls = {"ca": str(tmp_path / "ca.der"), "server_name": "broker"}
        one = board(port=broker.encrypted, tls=tls)
        one.expect("connected", 10.0)
        peer = Client("peer", broker.port, "out/#", qos=1)
        for size in (1, 200, 600):
            round_trip(peer, b"x" * size)
        peer.publish("in/flood", b"300")
        assert [peer.next()[1][:6] for _ in range(300)] == [b"%06d" % number for number in range(300)]
        peer.close()
        assert one.wake_ups(1.0) < MOST_WAKE_UPS, "it asks its TLS object all the time instead of sleeping"
        two = board(port=broker.encrypted, tls={**tls, "server_name": "other"})
        assert "error" in two.expect("error", 10.0)
    finally:
        broker.kill()


# Against a server that does what it likes.


class Server:
    """Takes one connection after the other; speaks only as the test says."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(10.0)
        self.port = self._listener.getsockname()[1]

    def accept(self) -> socket.socket:
        connection, _address = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(WITHIN_S)
        return connection

    def subscribe(self) -> socket.socket:
        """Accept a board and answer its CONNECT and SUBSCRIBE."""
        connection = self.accept()
        assert read_packet(connection)[0] == 0x10
        connection.sendall(b"\x20\x02\x00\x00")
        head, body = read_packet(connection)
        assert head == 0x82
        connection.sendall(b"\x90\x04" + body[:2] + b"\x01\x00")
        return connection

    def welcome(self) -> socket.socket:
        """Accept a board and answer its CONNECT and SUBSCRIBE; its presence is read and acknowledged."""
        connection = self.subscribe()
        head, body = read_packet(connection)
        assert head & 0xF0 == 0x30
        connection.sendall(b"\x40\x02" + body[7:9])
        return connection

    def close(self) -> None:
        self._listener.close()


def read_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def read_packet(connection: socket.socket) -> tuple[int, bytes]:
    head = read_exactly(connection, 1)[0]
    size, shift = 0, 0
    while True:
        byte = read_exactly(connection, 1)[0]
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return head, read_exactly(connection, size)


def publish(topic: bytes, payload: bytes, identifier: int = 0) -> bytes:
    body = struct.pack(">H", len(topic)) + topic + (struct.pack(">H", identifier) if identifier else b"") + payload
    assert len(body) < 128
    return bytes([0x32 if identifier else 0x30, len(body)]) + body


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


MALFORMED = {
    "a reserved kind": b"\xf0\x00",
    "quality 3": b"\x36\x05\x00\x01a\x00\x01",
    "quality 2": b"\x34\x05\x00\x01a\x00\x01",
    "a topic longer than the packet": b"\x30\x03\x00\x09a",
    "no room for a topic's length": b"\x30\x01\x00",
    "an empty message": b"\x30\x00",
    "no identifier": b"\x32\x03\x00\x01a",
    "a topic that is not text": b"\x30\x04\x00\x02\xff\xfe",
    "a length without end": b"\x30\xff\xff\xff\xff\x01",
    "an acknowledgement too short": b"\x40\x01\x00",
    "a second welcome": b"\x20\x02\x00\x00",
    "a stray subscription": b"\x90\x03\x00\x01\x00",
    "a request for a ping": b"\xc0\x00",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_bytes_that_are_not_mqtt_cost_the_connection_and_no_more(name, board, server):
    one = board(port=server.port)
    connection = server.welcome()
    one.expect("connected")
    connection.sendall(publish(b"in/x", b"before") + MALFORMED[name])
    assert one.expect("message") == "message in/x b'before'"
    with pytest.raises((EOFError, ConnectionResetError)):
        read_packet(connection)
    connection.close()
    server.welcome().close()
    one.expect("connected")


def test_a_broken_welcome_is_tried_again(board, server):
    one = board(port=server.port)
    for answer in (
        b"\x20\x02\x00\x05",
        b"\x20\x03\x00\x00\x00",
        publish(b"in/x", b"early"),
        b"\x90\x04\x00\x01\x00\x00",
        b"",
    ):
        connection = server.accept()
        assert read_packet(connection)[0] == 0x10
        connection.sendall(answer)
        if not answer:
            connection.shutdown(socket.SHUT_WR)
        with pytest.raises((EOFError, ConnectionResetError)):
            read_packet(connection)
        connection.close()
    connection = server.accept()
    read_packet(connection)
    connection.sendall(b"\x20\x02\x00\x00")
    identifier = read_packet(connection)[1][:2]
    connection.sendall(b"\x90\x04" + identifier + b"\x80\x00")
    assert "a subscription was refused" in one.expect("error MessageError('a sub")
    connection.close()
    server.welcome().close()
    one.expect("connected")


def test_packets_are_understood_in_pieces_of_any_size(board, server):
    one = board(port=server.port)
    connection = server.welcome()
    one.expect("connected")
    stream = b"".join(publish(b"in/%d" % number, b"p" * number, number) for number in range(1, 12))
    for byte in stream[:60]:
        connection.sendall(bytes([byte]))
        time.sleep(0.001)
    connection.sendall(stream[60:])
    for number in range(1, 12):
        assert one.expect("message") == f"message in/{number} b'{'p' * number}'"
        assert read_packet(connection) == (0x40, struct.pack(">H", number))
    connection.close()


def test_what_was_not_acknowledged_is_sent_again_marked_and_the_window_is_bounded(board, server):
    one = board(port=server.port)
    connection = server.welcome()
    connection.sendall(publish(b"in/window", b""))
    assert one.expect("window") == f"window {[True] * 8 + [False] * 2}"
    first = [read_packet(connection) for _ in range(8)]
    assert [head for head, _body in first] == [0x32] * 8
    connection.sendall(b"\x40\x02" + first[0][1][12:14] + b"\x40\x02" + first[5][1][12:14])
    again = [read_packet(connection) for _ in range(6)]  # while connected, after some seconds
    assert again == [(0x3A, first[number][1]) for number in (1, 2, 3, 4, 6, 7)]
    connection.close()
    connection = server.subscribe()
    assert [read_packet(connection) for _ in range(6)] == again
    presence = read_packet(connection)[1]
    for body in (*(body[12:14] for _head, body in again), presence[7:9]):
        connection.sendall(b"\x40\x02" + body)
    connection.sendall(publish(b"in/state", b""))
    assert one.expect("state") == "state 0 0 2"
    connection.close()


def test_a_silent_broker_is_left(board, server):
    one = board(port=server.port, keep_alive_s=1)
    connection = server.welcome()
    one.expect("connected")
    assert read_packet(connection) == (0xC0, b"")
    assert "silent" in one.expect("error")
    server.welcome().close()
    connection.close()


def test_attempts_are_spaced_out(board, server):
    board(port=server.port)
    begins = []
    for _attempt in range(6):
        server.accept().close()
        begins.append(time.monotonic())
    gaps = [later - earlier for earlier, later in zip(begins, begins[1:], strict=False)]
    assert sum(gaps) > 1.0  # 50 + 100 + 200 + 400 + 800 ms at least
    assert gaps[-1] > gaps[0]


# How fast.


@pytest.mark.needs("mosquitto")
def test_a_publish_costs_at_most_twice_a_raw_exchange(run_micropython, broker):
    """The same bytes and broker, in turns: from publish to acknowledgement, against a bare socket."""
    printed = run_micropython(SPEED.replace("PORT", str(broker.port)))
    ours, raw = (json.loads(line) for line in printed.splitlines()[-2:])
    ratio = statistics.median(ours) / statistics.median(raw)
    print(f"publish {statistics.median(ours)} us, raw exchange {statistics.median(raw)} us")
    assert ratio <= 2.0, f"publish {statistics.median(ours)} us, raw exchange {statistics.median(raw)} us"


SPEED = """
import asyncio, socket, struct, time
from brownout_node.transport.mqtt import MqttClient

def raw_connection():
    sock = socket.socket()
    sock.connect(socket.getaddrinfo("127.0.0.1", PORT)[0][-1])
    sock.setsockopt(6, 1, 1)
    sock.write(b"\\x10\\x0f\\0\\4MQTT\\4\\2\\0\\x3c\\0\\3raw")
    assert sock.read(4) == b"\\x20\\2\\0\\0"
    return sock

class Timed(MqttClient):
    def _handle(self, head, body):
        super()._handle(head, body)
        if head == 0x40:
            ours.append(time.ticks_diff(time.ticks_us(), begin))
            acknowledged.set()

acknowledged = asyncio.Event()
connected = asyncio.Event()
options = dict(host="127.0.0.1", port=PORT, user="b1", password=None, keep_alive_s=60, tls=None)
client = Timed(options, "b1", ("up", b"0"), (("in", 0),), print, lambda: None, connected.set, lambda n: 0)
payload = bytes(150)
packet = b"\\x32\\xa7\\x01\\0\\x0dbed/ev/board1\\0\\1" + bytes(150)

ours, raw = [], []

async def main():
    global begin
    task = asyncio.create_task(client.run())
    await connected.wait()
    sock = raw_connection()
    for _ in range(400):
        begin = time.ticks_us()
        acknowledged.clear()
        client.publish("bed/ev/board1", payload, 1)
        await acknowledged.wait()
        middle = time.ticks_us()
        sock.write(packet)
        assert sock.read(4)[0] == 0x40
        raw.append(time.ticks_diff(time.ticks_us(), middle))
    print(ours)
    print(raw)

asyncio.run(main())
"""
