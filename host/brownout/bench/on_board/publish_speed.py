# mypy: ignore-errors
"""Runs on MicroPython: a QoS-1 publish of transport/mqtt.py and a bare socket exchange of the same bytes, in turns.

Usage: publish_speed.py FIRMWARE HOST PORT COUNT. Prints (ours, bare): microseconds from publish to acknowledgement.
"""

import asyncio
import socket
import struct
import sys
import time

FIRMWARE, HOST, PORT, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sys.path.insert(0, FIRMWARE)

from brownout_node.transport.mqtt import MqttClient

WARM_UP = 50
TOPIC = "bed/ev/b1"
PAYLOAD = bytes(range(150))
BODY = struct.pack(">H", len(TOPIC)) + TOPIC.encode() + struct.pack(">H", 1) + PAYLOAD
PACKET = b"\x32" + struct.pack("BB", len(BODY) & 127 | 128, len(BODY) >> 7) + BODY

acknowledged = asyncio.Event()
connected = asyncio.Event()


class Timed(MqttClient):
    def _handle(self, head, body):
        super()._handle(head, body)
        if head == 0x40:
            self.acknowledged_us = time.ticks_us()
            acknowledged.set()


def bare_connection():
    connection = socket.socket()
    connection.connect(socket.getaddrinfo(HOST, PORT)[0][-1])
    connection.setsockopt(6, 1, 1)
    connection.write(b"\x10\x10\0\4MQTT\4\2\0\x3c\0\4bare")
    assert connection.read(4) == b"\x20\2\0\0"
    return connection


async def main():
    options = {"host": HOST, "port": PORT, "user": "b1", "password": None, "keep_alive_s": 60, "tls": None}
    client = Timed(options, "b1", ("up", b"0"), (("in", 0),), print, lambda: None, connected.set, lambda _bound: 0)
    asyncio.create_task(client.run())
    await connected.wait()
    connection = bare_connection()
    ours = []
    bare = []

    async def publish():
        acknowledged.clear()
        began_us = time.ticks_us()
        client.publish(TOPIC, PAYLOAD, 1)
        await acknowledged.wait()
        return time.ticks_diff(client.acknowledged_us, began_us)

    def exchange():
        began_us = time.ticks_us()
        connection.write(PACKET)
        assert connection.read(4)[0] == 0x40
        return time.ticks_diff(time.ticks_us(), began_us)

    for number in range(WARM_UP + COUNT):
        if number % 2:  # whoever comes second finds warm caches
            our_us = await publish()
            bare_us = exchange()
        else:
            bare_us = exchange()
            our_us = await publish()
        if number >= WARM_UP:
            ours.append(our_us)
            bare.append(bare_us)
    print((ours, bare))


asyncio.run(main())
