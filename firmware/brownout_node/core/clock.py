"""The hybrid logical clock: stamps that grow on each board, over reboots too, and follow what was heard.

A stamp is physical_ms << 16 | counter. Boards know no time of day: the physical part is what the clock stood at when
the board booted, plus the milliseconds since, and it moves up to the highest that was heard. A ceiling is made durable
ahead of use, seldom, and a boot starts above it: so no stamp is given out twice, and a write after a reboot outranks
everything that was seen before it. Must not read a clock: time is node.now_ms.
"""

from . import codec, schema

_AHEAD = 1 << 32  # the ceiling is set this far ahead: 2**16 ms, so a board at work writes it about once a minute
_FARTHEST_MS = 1 << 38  # 8.7 years: nobody's clock gets that far ahead of ours by running, only by lying or bit errors


class Clock:
    """Needs node.now_ms and node.persist(); `stored` is the journal as it was at boot."""

    def __init__(self, node, stored):
        self._node = node
        packed = stored.get(schema.JOURNAL_CLOCK)
        self._ceiling = 0 if packed is None else codec.unpack("u", packed)[0]
        self._base_ms = 0 if packed is None else (self._ceiling >> 16) + 1
        self._last = self._ceiling
        self.refused = 0

    def now(self):
        """A stamp above every stamp that this board gave out or accepted before."""
        physical = (self._base_ms + self._node.now_ms) << 16
        self._raise(physical if physical > self._last else self._last + 1)
        return self._last

    def told(self):
        """As now(), for what leaves outside of any step: nothing could be made durable, so never above the ceiling."""
        physical = (self._base_ms + self._node.now_ms) << 16
        self._last = min(physical if physical > self._last else self._last + 1, self._ceiling)
        return self._last

    def observe(self, stamp):
        """Take note of a stamp heard, so that later ones of this board are above it.

        False for a stamp so far ahead that it must be wrong: it is counted and ignored, and whoever asks must not
        take over what it stamps, or that could never be overwritten.
        """
        ahead_ms = (stamp >> 16) - self._base_ms - self._node.now_ms
        if ahead_ms > _FARTHEST_MS:
            self.refused += 1
            return False
        if ahead_ms > 0:
            self._base_ms += ahead_ms
        if stamp > self._last:
            self._raise(stamp)
        return True

    def _raise(self, stamp):
        self._last = stamp
        if stamp > self._ceiling:
            self._ceiling = stamp + _AHEAD
            self._node.persist(schema.JOURNAL_CLOCK, codec.pack("u", (self._ceiling,)))
