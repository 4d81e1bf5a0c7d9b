"""Those who look at a run, each with a bounded queue: one that is slow loses its place and starts from a snapshot.

Offered to by the thread that follows the run, which never waits; read in the server's event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque

MOST_WAITING = 64  # updates; at 20 a second, three seconds


class Client:
    """loop: where `next` is awaited."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int = MOST_WAITING) -> None:
        self.lagged = False
        self.times_lagged = 0
        self._loop = loop
        self._most = most
        self._waiting: deque[bytes] = deque()
        self._ready = asyncio.Event()

    def offer(self, message: bytes) -> None:
        """Add a message, or give the client up until it asks for a snapshot. From any thread; never waits."""
        if self.lagged:
            return
        if len(self._waiting) >= self._most:
            self._waiting.clear()
            self.lagged = True
            self.times_lagged += 1
        else:
            self._waiting.append(message)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ready.set)

    def wake(self) -> None:
        """End a wait in `next`; in the loop's own thread."""
        self._ready.set()

    def reset(self) -> None:
        """What was waiting is part of the snapshot that the client is given now."""
        self._waiting.clear()
        self.lagged = False

    async def next(self, within_s: float) -> bytes | None:
        """The messages that wait, as one; None where none came in time, or where the client has lagged."""
        if not self._waiting and not self.lagged:
            self._ready.clear()
            try:
                await asyncio.wait_for(self._ready.wait(), within_s)
            except TimeoutError:
                return None
        if self.lagged:
            return None
        found = []
        while self._waiting:
            found.append(self._waiting.popleft())
        return b"".join(found) or None
