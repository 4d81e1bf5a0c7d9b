"""MQTT 3.1.1 packets as bytes: cut a stream into whole packets, take a PUBLISH apart, build what a small client sends.

Shared by the bridge of serial boards and by the virtual lab's proxy. Must not do any input or output, and must not
believe a length before checking it: the bytes may come from anywhere.
"""

from __future__ import annotations

from typing import NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC = 1, 2, 3, 4, 5
SUBSCRIBE, SUBACK, PINGREQ, PINGRESP, DISCONNECT = 8, 9, 12, 13, 14
MAX_PACKET = 256 * 1024  # bytes; ours stay below 5 KB, and a stream that announces more is not ours
PROTOCOL_LEVEL = 4  # 3.1.1; version 5 puts properties before the payload and is refused


class PacketError(Exception):
    """Bytes that are not MQTT 3.1.1. The connection that carried them cannot be trusted any further."""


class Publish(NamedTuple):
    """The parts of a PUBLISH; `payload_at` is the payload's offset in the packet."""

    topic: bytes
    qos: int
    packet_id: int  # 0 at QoS 0
    payload_at: int


def packet_end(data: bytes, start: int) -> tuple[int, int]:
    """(offset of the body, offset behind the packet) of the packet at `start`; the latter is 0 until it is whole."""
    available = len(data)
    if start < available and not 1 <= data[start] >> 4 <= 14:
        raise PacketError(f"packet type {data[start] >> 4}")
    length = 0
    for index in range(4):
        position = start + 1 + index
        if position >= available:
            return 0, 0
        byte = data[position]
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if length > MAX_PACKET:
                raise PacketError(f"a packet of {length} bytes; at most {MAX_PACKET}")
            end = position + 1 + length
            return position + 1, (end if end <= available else 0)
    raise PacketError("the remaining length does not end within 4 bytes")


class PacketStream:
    """Cuts a stream of bytes, in whatever chunks it comes, into whole packets."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[bytes, int]]:
        """The packets that are complete now, each as (packet, offset of its body). PacketError on anything else."""
        if self._rest:
            data = self._rest + data
        packets: list[tuple[bytes, int]] = []
        start = 0
        while True:
            body, end = packet_end(data, start)
            if not end:
                self._rest = data[start:]
                return packets
            packets.append((data[start:end], body - start))
            start = end


def parse_publish(packet: bytes, body: int) -> Publish:
    """Take a whole PUBLISH apart; `body` is the offset of its body."""
    qos = packet[0] >> 1 & 3
    if qos == 3:
        raise PacketError("QoS 3")
    topic_at = body + 2
    payload_at = topic_at + int.from_bytes(packet[body:topic_at], "big")
    topic = packet[topic_at:payload_at]
    packet_id = 0
    if qos:
        packet_id = int.from_bytes(packet[payload_at : payload_at + 2], "big")
        payload_at += 2
    if topic_at > len(packet) or payload_at > len(packet):
        raise PacketError("a PUBLISH whose topic is longer than the packet")
    return Publish(topic, qos, packet_id, payload_at)


def _packet(first: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, byte = size >> 7, size & 0x7F
        length.append(byte | 0x80 if size else byte)
        if not size:
            return bytes((first,)) + bytes(length) + body


def _text(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text


def connect(
    client: str,
    *,
    user: str | None = None,
    password: str | None = None,
    keep_alive_s: int = 10,
    will: tuple[str, bytes] | None = None,
) -> bytes:
    """A CONNECT with a clean session; `will` is (topic, payload), retained, at QoS 1."""
    flags, payload = 0x02, _text(client.encode())
    if will is not None:
        flags |= 0x04 | 0x08 | 0x20
        payload += _text(will[0].encode()) + _text(will[1])
    if user is not None:
        flags |= 0x80
        payload += _text(user.encode())
        if password is not None:
            flags |= 0x40
            payload += _text(password.encode())
    head = _text(b"MQTT") + bytes((PROTOCOL_LEVEL, flags)) + keep_alive_s.to_bytes(2, "big")
    return _packet(CONNECT << 4, head + payload)


def publish(topic: bytes, payload: bytes, *, qos: int = 0, packet_id: int = 0, retain: bool = False) -> bytes:
    number = packet_id.to_bytes(2, "big") if qos else b""
    return _packet(PUBLISH << 4 | qos << 1 | int(retain), _text(topic) + number + payload)


def subscribe(packet_id: int, topics: list[tuple[str, int]]) -> bytes:
    body = b"".join(_text(topic.encode()) + bytes((qos,)) for topic, qos in topics)
    return _packet(SUBSCRIBE << 4 | 2, packet_id.to_bytes(2, "big") + body)


def acknowledge(kind: int, packet_id: int) -> bytes:
    """A PUBACK or PUBREC."""
    return bytes((kind << 4, 2)) + packet_id.to_bytes(2, "big")


PING = bytes((PINGREQ << 4, 0))
GOODBYE = bytes((DISCONNECT << 4, 0))
