"""The sites of a virtual lab: what bridges carry over lines that take their time, and what a cut one does not."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from brownout.mqtt_connection import ManyConnections, connected
from brownout.serial_bridge import BoardBridge
from brownout.sites import Sites
from brownout_virtual.proxy import Proxy
from brownout_virtual.sites import Line, VirtualSites
from mqtt_bed import Client, wait_until

SITES = Sites({"north": ("b1",), "middle": (), "south": ("b2",)}, (30.0, 50.0))
LATE_S = 0.08


class Running:
    """Three brokers and two bridges, in a thread of their own."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.sites: VirtualSites = self.call(self._start(folder))
        self.heard: queue.SimpleQueue[tuple[str, bytes, float]] = queue.SimpleQueue()

    async def _start(self, folder: Path) -> VirtualSites:
        (folder / "logs").mkdir()
        sites = VirtualSites(SITES, "bed", folder, folder / "logs")
        await sites.start()
        return sites

    def call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    async def _do(self, function, *arguments):
        return function(*arguments)

    def do(self, function, *arguments):
        return self.call(self._do(function, *arguments))

    def connect(self, site: str, *topics: str):
        def hear(topic: str, payload: bytes) -> None:
            self.heard.put((topic, payload, time.monotonic()))

        return connected(f"test-{site}", [self.sites.addresses()[site]], [(topic, 0) for topic in topics], hear)

    def crosses(self, sender, topic: str = "bed/g/b1/b2") -> float | None:
        """How long a message took from where it was published, or None."""
        began_s = time.monotonic()
        sender.publish(topic, b"%f" % began_s, 0)
        try:
            while True:
                _, payload, at_s = self.heard.get(timeout=0.5)
                if payload == b"%f" % began_s:
                    return at_s - began_s
        except queue.Empty:
            return None

    def close(self) -> None:
        self.call(self.sites.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    bed = Running(tmp_path)
    yield bed
    bed.close()


@pytest.mark.needs("mosquitto")
def test_messages_of_boards_cross_the_bridges_and_take_their_time(running: Running) -> None:
    receiver, sender = running.connect("south", "bed/#"), running.connect("north")
    try:
        wait_until(lambda: running.crosses(sender) is not None, "the bridges stand")
        took_s = running.crosses(sender)
        assert took_s is not None and took_s >= LATE_S, "30 ms and 50 ms"
        assert running.crosses(sender, "bed/re/7") is None, "the host is at every site, and would hear it twice"
        while not running.heard.empty():
            running.heard.get()
        sender.publish("bed/g/b1/all", b"once", 0)
        assert running.heard.get(timeout=5)[1] == b"once"
        with pytest.raises(queue.Empty):
            running.heard.get(timeout=0.3)  # nothing comes round

        line = running.sites.line("south", "middle")
        assert line is running.sites.lines["middle", "south"]
        running.do(line.cut)
        assert running.crosses(sender) is None and running.do(line.state)["whole"] is False
        running.do(line.join)
        wait_until(lambda: running.crosses(sender) is not None, "the bridge is there again")
    finally:
        receiver.close()
        sender.close()


@pytest.mark.needs("mosquitto")
def test_the_host_is_at_every_site(running: Running) -> None:
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    addresses = list(running.sites.addresses().values())
    host = connected("host", addresses, [("bed/re/1", 1)], lambda _topic, payload: heard.put(payload))
    assert isinstance(host, ManyConnections)
    board = running.connect("south", "bed/cmd/b2")
    try:
        assert host.publish("bed/cmd/b2", b"asked")
        assert running.heard.get(timeout=5)[1] == b"asked"
        board.publish("bed/re/1", b"answered")
        assert heard.get(timeout=5) == b"answered"
        running.do(running.sites.brokers["north"].kill)
        wait_until(lambda: not host._each[0].ready, "the loss of one broker is noticed")
        assert host.ready and host.publish("bed/cmd/b2", b"still there")
        assert running.heard.get(timeout=5)[1] == b"still there"
        assert heard.empty(), "nothing came twice"
    finally:
        host.close()
        board.close()


def test_a_line_to_a_dead_broker_ends_the_connection() -> None:
    async def ends() -> bytes:
        line = Line(5.0, 9)  # the port of discard, where nobody is
        await line.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
        writer.write(b"hello")
        try:
            return await asyncio.wait_for(reader.read(), 5)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()
            await line.close()

    assert asyncio.run(ends()) == b""


@pytest.mark.needs("mosquitto")
def test_a_boards_link_to_one_broker_dies_and_its_others_do_not(running: Running) -> None:
    async def started() -> Proxy:
        routes = {"b1": running.sites.addresses(), "b2": running.sites.addresses()}
        proxy = Proxy("bed", ["b1", "b2"], "127.0.0.1", 1, routes=routes)
        await proxy.start()
        return proxy

    proxy = running.call(started())
    ports = proxy.route_ports
    board, other = Client("b1", ports["b1"]["north"]), Client("b2", ports["b2"]["north"])
    try:
        assert ports["b1"]["north"] == proxy.ports["b1"], "the first route is the board's own broker"
        running.do(proxy.part, "north", ["b1"])
        assert board.ends.get(timeout=5)
        with pytest.raises((ConnectionError, OSError)):
            Client("b1", ports["b1"]["north"])
        Client("b1", ports["b1"]["south"]).close()
        assert other.ends.empty() and not proxy.whole("b1", "north") and proxy.whole("b2", "north")
        running.do(proxy.rejoin, ["b1"], "north")
        Client("b1", ports["b1"]["north"]).close()
    finally:
        board.close()
        other.close()
        running.call(proxy.stop())


@pytest.mark.needs("mosquitto")
def test_the_bridge_of_a_cable_goes_on_to_a_broker_that_accepts_it(running: Running) -> None:
    """The first address takes the connection and ends it, as a proxy does whose broker is dead."""

    async def start() -> tuple[asyncio.Server, BoardBridge]:
        ending = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        address = ending.sockets[0].getsockname()
        bridge = BoardBridge("bed", "b1", True, [address, running.sites.addresses()["south"]], frames.append, True)
        bridge.attach()
        await asyncio.wait_for(bridge.established.wait(), 5)
        return ending, bridge

    frames: list[bytes] = []
    presence = running.connect("south", "bed/up/#")
    ending, bridge = running.call(start())
    try:
        presence.publish("bed/g/b2/b1", b"by the cable", 0)
        wait_until(lambda: frames, "a message comes by it")
        assert frames[0].endswith(b"by the cable")
        running.do(bridge.detach)
        assert running.heard.empty(), "it stands in, and says nothing of the board's presence"
    finally:
        presence.close()
        running.do(ending.close)
