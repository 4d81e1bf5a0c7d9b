"""The flight recorder: a node that notes what it was given, so that the host can give it to the same code again.

RecordedNode stands in for Node where the configuration says `flight`. It notes each input in a few bytes and lets them
leave as FLIGHT events, pieces of one stream for each boot. Contents of messages are not noted, for the host has them
from its tap of the broker; of those that were refused it may not, so they are noted whole. The outputs are folded into
one running CRC-32, and the state of one protocol after the other at intervals. What recording does hangs on the inputs
alone, so that a replay with this class makes the very same stream. Must not change what the node does: it draws no
random number and gives out no stamp.

    entry    one byte: kind (2 bits), first of its step (1), milliseconds since the last entry (5; 31: a number follows)
    TICK     nothing more
    HEARD    source + 2 (a number; 0 is the host), CRC-32 of the message
    OTHER    one byte: REFUSED (source + 2, size, message), EMITTED (by the shell; its event tells what),
             STATE (CRC-32), OUTPUT (CRC-32), STORED (size; see stored_state), BACK (the clock fell by a number of ms)
Numbers are in base 128, low digits first; CRCs are big-endian.
"""

import struct
from binascii import crc32

from . import codec, schema
from .node import Node

try:
    from micropython import const
except ImportError:
    const = int

TICK = const(0)
HEARD = const(1)
OTHER = const(2)
FIRST = const(4)
REFUSED = const(0)
EMITTED = const(1)
STATE = const(2)
OUTPUT = const(3)
STORED = const(4)
BACK = const(5)

_LONGEST = const(31)  # a delay that an entry's first byte cannot hold
_BATCH_BYTES = const(320)  # that many are worth an event
_MOST_BYTES = const(380)  # in an event
_LATEST_MS = const(250)  # after the first entry that waits: what has not left is gone when power is
_STATE_TICKS = const(8)  # ticks between two looks at a protocol's state; each look is at another one
_RECENT_PAGES = const(
    8
)  # of the journal, whose values the host may not know: the life before ended after its last entry


def put_number(out, number):
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)


def fold(value, crc, seen):
    """The CRC-32 over a value and all that hangs on it, on every interpreter the same; functions do not count.

    An object's fields count in the order of their names, and not by them: builds for boards shorten names, in order.
    seen: the objects that are not entered, or not again.
    """
    kind = type(value)
    if kind is int or kind is bool:
        return crc32(str(value).encode(), crc)
    if value is None:
        return crc32(b"-", crc)
    if kind is str:
        return crc32(value.encode(), crc)
    if kind is bytes or kind is bytearray:
        return crc32(value, crc)
    if kind is tuple or kind is list:
        crc = crc32(b"(", crc)
        for element in value:
            crc = fold(element, crc, seen)
        return crc
    if kind is dict:
        crc = crc32(b"{", crc)
        for key in sorted(value):
            crc = fold(value[key], fold(key, crc, seen), seen)
        return crc
    if kind is set:
        return fold(sorted(value), crc, seen)
    if callable(value) or not hasattr(value, "__dict__"):
        return crc
    for other in seen:
        if other is value:
            return crc
    seen.append(value)
    fields = value.__dict__
    for name in sorted(fields):
        crc = fold(fields[name], crc32(b".", crc), seen)
    return crc


def stored_state(stored, entropy):
    """What a board starts from: what its journal was found to be, entropy, CRC-32 over all; keys; the latest values.

    Keys are numbers, each as the distance to the one before; then (place among the keys, size, value) of each value
    that lies in the journal's last pages. The others are as the host has them from the life before.
    """
    out = bytearray()
    put_number(out, stored.condition)
    put_number(out, entropy)
    keys = stored.keys(0, 0x10000000)
    recent = set(stored.recent(_RECENT_PAGES))
    told = bytearray()
    crc = before = index = 0
    for key in keys:
        value = stored.get(key)
        crc = crc32(value, crc32(struct.pack(">I", key), crc))
        if key in recent:
            put_number(told, index)
            put_number(told, len(value))
            told += value
        index += 1
    out += struct.pack(">I", crc)
    put_number(out, len(keys))
    for key in keys:
        put_number(out, key - before)
        before = key
    put_number(out, len(recent))
    return out + told


