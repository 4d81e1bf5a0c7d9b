"""An MQTT 3.1.1 client for boards, on asyncio: QoS 0 and 1 both ways, last will, keep-alive, reconnects, TLS.

Ours, because umqtt.simple writes a packet in several pieces (44 ms for a QoS-1 publish, Nagle against delayed ACK), and
blocks. Here a packet is one write, made at once by `publish`, which never waits: what the socket does not take is
kept up to a bound, then QoS-0 messages are dropped and counted. QoS-1 messages are kept, a window of them, until they
are acknowledged, over reconnects too; they may arrive twice. Bytes from the broker that are not MQTT cost the
connection, never more. This file must not know what a topic or a payload means.
"""

import asyncio
import socket
import struct
import time

from ..core.errors import MessageError

try:
    from micropython import const
except ImportError:
    const = int

_RECEIVE = const(2048)  # bytes of a packet from the broker; a longer one is skipped
_MOST_PENDING = const(4096)  # bytes that wait for the socket
_WINDOW = const(8)  # QoS-1 messages without an acknowledgement
_RESEND_MS = const(3000)  # an unacknowledged one is sent again: something between here and the broker may drop it
_CONNECT_MS = const(5000)
_FIRST_DELAY_MS = const(100)  # before a new attempt; doubles up to the last, and a random part of it is taken
_LAST_DELAY_MS = const(2000)
_LASTED_MS = const(1000)  # a connection that lasted so long was a good one: the next attempt follows soon


def _text(data):
    if isinstance(data, str):
        data = data.encode()
    return struct.pack(">H", len(data)) + data


def _packet(head, *parts):
    body = b"".join(parts)
    size = len(body)
    if size < 128:
        return struct.pack("BB", head, size) + body
    return struct.pack("BBB", head, size & 127 | 128, size >> 7) + body


def _writable(stream):
    # A coroutine as asyncio's own: MicroPython makes them of generators.
    yield asyncio.core._io_queue.queue_write(stream)  # type: ignore[attr-defined]  # not in the stubs


def _readable(stream):
    yield asyncio.core._io_queue.queue_read(stream)  # type: ignore[attr-defined]  # not in the stubs


