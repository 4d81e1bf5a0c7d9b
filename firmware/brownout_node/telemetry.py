"""Events on their way out: a bounded ring that keeps what was not acknowledged, and sends it again.

Where the board has a cable, what a verdict hangs on leaves by it, the rest by MQTT. Events of the cable are kept until
the host acknowledges them (cumulative) and sent again, all of them, after a second without progress. Events of MQTT
are handed to the client, which keeps a window. At the bound (a cable that was pulled) the oldest of the cable go by
MQTT after all; if it does not take them they are dropped, and LOST_EVENTS says which, once there is room again. Must
not reorder events of one route, and must not wait.
"""

from .core import schema
from .transport.serial import events_payload

try:
    from micropython import const
except ImportError:
    const = int

_MOST_EVENTS = const(128)
_MOST_BYTES = const(8192)
_BATCH = const(960)  # bytes of events in one frame or message
_RESEND_MS = const(1000)
# What leaves by MQTT although there is a cable; everything else goes by the cable.
_BY_MQTT = (schema.CONNECTED, schema.REJECTED, schema.METRICS, schema.MEMBER, schema.ROUND)


def _kind(data):
    # The fifth element of an event's CBOR array of unsigned integers.
    at = 1
    for _ in range(4):
        number = data[at] & 31
        at += 1 if number < 24 else 1 + (1 << (number - 24))
    return data[at] if data[at] < 24 else data[at + 1]


class Telemetry:
    """link: SerialLink or None; publish(data): True if MQTT took it, or None; at least one of them.

    prefer_cable: whether there is a host at the other end of the cable. `sequence` is the number of the last event.
    """

    def __init__(self, link, publish, prefer_cable):
        self._link = link
        self._publish = publish
        self._prefer_cable = prefer_cable
        self.sequence = 0
        self.lost = None  # (first, last) that fell out, not yet told
        self._cable = []  # (sequence, event), not acknowledged
        self._sent = 0  # how many of them were sent since
        self._progress_ms = 0
        self._air = []  # (sequence, event) that MQTT did not take yet
        self._bytes = 0

    def add(self, data):
        """Take the boot's next event."""
        self.sequence += 1
        by_cable = self._publish is None or (self._prefer_cable and _kind(data) not in _BY_MQTT)
        (self._cable if by_cable else self._air).append((self.sequence, data))
        self._bytes += len(data)
        while self._bytes > _MOST_BYTES or len(self._cable) + len(self._air) > _MOST_EVENTS:
            self._drop()

    def _drop(self):
        if self._cable and not self._air and self._publish is not None:
            data, end = self._batch(self._cable, 0)
            if self._publish(data):
                del self._cable[:end]
                self._sent = max(0, self._sent - end)
                self._bytes -= len(data)
                return
        if len(self._air) > len(self._cable):
            number, data = self._air.pop(0)
        else:
            number, data = self._cable.pop(0)
            self._sent = max(0, self._sent - 1)
        self._bytes -= len(data)
        self.lost = (min(self.lost[0], number), max(self.lost[1], number)) if self.lost else (number, number)

    @property
    def has_room(self):
        return self._bytes < _MOST_BYTES // 2 and len(self._cable) + len(self._air) < _MOST_EVENTS // 2

    def flush(self, now_ms):
        """Send what is new, and what was not acknowledged in time, as far as the routes take it."""
        if 0 < self._sent and now_ms - self._progress_ms >= _RESEND_MS:
            self._sent = 0
        while self._sent < len(self._cable) and not self._link.busy:
            if self._sent == 0:
                self._progress_ms = now_ms
            data, end = self._batch(self._cable, self._sent)
            previous = self._cable[self._sent - 1][0] if self._sent else 0
            if not self._link.send(events_payload(previous, data)):
                break
            self._sent = end
        while self._air:
            data, end = self._batch(self._air, 0)
            if not self._publish(data):
                break
            del self._air[:end]
            self._bytes -= len(data)

    def _batch(self, events, begin):
        size = 0
        end = begin
        while end < len(events) and (end == begin or size + len(events[end][1]) <= _BATCH):
            size += len(events[end][1])
            end += 1
        return b"".join([event[1] for event in events[begin:end]]), end

    def acknowledge(self, sequence, now_ms):
        """Every event of this boot that went by the cable, up to `sequence`, arrived.

        One that says nothing new says that the host misses what follows: all of it is sent again.
        """
        count = 0
        while count < self._sent and self._cable[count][0] <= sequence:
            self._bytes -= len(self._cable[count][1])
            count += 1
        if count:
            del self._cable[:count]
            self._sent -= count
            self._progress_ms = now_ms
        else:
            self._sent = 0
