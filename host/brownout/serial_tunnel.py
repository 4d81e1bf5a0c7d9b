"""Serial ports of boards that hang at a gateway, as ports of this machine: one SSH session a gateway carries them all.

For each board there is a pseudo-terminal here whose link stands in a folder for as long as the gateway has the board's
port: so flasher, console and serial hub see it come and go as if it were plugged in here. A session that breaks is
opened again. Must not look into the bytes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import struct
import threading
import time
import tty
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from .contracts import RigError

HEAD = struct.Struct(">BBH")
DATA, OPEN, GONE = 0, 1, 2
PIECE = 16384
MOST_WAITING = 1 << 20  # towards a program here that does not read; the oldest goes
RETRY_S = 0.2
FIRST_WITHIN_S = 5.0


class StreamEnds(Protocol):
    def receive(self, most: int = 65536) -> bytes: ...

    def send(self, data: bytes) -> None: ...

    def complaint(self) -> str: ...

    def close(self) -> None: ...


class StreamGateway(Protocol):
    """What a tunnel needs of a gateway: gateway.SshGateway."""

    name: str

    def stream(self, argv: Sequence[str]) -> StreamEnds: ...


class _Terminal:
    """This machine's end of one port."""

    def __init__(self, link: Path) -> None:
        self.link = link
        self.master, self._slave = os.openpty()  # the slave stays open, so that the port outlives its readers
        tty.setraw(self._slave)
        os.set_blocking(self.master, False)
        self.waiting = bytearray()
        link.unlink(missing_ok=True)

    def show(self, there: bool) -> None:
        self.link.unlink(missing_ok=True)
        if there:
            self.link.symlink_to(os.ttyname(self._slave))

    def give(self, data: bytes) -> None:
        self.waiting += data
        if len(self.waiting) > MOST_WAITING:
            del self.waiting[: len(self.waiting) - MOST_WAITING]
        self.flush()

    def flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.waiting:
                del self.waiting[: os.write(self.master, self.waiting[:PIECE])]

    def close(self) -> None:
        self.link.unlink(missing_ok=True)
        os.close(self._slave)
        os.close(self.master)


class SerialTunnel:
    """ports: board -> path of its port on the gateway. directory: where the links of this machine go."""

    def __init__(self, gateway: StreamGateway, tool: str, ports: Mapping[str, str], directory: Path) -> None:
        self._gateway = gateway
        self._command = [tool, "carry", *ports.values()]
        directory.mkdir(parents=True, exist_ok=True)
        self._terminals = [_Terminal(directory / board) for board in ports]
        self._stream: StreamEnds | None = None
        self._lock = threading.Lock()  # of writing to the terminals
        self._over = threading.Event()
        self._ready = threading.Event()
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._wake, False)
        self._threads = [
            threading.Thread(target=target, name=f"serial {gateway.name}", daemon=True)
            for target in (self._stay, self._read_terminals)
        ]

    def start(self) -> None:
        """Open the session; RigError where the gateway cannot carry its ports."""
        self._stream = self._open()
        for thread in self._threads:
            thread.start()

    def _open(self) -> StreamEnds:
        stream = self._gateway.stream(self._command)
        self._ready.clear()
        return stream

    def wait_for(self, boards: Sequence[str], within_s: float = FIRST_WITHIN_S) -> list[str]:
        """The boards whose ports are still missing when the time is out."""
        until_s = time.monotonic() + within_s
        while True:
            missing = [
                terminal.link.name
                for terminal in self._terminals
                if terminal.link.name in boards and not terminal.link.is_symlink()
            ]
            if not missing or time.monotonic() > until_s:
                return missing
            self._ready.wait(0.05)

    # From the gateway.

    def _stay(self) -> None:
        """Carry what comes, and open the session again whenever it breaks."""
        while not self._over.is_set():
            stream = self._stream
            if stream is not None:
                self._carry(stream)
                stream.close()
            self._stream = None
            for terminal in self._terminals:
                terminal.show(False)
            if self._over.wait(RETRY_S):
                return
            with contextlib.suppress(RigError):  # the gateway is away: that is what its boards' silence says too
                self._stream = self._open()

    def _carry(self, stream: StreamEnds) -> None:
        rest = b""
        while True:
            try:
                data = stream.receive()
            except OSError:
                return
            if not data:
                return
            rest += data
            at = 0
            while len(rest) - at >= HEAD.size:
                number, kind, length = HEAD.unpack_from(rest, at)
                if len(rest) - at - HEAD.size < length or number >= len(self._terminals):
                    break
                self._take(self._terminals[number], kind, rest[at + HEAD.size : at + HEAD.size + length])
                at += HEAD.size + length
            rest = rest[at:]

    def _take(self, terminal: _Terminal, kind: int, data: bytes) -> None:
        with self._lock:
            if kind == DATA:
                terminal.give(data)
                if terminal.waiting:
                    os.write(self._waker, b".")
            elif kind in (OPEN, GONE):
                terminal.show(kind == OPEN)
                self._ready.set()

    # Towards the gateway.

    def _read_terminals(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            for number, terminal in enumerate(self._terminals):
                selector.register(terminal.master, selectors.EVENT_READ, number)
            while not self._over.is_set():
                for key, events in selector.select(0.2):
                    if key.data is None:
                        with contextlib.suppress(BlockingIOError):
                            os.read(self._wake, 4096)
                    elif events & selectors.EVENT_READ:
                        self._pass_on(key.data)
                with self._lock:
                    for number, terminal in enumerate(self._terminals):
                        terminal.flush()
                        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if terminal.waiting else 0)
                        selector.modify(terminal.master, wanted, number)

    def _pass_on(self, number: int) -> None:
        try:
            data = os.read(self._terminals[number].master, PIECE)
        except BlockingIOError:
            return
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(OSError):  # the session has broken: the bytes fall off the cable's end
                stream.send(HEAD.pack(number, DATA, len(data)) + data)

    def close(self) -> None:
        self._over.set()
        os.write(self._waker, b".")
        stream = self._stream
        if stream is not None:
            stream.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5.0)
        for terminal in self._terminals:
            terminal.close()
        os.close(self._wake)
        os.close(self._waker)
