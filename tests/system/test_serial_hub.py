"""The serial hub against pseudo-terminals: text and frames, acknowledgements, ports missing, busy, gone and back."""

from __future__ import annotations

import os
import select
import threading
import time
import tty

import pytest
from brownout.contracts import RigError
from brownout.serial_cable import open_port
from brownout.serial_hub import SerialHub
from brownout.telemetry import Telemetry
from brownout_node.core import codec, schema
from brownout_node.transport import serial as frames
from brownout_virtual.proxy import Proxy
from mqtt_bed import Broker, Client, LoopThread, wait_until

pytestmark = pytest.mark.system
BOOT_FIELDS = ("micropython", "1.28", bytes(8), "power", 0, True, 1, 0, -1, None, -1, None, -1, None, 1, 0)


class Board:
    """The far end of a pseudo-terminal, whose near end stands under a path as a USB port would."""

    def __init__(self, path):
        self.path = path
        self._decoder = frames.BoardDecoder()
        self._payloads = []
        self.plug()

    def plug(self):
        self._end, near = os.openpty()
        tty.setraw(near)
        self.path.symlink_to(os.ttyname(near))
        self._near = near

    def unplug(self):
        self.path.unlink()
        os.close(self._near)
        os.close(self._end)

    def send(self, payload):
        os.write(self._end, frames.encode_to_host(payload))

    def say(self, text):
        os.write(self._end, text)

    def events(self, previous, *events):
        self.send(frames.events_payload(previous, b"".join(events)))

    def next(self, within_s=5.0):
        deadline = time.monotonic() + within_s
        while not self._payloads:
            ready, _, _ = select.select([self._end], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "no frame came"
            self._payloads += self._decoder.feed(os.read(self._end, 4096))
        return self._payloads.pop(0)

    def next_acknowledged(self):
        payload = self.next()
        assert payload[0] == frames.CLIENT
        _cluster, source, _boot, _sequence, kind, fields = codec.decode_message(payload[1:])
        assert kind == schema.TELEMETRY_ACK
        assert source >= schema.FIRST_CLIENT
        return tuple(fields)


def boot(number):
    return codec.encode_event(number, 1, 3, 9, schema.BOOT, BOOT_FIELDS)


def event(boot_number, sequence):
    return codec.encode_event(boot_number, sequence, 5, 9, schema.CONNECTED, ("serial",))


class Bench:
    def __init__(self, directory):
        self.directory = directory
        self.telemetry = Telemetry("bed")
        self.boards = {name: Board(directory / name) for name in ("b1", "b2")}
        self.lines = []
        self.hub = None

    def start(self, **more):
        ports = {name: str(board.path) for name, board in self.boards.items()}
        self.hub = SerialHub(
            *("bed", 1, ports, self.telemetry),
            directory=self.directory / "serial",
            **{"on_line": lambda board, text: self.lines.append((board, text)), **more},
        )
        self.hub.start()
        return self.hub

    def log(self, board):
        return (self.directory / "serial" / f"{board}.log").read_text()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    if bench.hub is not None:
        bench.hub.close()
    for board in bench.boards.values():
        if board.path.is_symlink():
            board.unplug()


def test_text_goes_to_the_log_and_events_are_acknowledged(bench):
    hub = bench.start()
    board = bench.boards["b1"]
    board.say(b"hello\r\n")
    board.events(0, boot(1), event(1, 4))
    board.say(b"half a li")
    board.events(4, event(1, 6))
    board.say(b"ne\r\n")
    assert bench.telemetry.wait_for(lambda item: item.sequence == 6, 5.0).channel == "serial"
    assert board.next_acknowledged() == (1, 6)
    wait_until(lambda: len(bench.lines) == 2, "two lines")
    assert bench.lines == [("b1", "hello"), ("b1", "half a line")]
    stamps = [float(line.split()[0]) for line in bench.log("b1").splitlines() if line.split()[1] != "--"]
    assert stamps == sorted(stamps)
    assert hub.last_byte_ns("b1") is not None
    assert hub.last_byte_ns("b2") is None
    assert hub.counts()["b1"]["damaged"] == 0


def test_a_missed_frame_is_not_acknowledged_over(bench):
    bench.start()
    board = bench.boards["b1"]
    board.events(0, boot(1))
    damaged = bytearray(frames.encode_to_host(frames.events_payload(1, event(1, 2))))
    damaged[8] ^= 0xFF
    board.say(bytes(damaged))
    board.events(2, event(1, 3))
    assert board.next_acknowledged() == (1, 1)
    board.events(1, event(1, 2), event(1, 3))
    wait_until(lambda: board.next_acknowledged() == (1, 3), "all of it acknowledged")
    assert [item.sequence for item in bench.telemetry.events()] == [1, 2, 3]
    assert bench.hub.counts()["b1"]["damaged"] == 1


def test_a_port_that_is_missing_or_in_use_is_a_rig_error(bench):
    bench.boards["b2"].unplug()
    with pytest.raises(RigError, match="b2 does not exist"):
        bench.start()
    bench.boards["b2"].plug()
    taken = open_port(str(bench.boards["b1"].path), 115200)
    with pytest.raises(RigError, match="b1 is in use"):
        bench.start()
    taken.close()
    bench.start().release("b1")
    open_port(str(bench.boards["b1"].path), 115200).close()
    bench.hub.reclaim("b1")
    assert bench.hub.is_open("b1")


def test_a_thread_of_cables_that_is_held_up_is_a_rig_error_and_the_question_is_not_carried_out_later(bench):
    held, free = threading.Event(), threading.Event()

    def hold(board, text):
        held.set()
        assert free.wait(20.0)

    hub = bench.start(call_within_s=1.0, on_line=hold)
    bench.boards["b1"].say(b"hello\r\n")
    assert held.wait(5.0)
    try:
        with pytest.raises(RigError, match=r"2 ports did not answer within 1 s.*try fewer"):
            hub.release("b2")
    finally:
        free.set()
    wait_until(lambda: hub.counts() is not None, "the thread answers again")
    assert hub.is_open("b2")


def test_a_port_that_vanishes_is_opened_again_when_it_is_back(bench):
    hub = bench.start()
    board = bench.boards["b1"]
    board.events(0, boot(1))
    assert board.next_acknowledged() == (1, 1)
    board.unplug()
    assert hub.wait_open("b1", False, 5.0)
    assert hub.wait_silent("b1", 0.05, 5.0)
    assert not hub.send("b1", b"x")
    board.plug()
    assert hub.wait_open("b1", True, 5.0)
    board.events(0, boot(2))
    assert bench.telemetry.wait_for(lambda item: item.boot == 2, 5.0)
    assert hub.counts()["b1"]["losses"] == 1
    assert "-- port lost" in bench.log("b1")


def test_a_board_that_talks_is_not_silent(bench):
    hub = bench.start()
    board = bench.boards["b1"]
    board.say(b"tick\n")
    wait_until(lambda: hub.last_byte_ns("b1"), "a byte has come")
    assert not hub.wait_silent("b1", 5.0, 0.0)


@pytest.mark.needs("mosquitto")
def test_the_bridge_joins_a_serial_board_and_obeys_the_links(bench):
    broker = Broker(bench.directory)
    broker.start()
    thread = LoopThread()
    proxy = Proxy("bed", ("b1", "b2"), "127.0.0.1", broker.port)
    links = thread.call(proxy.start)
    others = Client("other", broker.port, "bed/g/+/b2", "bed/re/+", "bed/up/b1", qos=1)
    try:
        hub = bench.start(bridged={"b1": [("127.0.0.1", links["b1"])]}, voters=("b1",))
        board = bench.boards["b1"]
        board.send(frames.mesh_payload("all", b"before the bridge stands"))
        assert others.next() == ("bed/up/b1", b"1")
        board.send(frames.mesh_payload("b2", b"to b2"))
        assert others.next() == ("bed/g/b1/b2", b"to b2")
        board.send(frames.reply_payload(1003, b"answer"))
        assert others.next() == ("bed/re/1003", b"answer")
        others.publish("bed/cmd/b1", b"order", qos=1)
        assert board.next() == bytes((frames.CLIENT,)) + b"order"
        for topic, message in (("b1", b"direct"), ("all", b"group"), ("voters", b"votes")):
            others.publish(f"bed/g/b2/{topic}", message)
            assert board.next() == frames.mesh_payload("b2", message)
        rule = {"id": "r", "action": "drop", "sources": ["b2"], "targets": ["b1"]}
        thread.call(proxy.apply, [rule])
        others.publish("bed/g/b2/b1", b"cut")
        wait_until(lambda: thread.call(proxy.counts)[0]["matched"] == 1, "the link dropped it")
        assert hub.counts()["b1"]["relayed_down"] == 4
        board.unplug()
        assert others.next() == ("bed/up/b1", b"0")
        board.plug()
        broker.kill()
        broker.start()
        others.close()
        others = Client("other", broker.port, "bed/up/b1", qos=1)
        wait_until(lambda: hub.is_open("b1"), "the port is back")
        board.send(frames.mesh_payload("b2", b"here again"))
        assert others.next() == ("bed/up/b1", b"1")
    finally:
        others.close()
        thread.call(proxy.stop)
        thread.close()
        broker.kill()