class MqttClient:
    """options: config.mqtt; name: client id; will: (topic, payload), retained; subscriptions: (topic, qos), at most 8.

    on_message(topic, payload) takes each message, on_batch() is called when all that had arrived was handed on, and
    on_connected() after each (re)connect, when the subscriptions stand. below(n): a random number below n.
    None of them may raise.
    """

    def __init__(self, options, name, will, subscriptions, on_message, on_batch, on_connected, below):
        self._options = options
        self._name = name
        self._will = will
        self._subscriptions = subscriptions
        self._on_message = on_message
        self._on_batch = on_batch
        self._on_connected = on_connected
        self._below = below
        self.connected = False
        self.dropped = 0  # QoS-0 messages that could not be sent
        self.skipped = 0  # packets from the broker that were too long
        self.attempts = 0
        self.error = None  # why the last connection ended or did not come about
        self._socket = self._plain = None  # with TLS, what the latter is wrapped in
        self._buffer = bytearray(_RECEIVE)
        self._window = []  # [identifier, packet, when sent]
        self._identifier = 0
        self._reset()

    def _reset(self):
        self._filled = 0
        self._skip = 0
        self._pending = []
        self._pending_bytes = 0
        self._stage = 0  # 1: connected, 2: subscribed
        self._waits = asyncio.Event()
        self._over = asyncio.Event()

    # Sending.

    def publish(self, topic, payload, qos=0, retain=False):
        """Send one message. False if it was dropped: no connection or no room (QoS 0), the window is full (QoS 1)."""
        head = 0x30 | qos << 1 | retain
        if qos == 0:
            if self.connected and self._send(_packet(head, _text(topic), payload)):
                return True
            self.dropped += 1
            return False
        if len(self._window) >= _WINDOW:
            return False
        identifier = self._next_identifier()
        packet = _packet(head, _text(topic), struct.pack(">H", identifier), payload)
        self._window.append([identifier, packet, time.ticks_ms()])
        if self.connected:
            self._send(packet)
        return True

    @property
    def unacknowledged(self):
        return len(self._window)

    def _next_identifier(self):
        while True:
            self._identifier = self._identifier % 65535 + 1
            for row in self._window:
                if row[0] == self._identifier:
                    break
            else:
                return self._identifier

    def _send(self, packet):
        if self._pending:
            if self._pending_bytes + len(packet) > _MOST_PENDING:
                return False
            taken = 0
        else:
            try:
                taken = self._socket.write(packet) or 0
            except OSError as error:
                self._end(error)
                return False
            self._sent_ms = time.ticks_ms()
            if taken == len(packet):
                return True
            packet = packet[taken:]
        # Whole packets, not one buffer: TLS wants a write that it did not take repeated with the same bytes.
        self._pending.append(packet)
        self._pending_bytes += len(packet)
        self._waits.set()
        return True

    async def _flush(self):
        while True:
            await self._waits.wait()
            self._waits.clear()
            while self._pending:
                await _writable(self._socket)
                packet = self._pending[0]
                try:
                    taken = self._socket.write(packet) or 0
                except OSError as error:
                    self._end(error)
                    return
                self._pending_bytes -= taken
                if taken < len(packet):
                    self._pending[0] = packet[taken:]
                else:
                    self._pending.pop(0)

    def _resend(self, age_ms):
        now = time.ticks_ms()
        for row in self._window:
            if not self._pending and time.ticks_diff(now, row[2]) >= age_ms:
                packet = row[1]
                self._send(struct.pack("B", packet[0] | 8) + packet[1:])
                row[2] = now

    # Receiving.

    async def _read(self):
        view = memoryview(self._buffer)
        plain = self._plain
        count = None
        try:
            while True:
                # MicroPython asks a TLS object every millisecond whether it is readable; of a socket the system tells.
                if count is None or self._socket is plain:
                    await _readable(plain)
                else:
                    await asyncio.sleep_ms(0)  # what TLS has taken off the socket already
                count = self._socket.readinto(view[self._filled :])
                if count == 0:
                    raise OSError("closed by the broker")
                if count:
                    self._heard_ms = time.ticks_ms()
                    self._filled += count
                    used = self._take(view)
                    self._filled -= used
                    if used and self._filled:
                        self._buffer[: self._filled] = bytes(view[used : used + self._filled])
                    self._on_batch()
        except (OSError, MessageError) as error:
            self._end(error)

    def _take(self, view):
        # Handle the whole packets of the buffer; return how many bytes they were.
        at = 0
        end = self._filled
        while True:
            if self._skip:
                part = min(self._skip, end - at)
                self._skip -= part
                at += part
            size = 0
            shift = 0
            body = at + 1
            while True:
                if body >= end:
                    return at
                byte = view[body]
                body += 1
                size |= (byte & 127) << shift
                if byte < 128:
                    break
                shift += 7
                if shift > 21:
                    raise MessageError("length of a packet")
            if body + size > end:
                if body - at + size <= _RECEIVE:
                    return at
                self.skipped += 1
                self._skip = body - at + size
            else:
                self._handle(view[at], view[body : body + size])
                at = body + size

    def _handle(self, head, body):
        size = len(body)
        kind = head >> 4
        if kind == 3:
            self._message(head >> 1 & 3, body)
        elif kind == 4 and size == 2:
            identifier = body[0] << 8 | body[1]
            self._window = [row for row in self._window if row[0] != identifier]
        elif kind == 2 and size == 2 and self._stage == 0:
            if body[1]:
                raise MessageError("refused by the broker: %d" % body[1])
            self._subscribe()
        elif kind == 9 and self._stage == 1 and size == 2 + len(self._subscriptions):
            if max(bytes(body[2:])) > 1:
                raise MessageError("a subscription was refused")
            self._stage = 2
            self.connected = True
            self._resend(0)
            self._on_connected()
        elif head != 0xD0:
            raise MessageError("packet of kind %d, %d bytes" % (kind, size))

    def _message(self, qos, body):
        size = len(body)
        at = 2 + (body[0] << 8 | body[1]) if size > 1 else 2
        payload = at + 2 if qos else at
        if payload > size or qos > 1 or self._stage == 0:
            raise MessageError("malformed message")
        try:
            topic = str(body[2:at], "utf-8")
        except UnicodeError:
            raise MessageError("topic")
        self._on_message(topic, bytes(body[payload:]))
        if qos:
            self._send(b"\x40\x02" + bytes(body[at:payload]))

    # Connections.

    async def run(self):
        """Stay connected, for ever."""
        delay_ms = _FIRST_DELAY_MS
        while True:
            self.attempts += 1
            began = time.ticks_ms()
            try:
                await self._connect()
                await self._converse()
            except OSError as error:
                self.error = error
            finally:
                self.close()
            if self._stage == 2 and time.ticks_diff(time.ticks_ms(), began) > _LASTED_MS:
                delay_ms = _FIRST_DELAY_MS
            await asyncio.sleep_ms(delay_ms // 2 + self._below(delay_ms // 2))
            delay_ms = min(2 * delay_ms, _LAST_DELAY_MS)

    def close(self):
        """Leave without a word: the broker publishes the will."""
        self.connected = False
        if self._socket is not None:
            self._socket.close()
            self._socket = self._plain = None

    def _end(self, error):
        self.error = error
        self.connected = False
        self._over.set()

    async def _connect(self):
        self._reset()
        host = self._options["host"]
        address = socket.getaddrinfo(host, self._options["port"], 0, socket.SOCK_STREAM)[0]
        self._socket = self._plain = plain = socket.socket(address[0], address[1])
        plain.setblocking(False)
        try:
            plain.connect(address[-1])
        except OSError as error:
            if error.errno not in (115, 119, 36):  # EINPROGRESS of Linux, ESP-IDF and macOS
                raise
        try:
            await asyncio.wait_for_ms(_writable(plain), _CONNECT_MS)
        except asyncio.TimeoutError:
            raise OSError("no connection")
        try:
            plain.setsockopt(6, 1, 1)  # IPPROTO_TCP, TCP_NODELAY: without it a message waits for the ACK of the last
        except OSError as error:
            self.error = error  # some ports have no such option; then it is slower, not wrong
        tls = self._options["tls"]
        if tls is not None:
            self._socket = _wrap(plain, tls, host)

    async def _converse(self):
        keep_alive_ms = self._options["keep_alive_s"] * 1000
        self._heard_ms = self._sent_ms = time.ticks_ms()
        tasks = (asyncio.create_task(self._read()), asyncio.create_task(self._flush()))
        try:
            self._send(self._connect_packet())
            while not self._over.is_set():
                try:
                    await asyncio.wait_for_ms(self._over.wait(), min(1000, keep_alive_ms // 4))
                except asyncio.TimeoutError:
                    self._watch(time.ticks_ms(), keep_alive_ms)
        finally:
            for task in tasks:
                task.cancel()

    def _watch(self, now, keep_alive_ms):
        silent_ms = time.ticks_diff(now, self._heard_ms)
        if silent_ms > (keep_alive_ms + keep_alive_ms // 2 if self._stage == 2 else _CONNECT_MS):
            self._end(OSError("the broker is silent"))
        elif self._stage == 2 and max(silent_ms, time.ticks_diff(now, self._sent_ms)) > keep_alive_ms // 2:
            self._send(b"\xc0\0")
        if self.connected:
            self._resend(_RESEND_MS)

    def _connect_packet(self):
        options = self._options
        flags = 0x02 | 0x2C | 0x80  # clean session; will, retained, QoS 1; user
        parts = [_text(self._name), _text(self._will[0]), _text(self._will[1]), _text(options["user"])]
        if options["password"] is not None:
            flags |= 0x40
            parts.append(_text(options["password"]))
        return _packet(0x10, b"\0\4MQTT\4", struct.pack(">BH", flags, options["keep_alive_s"]), *parts)

    def _subscribe(self):
        self._stage = 1
        parts = [struct.pack(">H", self._next_identifier())]
        for topic, qos in self._subscriptions:
            parts.append(_text(topic))
            parts.append(struct.pack("B", qos))
        self._send(_packet(0x82, *parts))


def _wrap(plain, tls, host):
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if "ca" in tls:
        with open(tls["ca"], "rb") as file:
            context.load_verify_locations(cadata=file.read())
    else:
        context.verify_mode = ssl.CERT_NONE  # type: ignore[attr-defined]  # not in the stubs
    if "cert" in tls:
        context.load_cert_chain(tls["cert"], tls["key"])
    wrapped = context.wrap_socket(plain, server_hostname=tls.get("server_name", host), do_handshake_on_connect=False)
    wrapped.setblocking(False)
    return wrapped
