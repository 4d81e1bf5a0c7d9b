"""One board's connection through the proxy and its counterpart to the broker: bytes to packets, verdicts to deeds.

Must not decide anything: what happens to a message is the rule book's verdict, which connections are bent the proxy's.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from brownout import mqtt_packets as mqtt
from brownout.link_rules import Verdict

if TYPE_CHECKING:
    from .proxy import Proxy

MAX_HELD = 1000  # messages one rule or one delayed pair holds back; what comes beyond that is lost
HIGH_WATER = 256 * 1024  # bytes that may wait for a slow side before the other side is no longer read
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Message(NamedTuple):
    """One PUBLISH on its way along one directed pair."""

    source: str
    target: str
    down: bool  # from the broker to a board
    packet: bytes
    publish: mqtt.Publish


class Side(asyncio.Protocol):
    """One of the two connections of a session: cuts what arrives into packets and has the publishes judged."""

    def __init__(self, session: Session, down: bool) -> None:
        self.session = session
        self.down = down  # True: this side receives from the broker
        self.transport: asyncio.Transport | None = None
        self._rest = b""
        self._first = True
        self._pauses: set[str] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        if self._pauses:
            transport.pause_reading()
        self.session.side_connected(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.session.close()

    def pause_writing(self) -> None:
        self.session.other(self).pause("slow reader")

    def resume_writing(self) -> None:
        self.session.other(self).resume("slow reader")

    def pause(self, reason: str) -> bool:
        """Stop reading for a reason; whether it is a new one."""
        if reason in self._pauses:
            return False
        if not self._pauses and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
        self._pauses.add(reason)
        return True

    def resume(self, reason: str) -> None:
        if reason not in self._pauses:
            return
        self._pauses.discard(reason)
        if not self._pauses and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def end(self) -> None:
        """Close once everything written has left."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close so that the other end sees a reset, not an orderly end."""
        if self.transport is None:
            return
        connection = self.transport.get_extra_info("socket")
        if connection is not None and not self.transport.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._take(self._rest + data if self._rest else data)
        except mqtt.PacketError:
            self.session.close()

    def _take(self, data: bytes) -> None:
        """Forward whole packets in as few writes as may be; packets that a rule matches leave the run."""
        session, output = self.session, self.session.other(self)
        judged = session.proxy.rules.judges
        start = run = 0
        while True:
            if self._first and start < len(data) and data[start] >> 4 != (mqtt.CONNACK if self.down else mqtt.CONNECT):
                raise mqtt.PacketError("a connection opens with CONNECT and is answered with CONNACK")
            body, end = mqtt.packet_end(data, start)
            if not end:
                break
            first = data[start]
            if self._first:
                self._check_first(data[start:end], body - start)
            if first >> 4 == mqtt.PUBLISH:
                packet = data[start:end]
                publish = mqtt.parse_publish(packet, body - start)
                judgement = session.judge(self.down, packet, publish) if judged else None
                if judgement is not None:
                    if run < start:
                        output.write(data[run:start])
                    run = end
                    session.carry_out(*judgement)
            start = end
        if run < start:
            output.write(data[run:start])
        self._rest = data[start:]

    def _check_first(self, packet: bytes, body: int) -> None:
        """Only MQTT 3.1.1 is understood."""
        self._first = False
        if self.down:
            self.session.established = packet[-1] == 0
        elif packet[body : body + 7] != b"\x00\x04MQTT\x04":
            raise mqtt.PacketError("not MQTT 3.1.1")