class RecordedNode(Node):
    """A Node that keeps a record. `output` is the CRC-32 over all that was made ready to be stored and sent."""

    def __init__(self, config, stored, about, entropy=0):
        self._inside = True  # in one of the node's own calls: what it does then follows from the input
        self._stream = bytearray()
        self._told = 0  # bytes of the stream that have left
        self._noted_ms = self._since_ms = 0
        self._fresh = True  # the next entry is the first of a step
        self._ticks = self._looks = 0
        self.output = 0
        self.on_state = None  # called with (target, its CRC-32) at each look; for the host
        self._stored = stored
        state = self.snapshot(stored, entropy)
        Node.__init__(self, config, stored, about, entropy)
        self._note(OTHER, 0)
        self._stream.append(STORED)
        put_number(self._stream, len(state))
        self._stream += state
        self._since_ms = -_LATEST_MS  # do not wait with it
        self._inside = False

    def snapshot(self, stored, entropy):
        """What the recording says of the stored state."""
        return stored_state(stored, entropy)

    def _note(self, kind, now_ms):
        stream = self._stream
        if not stream:
            self._since_ms = now_ms
        delay_ms = now_ms - self._noted_ms
        self._noted_ms = now_ms
        if delay_ms < 0:
            stream.append(OTHER)
            stream.append(BACK)
            put_number(stream, -delay_ms)
            delay_ms = 0
        if self._fresh:
            self._fresh = False
            kind |= FIRST
        if delay_ms < _LONGEST:
            stream.append(kind | delay_ms << 3)
        else:
            stream.append(kind | _LONGEST << 3)
            put_number(stream, delay_ms - _LONGEST)

    def receive(self, source, data, now_ms):
        rejected = self.rejected
        self._inside = True
        Node.receive(self, source, data, now_ms)
        self._inside = False
        stream = self._stream
        if self.rejected == rejected:
            self._note(HEARD, now_ms)
            put_number(stream, source + 2)
            stream += struct.pack(">I", crc32(data))
        else:
            self._note(OTHER, now_ms)
            stream.append(REFUSED)
            put_number(stream, source + 2)
            put_number(stream, len(data))
            stream += data

    def tick(self, now_ms):
        self._inside = True
        Node.tick(self, now_ms)
        self._inside = False
        self._note(TICK, now_ms)
        self._ticks += 1
        if self._ticks == _STATE_TICKS:
            self._ticks = 0
            self._look()

    def _look(self):
        targets = self.targets()
        target = targets[self._looks % len(targets)]
        self._looks += 1
        crc = self.state_of(target)
        self._note(OTHER, self._noted_ms)
        self._stream.append(STATE)
        self._stream += struct.pack(">I", crc)
        if self.on_state is not None:
            self.on_state(target, crc)

    def targets(self):
        """What has state to be looked at, in turn: the protocols and the clock."""
        return self.protocols + [self.clock]

    def state_of(self, target):
        """The CRC-32 over the state of one of them, in all its fields."""
        others = [other for other in self.targets() if other is not target]
        return fold(target, 0, [self, self.config, self._stored] + others)

    def emit(self, kind, fields):
        if not self._inside:
            self._note(OTHER, self._noted_ms)
            self._stream.append(EMITTED)
        Node.emit(self, kind, fields)

    def take_ready(self):
        stream = self._stream
        if stream and (len(stream) >= _BATCH_BYTES or self._noted_ms - self._since_ms >= _LATEST_MS):
            self._tell()
        self._fresh = True
        ready = Node.take_ready(self)
        if ready is not None:
            crc = self.output
            for key, value in ready[0]:
                crc = crc32(value or b"-", crc ^ key)
            for to, data in ready[1]:
                crc = crc32(data, crc ^ (to + 2))
            self.output = crc
        return ready

    def _tell(self):
        # What was noted leaves, with the outputs up to the step before this one.
        stream = self._stream
        self._note(OTHER, self._noted_ms)
        stream.append(OUTPUT)
        stream += struct.pack(">I", self.output)
        self._stream = bytearray()
        for at in range(0, len(stream), _MOST_BYTES):
            piece = bytes(stream[at : at + _MOST_BYTES])
            self.leave(self._told, piece)
            self._told += len(piece)

    def leave(self, at, piece):
        """Let a piece of the stream out, `at` bytes after its beginning."""
        self._event_sequence += 1
        header = (self.boot, self._event_sequence, self.now_ms, self.clock._last)  # it gives out no stamp of its own
        self._events.append(codec.encode_event(*header, schema.FLIGHT, (at, piece)))
