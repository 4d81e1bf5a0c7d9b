"""One board's serial port: opened for this host alone, split into text and frames, opened again when it comes back.

Runs in the serial hub's event loop. Must not block, and must not know what events or messages say.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import serial
from brownout_node.core import codec, schema
from brownout_node.transport import serial as frames

from .contracts import RigError
from .serial_bridge import BoardBridge
from .telemetry import Telemetry

ACKNOWLEDGE_AFTER_S = 0.1
ACKNOWLEDGE_AFTER_EVENTS = 24  # of the 128 that a board keeps
IDLE_S = 1.0  # after that, what looked like the beginning of a frame or of a line is text
SILENT_S = 5.0  # a bridged board that says nothing for so long is not there
MAX_WAITING_BYTES = 16 * 1024  # towards a board that does not read; frames beyond that are lost
MAX_LINE = 4096
HOST_SOURCE = 1_000_000  # the controller's own number among clients
READ_BYTES = 65536


def open_port(path: str, baud_rate: int) -> serial.Serial:
    """Open a port for this process alone. RigError says whether it is missing, in use or not to be read."""
    try:
        return serial.Serial(path, baud_rate, timeout=0, exclusive=True)
    except serial.SerialException as error:
        number = error.errno
        if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise RigError(
                f"serial port {path} does not exist; is the board plugged in, and is the path in the rig file right?"
            ) from error
        if number in (errno.EAGAIN, errno.EBUSY, errno.EWOULDBLOCK):
            raise RigError(
                f"serial port {path} is in use by another program; close it (a console, mpremote?)"
            ) from error
        if number in (errno.EACCES, errno.EPERM):
            raise RigError(f"serial port {path} may not be opened; is this user in the group that owns it?") from error
        raise RigError(f"serial port {path} cannot be opened: {error}") from error


class Cable:
    """on_change() is called when the port was opened or lost."""

    def __init__(
        self,
        board: str,
        path: str,
        cluster: int,
        telemetry: Telemetry,
        log: Path | None,
        on_line: Callable[[str, str], None] | None,
        clock: Callable[[], int],
        baud_rate: int,
        on_change: Callable[[], None],
    ) -> None:
        self.board = board
        self.path = path
        self.bridge: BoardBridge | None = None
        self.on_sent: Callable[[bytes], None] | None = None
        self.last_byte_ns: int | None = None
        self.last_byte_s = 0.0
        self.received_bytes = self.received_frames = self.damaged = self.dropped = self.losses = 0
        self._cluster = cluster
        self._telemetry = telemetry
        self._log_path = log
        self._log: IO[str] | None = None
        self._on_line = on_line
        self._clock = clock
        self._baud_rate = baud_rate
        self._on_change = on_change
        self._port: serial.Serial | None = None
        self._released = True
        self._decoder = frames.HostDecoder()
        self._text = b""
        self._waiting = bytearray()
        self._acknowledging: asyncio.TimerHandle | None = None
        self._unacknowledged = 0
        self._asked: tuple[int, int] | None = None
        self._sequence = 0
        self._refusal = ""

    # The port.

    @property
    def is_open(self) -> bool:
        return self._port is not None

    def open(self) -> None:
        """Open the port and keep it. RigError where that is not possible."""
        self._released = False
        if self._port is not None:
            return
        self._port = open_port(self.path, self._baud_rate)
        self._decoder = frames.HostDecoder()
        asyncio.get_running_loop().add_reader(self._port.fileno(), self._read)
        self._refusal = ""
        self._remark("port opened")
        self._on_change()

    def release(self) -> None:
        """Close the port and leave it closed."""
        self._released = True
        self._lose("port released")
        if self._log is not None:
            self._log.close()
            self._log = None

    def look(self) -> None:
        """Now and then: has the path gone or come, and is there anything that nobody will finish?"""
        if self._port is not None:
            if not self._same_device():
                self._lose("port lost: its path is gone")
            elif time.monotonic() - self.last_byte_s > IDLE_S:
                self._idle()
        elif not self._released and Path(self.path).exists():
            try:
                self.open()
            except RigError as error:
                if str(error) != self._refusal:
                    self._refusal = str(error)
                    self._remark(self._refusal)

    def _same_device(self) -> bool:
        assert self._port is not None
        try:
            there, here = Path(self.path).stat(), os.fstat(self._port.fileno())
        except OSError:
            return False
        return (there.st_rdev, there.st_ino) == (here.st_rdev, here.st_ino)

    def _lose(self, why: str) -> None:
        if self._port is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._port.fileno())
        loop.remove_writer(self._port.fileno())
        self._port.close()
        self._port = None
        self._waiting.clear()
        self.losses += 1
        self.damaged += self._decoder.damaged
        self._take_text(self._decoder.flush())
        self._end_line()
        self._remark(why)
        if self._acknowledging is not None:
            self._acknowledging.cancel()
            self._acknowledging = None
        if self.bridge is not None:
            self.bridge.detach()
        self._on_change()

    # From the board.

    def _read(self) -> None:
        assert self._port is not None
        try:
            data = os.read(self._port.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(f"port lost: {error.strerror}")
            return
        if not data:
            self._lose("port lost: nothing at the other end")
            return
        self.last_byte_ns = self._clock()
        self.last_byte_s = time.monotonic()
        self.received_bytes += len(data)
        for framed, payload in self._decoder.feed(data):
            if framed:
                self._take_frame(payload)
            else:
                self._take_text(payload)

    def _take_frame(self, payload: bytes) -> None:
        if not payload:
            return
        self.received_frames += 1
        if self.bridge is not None and (payload[0] == frames.MESH or not self.bridge.stands_in):
            self.bridge.attach()
        if payload[0] == frames.EVENTS and len(payload) > 5:
            previous, events = frames.read_events(payload)
            fresh = self._telemetry.ingest(self.board, events, previous=previous)
            self._unacknowledged += len(fresh)
            if self.bridge is not None and self.bridge.stands_in and any(one.kind == "connected" for one in fresh):
                self.bridge.detach()  # the board is with a broker itself again
            upto = self._telemetry.acknowledged(self.board)
            # A frame was missed (the port was opened too late, the cable was pulled): ask for it again, once. And a
            # board that tells much at once has to get rid of it before its ring is full.
            missed = upto is not None and previous > upto[1] and upto != self._asked
            if missed or self._unacknowledged >= ACKNOWLEDGE_AFTER_EVENTS:
                self._asked = upto
                self._acknowledge()
            elif self._acknowledging is None:
                loop = asyncio.get_running_loop()
                self._acknowledging = loop.call_later(ACKNOWLEDGE_AFTER_S, self._acknowledge)
        elif payload[0] in (frames.MESH, frames.CLIENT) and self.bridge is not None:
            self.bridge.relay_up(payload)

    def _acknowledge(self) -> None:
        if self._acknowledging is not None:
            self._acknowledging.cancel()
            self._acknowledging = None
        self._unacknowledged = 0
        upto = self._telemetry.acknowledged(self.board)
        if upto is not None:
            self._sequence += 1
            kind = schema.TELEMETRY_ACK
            self.send_message(codec.encode_message(self._cluster, HOST_SOURCE, 0, self._sequence, kind, upto))

    def _idle(self) -> None:
        self._take_text(self._decoder.flush())
        self._end_line()
        silent = time.monotonic() - self.last_byte_s > SILENT_S
        if silent and self.bridge is not None:
            self.bridge.detach()

    # Console text.

    def _take_text(self, text: bytes) -> None:
        if not text:
            return
        *lines, self._text = (self._text + text).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._text) > MAX_LINE:
            self._end_line()

    def _end_line(self) -> None:
        if self._text:
            self._line(self._text)
            self._text = b""

    def _line(self, line: bytes) -> None:
        text = line.rstrip(b"\r").decode(errors="backslashreplace")
        self._write_log(text)
        if self._on_line is not None:
            self._on_line(self.board, text)

    def _remark(self, text: str) -> None:
        self._write_log(f"-- {text}")

    def _write_log(self, text: str) -> None:
        """One line with the run's time in seconds; the host's own remarks begin with two dashes."""
        if self._log_path is None:
            return
        if self._log is None:
            self._log_path.parent.mkdir(parents=True, exist_ok=True)
            self._log = self._log_path.open("a", encoding="utf-8", buffering=1)
        self._log.write(f"{self._clock() / 1e9:.6f} {text}\n")

    # To the board.

    def send_message(self, message: bytes) -> bool:
        """A message of a client or of the controller."""
        if self.on_sent is not None:
            self.on_sent(message)
        return self.send(bytes((frames.CLIENT,)) + message)

    def send(self, payload: bytes) -> bool:
        """Send one frame, as far as that is possible without waiting; False if it was dropped."""
        frame = frames.encode_to_board(payload)
        if self._port is None or len(self._waiting) + len(frame) > MAX_WAITING_BYTES:
            self.dropped += 1
            return False
        if not self._waiting:
            asyncio.get_running_loop().add_writer(self._port.fileno(), self._write)
        self._waiting += frame
        self._write()
        return True

    def _write(self) -> None:
        if self._port is None:
            return
        try:
            written = os.write(self._port.fileno(), self._waiting)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(f"port lost: {error.strerror}")
            return
        del self._waiting[:written]
        if not self._waiting:
            asyncio.get_running_loop().remove_writer(self._port.fileno())

    def counts(self) -> dict[str, int]:
        counts = {
            "bytes": self.received_bytes,
            "frames": self.received_frames,
            "damaged": self.damaged + (self._decoder.damaged if self._port is not None else 0),
            "dropped": self.dropped,
            "losses": self.losses,
        }
        if self.bridge is not None:
            counts["relayed_up"] = self.bridge.relayed_up
            counts["relayed_down"] = self.bridge.relayed_down
        return counts
