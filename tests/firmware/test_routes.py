"""The client that takes another route, in the real MicroPython: two brokers that die, stall and return; a cable."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mqtt_bed import WITHIN_S, Broker, Client

FIRMWARE = Path(__file__).resolve().parent.parent.parent / "firmware"

# A board that answers what it is told in `bed/cmd/b1` on `bed/g/b1/all`, and prints what happens to it.
PROGRAM = """
import asyncio, json, sys, time
sys.path.insert(0, sys.argv[1])
from brownout_node.transport.routes import RoutedClient
from brownout_node.transport.serial import MESH, read_mesh

rows = json.loads(sys.argv[2])
first = rows[0]
rows[0] = first[:1]
options = dict(host="127.0.0.1", port=first[1], user="b1", password=None, keep_alive_s=1, tls=None)

class Link:
    def on_payload(self, payload):
        print("frame", payload[1:])

    def send(self, payload):
        print("cable", *read_mesh(payload))
        return True

def on_message(topic, payload):
    if topic == "bed/cmd/b1":
        print("message", payload)
        client.publish("bed/g/b1/all", b"heard " + payload)

def emit(kind, fields):
    print("rerouted", *fields)

async def cable():
    # Something comes by the cable all the time: it counts only while that is the route.
    while True:
        await asyncio.sleep_ms(100)
        client._on_frame(bytes((MESH,)) + b"b2")
        if client.routes.by_cable:
            client.publish("bed/g/b1/b2", b"by cable")

async def main():
    if rows[-1][0] == "serial":
        asyncio.create_task(cable())
    await client.run()

link = Link()
topics = (("bed/g/+/all", 0), ("bed/cmd/b1", 1))
client = RoutedClient(
    rows, link, time.ticks_ms, emit, options, "b1", ("bed/up/b1", b"0"), topics, on_message, lambda: None,
    lambda: print("connected", client.routes.names[client.routes.at]), lambda n: time.ticks_us() % n,
)
asyncio.run(main())
"""


class Board:
    """The program above as a process, and the lines that it prints."""

    def __init__(self, micropython: str, directory: Path, rows: list[Any]) -> None:
        script = directory / "board.py"
        script.write_text(PROGRAM)
        self.lines: queue.Queue[str] = queue.Queue()
        command = [micropython, "-X", "heapsize=200k", str(script), str(FIRMWARE), json.dumps(rows)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.put(line.rstrip())

    def expect(self, start: str, within_s: float = WITHIN_S) -> str:
        deadline = time.monotonic() + within_s
        seen: list[str] = []
        while time.monotonic() < deadline:
            try:
                line = self.lines.get(timeout=max(0.001, deadline - time.monotonic()))
            except queue.Empty:
                break
            assert not line.startswith("Traceback"), [line, *list(self.lines.queue)]
            if line.startswith(start):
                return line
            seen.append(line)
        raise AssertionError(f"no line {start!r}, but {seen[-5:]}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(WITHIN_S)


@pytest.fixture
def board(micropython: str, tmp_path: Path) -> Iterator[Callable[..., Board]]:
    boards: list[Board] = []

    def start(*rows: Any) -> Board:
        boards.append(Board(micropython, tmp_path, [list(row) for row in rows]))
        return boards[-1]

    yield start
    for started in boards:
        started.kill()


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[tuple[Broker, Broker]]:
    made = []
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
        made.append(Broker(tmp_path / name))
        made[-1].start()
    yield made[0], made[1]
    for broker in made:
        broker.kill()


def tell(broker: Broker, board: Board, text: bytes) -> None:
    """The board hears what it is told by this broker, and is heard: its subscriptions stand here too."""
    peer = Client("peer", broker.port, "bed/g/b1/+")
    try:
        peer.publish("bed/cmd/b1", text, qos=1)
        board.expect(f"message {text!r}")
        assert peer.next() == ("bed/g/b1/all", b"heard " + text)
    finally:
        peer.close()


@pytest.mark.needs("mosquitto")
def test_a_board_takes_its_second_broker_and_goes_home_when_the_first_is_steady_again(board, brokers):
    north, south = brokers
    one = board(("north", north.port), ("south", "127.0.0.1", south.port))
    one.expect("connected north")
    tell(north, one, b"at home")
    north.kill()
    one.expect("connected south")
    tell(south, one, b"abroad")
    began_s = time.monotonic()
    north.start()
    one.expect("connected north", 10.0)
    assert time.monotonic() - began_s > 1.9, "three looks in a row, a second apart"
    tell(north, one, b"home again")


@pytest.mark.needs("mosquitto")
def test_a_change_of_route_is_told_with_the_first_message_and_what_it_cost(board, brokers):
    north, south = brokers
    one = board(("north", north.port), ("south", "127.0.0.1", south.port))
    one.expect("connected north")
    tell(north, one, b"at home")
    north.kill()
    one.expect("connected south")
    peer = Client("peer", south.port, "bed/g/b1/+")
    try:
        peer.publish("bed/g/b1/all", b"its own, which comes back")
        peer.next()
        assert "rerouted" not in " ".join(one.lines.queue), "nothing has come by it yet"
        peer.publish("bed/cmd/b1", b"first", qos=1)
        source, target, gap_ms = one.expect("rerouted").split()[1:]
        assert (source, target) == ("north", "south") and 50 <= int(gap_ms) < 3000
    finally:
        peer.close()


@pytest.mark.needs("mosquitto")
def test_a_stalled_broker_is_left_and_does_not_bring_the_board_home(board, brokers):
    north, south = brokers
    one = board(("north", north.port), ("south", "127.0.0.1", south.port))
    one.expect("connected north")
    north.send_signal(signal.SIGSTOP)  # its kernel goes on accepting connections
    one.expect("connected south", 15.0)
    with pytest.raises(AssertionError, match="no line"):
        one.expect("connected north", 4.0)
    north.send_signal(signal.SIGCONT)
    one.expect("connected north", 10.0)


@pytest.mark.needs("mosquitto")
def test_the_cable_is_the_last_route(board, brokers):
    north, south = brokers
    one = board(("north", north.port), ("south", "127.0.0.1", south.port), ("serial",))
    one.expect("connected north")
    tell(north, one, b"at home")
    south.kill()
    north.kill()
    assert one.expect("rerouted").split()[1:3] == ["north", "serial"]
    assert one.expect("cable") == "cable b2 b'by cable'"
    south.start()
    one.expect("connected south", 10.0)
    tell(south, one, b"the better of the two that answer")


def test_a_board_with_one_route_does_not_load_this(micropython: str) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import brownout_node.shell, brownout_node.transport.mqtt\n"
        "print(sorted(name for name in sys.modules if 'transport' in name))"
    )
    command = [micropython, "-X", "heapsize=300k", "-c", program, str(FIRMWARE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert "transport.mqtt" in done.stdout and "routes" not in done.stdout, done.stdout + done.stderr