class Session:
    """One board's connection and its counterpart to the broker; they live and die together."""

    def __init__(self, proxy: Proxy, board: str, site: str = "", upstream: tuple[str, int] | None = None) -> None:
        """site, upstream: the broker and its address, where it is not the proxy's only one."""
        self.proxy = proxy
        self.site = site
        self._upstream = upstream
        self.board = board
        self.established = False
        self.closed = False
        self.up_side = Side(self, down=False)
        self.down_side = Side(self, down=True)
        self._lanes: dict[tuple[str, str], deque[tuple[float, Message, int]]] = {}
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._connecting: asyncio.Task[None] | None = None

    def other(self, side: Side) -> Side:
        return self.up_side if side is self.down_side else self.down_side

    def side_connected(self, side: Side) -> None:
        if self.closed:
            side.abort()
        elif side is self.up_side:
            side.pause("no broker yet")
            self.proxy.opened(self)
            if not self.closed:
                self._connecting = asyncio.get_running_loop().create_task(self._connect())
        else:
            self.up_side.resume("no broker yet")

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.down_side, *(self._upstream or self.proxy.upstream))
        except OSError:
            self.close()

    def close(self) -> None:
        """End both connections: the board's as a reset, the broker's in order, so that a DISCONNECT gets there."""
        if self.closed:
            return
        self.closed = True
        self.established = False
        if self._connecting is not None:
            self._connecting.cancel()
        for timer in self._timers.values():
            timer.cancel()
        self._lanes.clear()
        self.up_side.abort()
        self.down_side.end()
        self.proxy.forget(self)

    # Judging.

    def judge(self, down: bool, packet: bytes, publish: mqtt.Publish) -> tuple[Message, Verdict] | None:
        """What the rules say about a publish; None where it passes untouched."""
        pair = self.proxy.pair(self.board, down, publish.topic)
        if pair is None:
            return None
        verdict = self.proxy.rules.judge(*pair, packet[publish.payload_at :], len(packet), time.monotonic())
        if verdict is None:
            if pair not in self._lanes:
                return None
            verdict = Verdict()  # it takes its turn behind the delayed ones
        return Message(*pair, down, packet, publish), verdict

    def carry_out(self, message: Message, verdict: Verdict) -> None:
        if verdict.drop:
            self._acknowledge(message)
        elif verdict.holders:
            self._acknowledge(message)
            self.proxy.hold(self, message, verdict.holders)
        elif verdict.delay_s > 0 or (message.source, message.target) in self._lanes:
            self._delay(message, verdict)
        else:
            self.deliver(message, verdict.copies)

    def _acknowledge(self, message: Message) -> None:
        """Tell the broker that a message from it has arrived, so that its window stays open."""
        if message.down and message.publish.qos:
            kind = mqtt.PUBACK if message.publish.qos == 1 else mqtt.PUBREC
            self.down_side.write(mqtt.acknowledge(kind, message.publish.packet_id))

    def deliver(self, message: Message, copies: int = 0) -> None:
        output = self.up_side if message.down else self.down_side
        output.write(message.packet)
        if copies:
            output.write(at_qos_0(message) * copies)

    def deliver_late(self, message: Message) -> None:
        """A message that was held: on the way down it has been acknowledged already."""
        output = self.up_side if message.down else self.down_side
        output.write(at_qos_0(message) if message.down else message.packet)

    # Delays, in order within a pair.

    def _delay(self, message: Message, verdict: Verdict) -> None:
        pair = (message.source, message.target)
        lane = self._lanes.setdefault(pair, deque())
        if len(lane) >= MAX_HELD:
            self._acknowledge(message)
            return
        due_s = time.monotonic() + verdict.delay_s
        if lane:
            due_s = max(due_s, lane[-1][0])
        lane.append((due_s, message, verdict.copies))
        if len(lane) == 1:
            self._arm(pair, due_s)

    def _arm(self, pair: tuple[str, str], due_s: float) -> None:
        self._timers[pair] = asyncio.get_running_loop().call_at(due_s, self._release, pair)

    def _release(self, pair: tuple[str, str]) -> None:
        lane = self._lanes.get(pair)
        now_s = time.monotonic()
        while lane:
            due_s, message, copies = lane[0]
            if due_s > now_s:
                self._arm(pair, due_s)
                return
            lane.popleft()
            self.deliver(message, copies)
        self._lanes.pop(pair, None)

    def release_delayed(self) -> None:
        """Deliver at once what waits on pairs that no rule is about any more."""
        for pair in [pair for pair in self._lanes if not self.proxy.rules.concerns(*pair)]:
            for _due_s, message, copies in self._lanes.pop(pair):
                self.deliver(message, copies)
            self._timers.pop(pair).cancel()


def at_qos_0(message: Message) -> bytes:
    """The same message without acknowledgement: for copies, and for what was acknowledged before it was delivered."""
    if not message.publish.qos:
        return message.packet
    payload = message.packet[message.publish.payload_at :]
    return mqtt.publish(message.publish.topic, payload, retain=bool(message.packet[0] & 1))
