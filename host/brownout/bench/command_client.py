"""A client of a bed on a bare blocking socket: one command, one answer, and the time between, no thread in between.

Must not hide what is lost: a command that is not answered in time comes back as None.
"""

from __future__ import annotations

import socket
import struct
import time

from brownout_node.core import codec, schema

from ..mqtt_packets import CONNACK, PUBLISH, SUBACK, PacketStream, parse_publish

CONNECT_WITHIN_S = 5.0
ANSWER_WITHIN_S = 2.0


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


def _packet(head: int, body: bytes) -> bytes:
    size = len(body)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([head]) + length + body


class CommandClient:
    """client: its number, which is also the topic of its answers."""

    def __init__(self, address: tuple[str, int], bed: str, cluster: int, client: int) -> None:
        self._bed = bed
        self._cluster = cluster
        self._client = client
        self._requests = 0
        self._stream = PacketStream()
        self._socket = socket.create_connection(address, CONNECT_WITHIN_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = f"bench-{client}"
        self._socket.sendall(_packet(0x10, _text("MQTT") + b"\x04\x02\x00\x00" + _text(name)))
        self._expect(CONNACK)
        self._socket.sendall(_packet(0x82, b"\x00\x01" + _text(f"{bed}/re/{client}") + b"\x00"))
        self._expect(SUBACK)

    def _expect(self, kind: int) -> None:
        while True:
            for packet, _body in self._stream.feed(self._socket.recv(4096)):
                if packet[0] >> 4 == kind:
                    return

    def ask(self, board: str, operation: int, key: str, value: str | None) -> tuple[float, int, int] | None:
        """(milliseconds until the answer, its status, its height), or None."""
        self._requests += 1
        fields = (self._requests, operation, key, value, None)
        message = codec.encode_message(self._cluster, self._client, 0, self._requests, schema.COMMAND, fields)
        packet = _packet(0x30, _text(f"{self._bed}/cmd/{board}") + message)
        began_ns = time.perf_counter_ns()
        self._socket.sendall(packet)
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while time.monotonic() < deadline:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._socket.recv(4096)
            except TimeoutError:
                return None
            took_ms = (time.perf_counter_ns() - began_ns) / 1e6
            for answer, body in self._stream.feed(data):
                if answer[0] >> 4 == PUBLISH:
                    reply = codec.decode_message(answer[parse_publish(answer, body).payload_at :])[5]
                    if reply[1] == self._requests:
                        return took_ms, reply[2], reply[4]
        return None

    def close(self) -> None:
        self._socket.close()
