"""The sites of a virtual lab: a mosquitto for each, and between two of them a bridge over a line that takes its time.

A bridge is mosquitto's own; its connection goes through a `Line`, which passes bytes on after the latency, and which
can be cut: connections are then reset, and new ones refused. Only messages between boards cross (`<bed>/g/#`): the host
is connected to every broker itself, and would hear twice what crossed. Must not look into what passes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from brownout.sites import Sites

from .broker import HOST, Broker, free_port
from .process import BoundedLog

HIGH_WATER = 256 * 1024  # bytes under way in one direction, before the sender is no longer read


class _End(asyncio.Protocol):
    """One end of a connection over the line: what it receives leaves at the other end, later."""

    def __init__(self, line: Line, on_made: Callable[[_End], None] | None = None) -> None:
        self.line = line
        self.other: _End | None = None
        self.transport: asyncio.Transport | None = None
        self._on_made = on_made
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        due_s = asyncio.get_running_loop().time() + self.line.latency_s
        self._under_way.append((due_s, data))
        self._bytes += len(data)
        if self._bytes > HIGH_WATER and self.transport is not None:
            self.transport.pause_reading()
        if self._timer is None and self.other is not None:
            self._arm()

    def joined(self, other: _End) -> None:
        self.other = other
        if self._under_way:
            self._arm()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_at(self._under_way[0][0], self._release)

    def _release(self) -> None:
        self._timer = None
        now_s = asyncio.get_running_loop().time()
        while self._under_way and self._under_way[0][0] <= now_s:
            _due_s, data = self._under_way.popleft()
            self._bytes -= len(data)
            self.line.passed_bytes += len(data)
            if self.other is not None and self.other.transport is not None:
                self.other.transport.write(data)
        if self._bytes <= HIGH_WATER and self.transport is not None and not self.transport.is_reading():
            self.transport.resume_reading()
        if self._under_way:
            self._arm()

    def connection_lost(self, error: Exception | None) -> None:
        self.line.forget(self)
        if self.other is not None:
            self.other.end()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._under_way.clear()
        if self.transport is not None:
            self.transport.abort()


class Line:
    """Where the bridge of one site finds the broker of the next. Everything but start and close is synchronous."""

    def __init__(self, latency_ms: float, broker_port: int) -> None:
        self.port = free_port()
        self.latency_s = latency_ms / 1e3
        self.passed_bytes = 0
        self.cuts = 0
        self.whole = True
        self._broker_port = broker_port
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _End(self, self._accepted), HOST, self.port)

    def _accepted(self, near: _End) -> None:
        if not self.whole:
            near.end()
            return
        self._ends.add(near)
        task = asyncio.get_running_loop().create_task(self._reach(near))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reach(self, near: _End) -> None:
        """Connect to the broker; one that is dead ends the bridge's connection, as it would without a line."""
        try:
            _, far = await asyncio.get_running_loop().create_connection(lambda: _End(self), HOST, self._broker_port)
        except OSError:
            near.end()
            return
        self._ends.add(far)
        if near not in self._ends:
            far.end()
            return
        near.joined(far)
        far.joined(near)

    def forget(self, end: _End) -> None:
        self._ends.discard(end)

    def cut(self) -> None:
        self.cuts += self.whole
        self.whole = False
        for end in list(self._ends):
            end.end()

    def join(self) -> None:
        self.whole = True

    def state(self) -> dict[str, Any]:
        connections = len(self._ends) // 2
        return {"whole": self.whole, "cuts": self.cuts, "connections": connections, "passed_bytes": self.passed_bytes}

    async def close(self) -> None:
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 1.0)


class VirtualSites:
    """The brokers and the bridges of a lab, by the sites' names and by pairs of them."""

    def __init__(self, sites: Sites, bed: str, directory: Path, logs: Path) -> None:
        self.sites = sites
        self.brokers: dict[str, Broker] = {}
        self.lines: dict[tuple[str, str], Line] = {}
        following: tuple[str, Line] | None = None
        for place in reversed(range(len(sites.names))):  # who bridges to the next has to know its line
            site = sites.names[place]
            folder = directory / site
            folder.mkdir(mode=0o700, exist_ok=True)
            more = [] if following is None else _bridge(site, following[0], following[1].port, bed)
            broker = Broker(
                folder, BoundedLog(logs / f"broker-{site}.log"), "mosquitto", more
            )  # no other knows bridges
            self.brokers[site] = broker
            if place:
                following = site, Line(sites.latency_ms[place - 1], broker.port)
                self.lines[sites.names[place - 1], site] = following[1]

    def line(self, first: str, last: str) -> Line | None:
        return self.lines.get((first, last)) or self.lines.get((last, first))

    async def start(self) -> None:
        for line in self.lines.values():
            await line.start()
        for broker in self.brokers.values():
            await broker.start()

    def check(self) -> None:
        for broker in self.brokers.values():
            broker.check()

    async def close(self) -> None:
        for broker in self.brokers.values():
            broker.close()
        for line in self.lines.values():
            await line.close()

    def addresses(self) -> dict[str, tuple[str, int]]:
        return {site: (HOST, self.brokers[site].port) for site in self.sites.names}


def _bridge(site: str, following: str, port: int, bed: str) -> list[str]:
    """The lines of mosquitto.conf for a bridge to the next site."""
    return [
        f"connection {site}-to-{following}",
        f"address {HOST}:{port}",
        f"topic {bed}/g/# both 0",
        "bridge_protocol_version mqttv311",
        "try_private true",  # what came over the bridge does not go back over it
        "cleansession true",
        "keepalive_interval 5",
        "restart_timeout 1 2",
        "notifications true",  # $SYS/broker/connection/.../state
    ]
