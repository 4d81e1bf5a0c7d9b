"""Joins a board that has only a cable to the cluster: its own MQTT connection, kept on the host on its behalf.

The connection goes to the board's own port of the bed, so that link faults meet this board like any other, and its last
will speaks for the board. It stands only while the board is heard; for a board that has a network of its own, and its
cable as a last route, only while that board sends by its cable. Must not read the messages that it relays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from brownout_node.transport import serial as frames

from . import broker_keys
from . import mqtt_packets as mqtt

KEEP_ALIVE_S = 10
RETRY_S = 0.1
ACCEPT_WITHIN_S = 5.0
MAX_WAITING_BYTES = 64 * 1024  # towards a broker that does not read; messages beyond that are lost, as on any link


class BoardBridge(asyncio.Protocol):
    """deliver(payload) takes a frame's payload for the board. Everything runs in the hub's event loop.

    addresses: of the brokers, tried in turn. stands_in: the board itself speaks to brokers otherwise, so this
    connection has a client id of its own, and says nothing of the board's presence.
    """

    def __init__(
        self,
        bed: str,
        board: str,
        voter: bool,
        addresses: Sequence[tuple[str, int]],
        deliver: Callable[[bytes], object],
        stands_in: bool = False,
    ) -> None:
        self.bed = bed
        self.board = board
        self.relayed_up = 0
        self.relayed_down = 0
        self.dropped = 0
        self.established = asyncio.Event()
        self.stands_in = stands_in
        self._addresses = tuple(addresses)
        self._at = 0
        self._deliver = deliver
        self._groups = ("all", "voters") if voter else ("all",)
        self._stream = mqtt.PacketStream()
        self._transport: asyncio.Transport | None = None
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # Life of the connection.

    def attach(self) -> None:
        """The board is heard: connect, and stay connected."""
        if self._task is None:
            self._at = 0
            self._task = asyncio.get_running_loop().create_task(self._stay_connected())

    def detach(self) -> None:
        """The board is not there any more: go without a word, so that the broker sends the will."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._end()

    async def _stay_connected(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        # Python 3.11's wait_for may swallow a cancellation that comes together with what it waits for (mended in 3.12).
        while self._task is task:
            self._ended.clear()
            try:
                key = broker_keys.find(*self._address)
                await loop.create_connection(
                    lambda: self,
                    *self._address,
                    ssl=key.context if key else None,
                    server_hostname=key.server if key else None,
                )
                await asyncio.wait_for(self._accepted_or_ended(), ACCEPT_WITHIN_S)
                if not self.established.is_set():
                    raise ConnectionAbortedError("the connection ended before the broker had accepted it")
                await self._keep_alive()
            except (OSError, TimeoutError):  # the broker is down or stalled: a fault of this bed, or its end
                self._end()
                self._at = (self._at + 1) % len(self._addresses)
            await asyncio.sleep(RETRY_S)

    @property
    def _address(self) -> tuple[str, int]:
        return self._addresses[self._at]

    async def _accepted_or_ended(self) -> None:
        waits = [asyncio.ensure_future(self.established.wait()), asyncio.ensure_future(self._ended.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _keep_alive(self) -> None:
        while not self._ended.is_set():
            self._write(mqtt.PING)
            try:
                await asyncio.wait_for(self._ended.wait(), KEEP_ALIVE_S / 2)
            except TimeoutError:
                continue

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._stream = mqtt.PacketStream()
        will = None if self.stands_in else (f"{self.bed}/up/{self.board}", b"0")
        client = f"{self.board}-cable" if self.stands_in else self.board
        key = broker_keys.find(*self._address)
        password = key.password if key else None
        self._write(mqtt.connect(client, user=self.board, password=password, keep_alive_s=KEEP_ALIVE_S, will=will))

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        self.established.clear()
        self._ended.set()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _write(self, data: bytes) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > MAX_WAITING_BYTES:
            self.dropped += 1
            return False
        transport.write(data)
        return True

    # Towards the board.

    def data_received(self, data: bytes) -> None:
        try:
            for packet, body in self._stream.feed(data):
                self._take(packet, body)
        except mqtt.PacketError:
            self._end()

    def _take(self, packet: bytes, body: int) -> None:
        kind = packet[0] >> 4
        if kind == mqtt.PUBLISH:
            publish = mqtt.parse_publish(packet, body)
            if publish.qos:
                self._write(mqtt.acknowledge(mqtt.PUBACK, publish.packet_id))
            self._relay_down(publish.topic.decode(errors="replace"), packet[publish.payload_at :])
        elif kind == mqtt.CONNACK:
            if packet[-1] == 0:
                self._introduce()
            else:
                self._end()

    def _introduce(self) -> None:
        receivers = (self.board, *self._groups)
        topics = [(f"{self.bed}/g/+/{receiver}", 0) for receiver in receivers]
        self._write(mqtt.subscribe(1, [*topics, (f"{self.bed}/cmd/{self.board}", 1)]))
        if not self.stands_in:
            self._write(mqtt.publish(f"{self.bed}/up/{self.board}".encode(), b"1", qos=1, packet_id=2, retain=True))
        self.established.set()

    def _relay_down(self, topic: str, message: bytes) -> None:
        levels = topic[len(self.bed) + 1 :].split("/")
        if levels[0] == "cmd":
            self._deliver(bytes((frames.CLIENT,)) + message)
        elif levels[0] == "g" and levels[1] != self.board:  # a group's topic gives a board its own messages back
            self._deliver(frames.mesh_payload(levels[1], message))
        else:
            return
        self.relayed_down += 1

    # From the board.

    def relay_up(self, payload: bytes) -> None:
        """Take a MESH or CLIENT frame's payload from the board."""
        try:
            topic, message = self._route(payload)
        except (ValueError, IndexError, frames.struct.error):
            self.dropped += 1  # whole by its CRC, and still not a frame of the table: nothing to relay
            return
        if self.established.is_set() and self._write(mqtt.publish(topic.encode(), message)):
            self.relayed_up += 1

    def _route(self, payload: bytes) -> tuple[str, bytes]:
        name: Any
        if payload[0] == frames.MESH:
            name, message = frames.read_mesh(payload)
            if not name or any(character in name for character in "/+#"):
                raise ValueError(f"no receiver: {name!r}")
            return f"{self.bed}/g/{self.board}/{name}", message
        name, message = frames.read_reply(payload)
        return f"{self.bed}/re/{name}", message
