"""One cable for two: frames beside console text. Pure encoders and decoders, which the host uses too; a board's link.

    board -> host   00 COBS(payload CRC-32) 00         anything outside of frames is console text
    host -> board   05 STUFFED(payload CRC-32) 05      0..6 become 06 (byte ^ 40): a MicroPython console takes 00..04
    payload         one byte of channel, then its body; the CRC-32 is big-endian, over the payload
      EVENTS  from the board: `previous` (4 bytes, big-endian), then concatenated CBOR events. `previous` is the number
              of the last event before these that went by this cable and that the board still keeps; 0: there is none.
              A host that has not got `previous` missed a frame: it takes these events, but acknowledges only what was
              before the gap, and the board sends all from there again.
      MESH    to the board: length and name of the sender ("host" for clients and the controller), then the message;
              from the board: length and name of the receiver (a board, "all" or "voters"), then the message
      CLIENT  to the board: a message of a client or of the controller;
              from the board: client id (4 bytes, big-endian) and REPLY

A damaged frame is dropped by its CRC and the decoders go on with the next; they never raise. This file must not know
what a message or an event says, and must never wait for a reader that is not there.
"""

import asyncio
import struct
from binascii import crc32

EVENTS = 1
MESH = 2
CLIENT = 3
MAX_PAYLOAD = 1024
_LONGEST = 2 * MAX_PAYLOAD + 64  # of an encoded frame, either way
_MOST_PENDING = 4096  # bytes that wait for the cable; a frame that comes on top is dropped


def events_payload(previous, events):
    return struct.pack(">BI", EVENTS, previous) + events


def read_events(payload):
    """(previous, concatenated events)"""
    return struct.unpack_from(">I", payload, 1)[0], payload[5:]


def mesh_payload(name, message):
    name = name.encode()
    return struct.pack("BB", MESH, len(name)) + name + message


def read_mesh(payload):
    """(name, message)"""
    end = 2 + payload[1]
    return str(payload[2:end], "ascii"), payload[end:]


def reply_payload(client, message):
    return struct.pack(">BI", CLIENT, client) + message


def read_reply(payload):
    """(client, message)"""
    return struct.unpack_from(">I", payload, 1)[0], payload[5:]


def _sealed(payload):
    return payload + struct.pack(">I", crc32(payload))


def _opened(data):
    # The payload, or None if this never was one or is no more.
    if len(data) < 5:
        return None
    payload = data[:-4]
    return payload if data[-4:] == struct.pack(">I", crc32(payload)) else None


def encode_to_host(payload):
    # One buffer of the size that it takes at most: a list of its parts once needed 4 KB in one piece, which a board
    # with fifty others in its roster did not have.
    data = _sealed(payload)
    size = len(data)
    out = bytearray(size + size // 254 + 3)  # a zero byte at both ends is there already
    at = 0
    to = 1
    while at <= size:
        end = data.find(b"\0", at)
        if end < 0:
            end = size
        while end - at > 253:
            out[to] = 255
            out[to + 1 : to + 255] = data[at : at + 254]
            at += 254
            to += 255
        out[to] = end - at + 1
        if end > at:
            out[to + 1 : to + 1 + end - at] = data[at:end]
        to += end - at + 1
        at = end + 1
    return bytes(memoryview(out)[: to + 1])


def decode_from_board(data):
    """The payload of what stood between two zero bytes, or None."""
    out = bytearray()
    at = 0
    while at < len(data):
        size = data[at]
        if not size or at + size > len(data):
            return None
        out.extend(data[at + 1 : at + size])
        at += size
        if size < 255 and at < len(data):
            out.append(0)
    return _opened(bytes(out))


def encode_to_board(payload):
    data = _sealed(payload).replace(b"\x06", b"\x06\x46")
    for value in range(6):
        data = data.replace(bytes((value,)), bytes((6, value ^ 0x40)))
    return b"\x05" + data + b"\x05"


def decode_from_host(data):
    """The payload of what stood between two bytes 05, or None."""
    parts = data.split(b"\x06")
    out = [parts[0]]
    for part in parts[1:]:
        if not part:
            return None
        out.append(bytes((part[0] ^ 0x40,)))
        out.append(part[1:])
    return _opened(b"".join(out))


class HostDecoder:
    """Splits what comes from a board into frames and console text. `damaged` counts frames that were not whole."""

    def __init__(self):
        self.damaged = 0
        self._inside = False  # a frame may have begun
        self._held = b""

    def feed(self, data):
        """List of (True, payload) and (False, console text), in the order in which they came."""
        out = []
        parts = (self._held + data).split(b"\0")
        self._held = b""
        last = len(parts) - 1
        for index in range(len(parts)):
            part = parts[index]
            if index == last:
                if self._inside and len(part) <= _LONGEST:
                    self._held = part
                    break
                self._inside = False
            elif self._inside:
                payload = decode_from_board(part) if part else None
                if payload is not None:
                    out.append((True, payload))
                    self._inside = False
                    continue
                if part:
                    self.damaged += 1
            else:
                self._inside = True
            if part:
                out.append((False, part))
        return out

    def flush(self):
        """What is held back because a frame may have begun; when nothing more comes, it is text."""
        held = self._held
        self._held = b""
        self._inside = False
        return held


class BoardDecoder:
    """Finds the frames in what comes to a board; the rest is dropped."""

    def __init__(self):
        self._held = b""

    def feed(self, data):
        """The payloads that are complete now."""
        out = []
        parts = (self._held + data).split(b"\x05")
        self._held = parts.pop()
        if len(self._held) > _LONGEST:
            self._held = b""  # the frame is spoilt; its rest fails the CRC
        for part in parts:
            if part:
                payload = decode_from_host(part)
                if payload is not None:
                    out.append(payload)
        return out


class SerialLink:
    """A board's end of the cable. `console` is what port.console() returns; on_payload(payload) takes each frame.

    At the bound of what waits for the cable, frames are dropped and counted.
    """

    def __init__(self, console, on_payload):
        self._console = console
        self.on_payload = on_payload
        self._pending = b""
        self._waits = asyncio.Event()
        self.dropped = 0

    @property
    def busy(self):
        """Whether something still waits for the cable."""
        return len(self._pending) > 0

    def send(self, payload):
        """Send, as far as that is possible without waiting; False if the frame was dropped."""
        frame = encode_to_host(payload)
        if not self._pending:
            frame = frame[self._console.write(frame) :]
        elif len(self._pending) + len(frame) > _MOST_PENDING:
            self.dropped += 1
            return False
        if frame:
            self._pending += frame
            self._waits.set()
        return True

    async def run(self):
        """Receive for ever."""
        flusher = asyncio.create_task(self._flush())
        decoder = BoardDecoder()
        try:
            while True:
                for payload in decoder.feed(await self._console.read()):
                    self.on_payload(payload)
        finally:
            flusher.cancel()

    async def _flush(self):
        while True:
            await self._waits.wait()
            self._waits.clear()
            while self._pending:
                await asyncio.sleep(0.005)
                self._pending = self._pending[self._console.write(self._pending) :]
