"""The USB cable of a virtual board: a pseudo-terminal that the host opens, bridged to the board's own terminal.

Two terminals, because the board's comes and goes with its power while a host keeps its port open. The port is a
symbolic link, there while the cable is plugged in and the board has power, as a USB device is; a host that holds it
open over a power cut hears silence, over an unplugged cable the end of the line. Output that nobody reads is
dropped, the oldest first, as USB does it. Must not look into the bytes, except for the Ctrl-C that must reach a
board which has stopped reading.
"""

from __future__ import annotations

import asyncio
import os
import signal
import termios
import tty
from collections.abc import Callable
from pathlib import Path

CHUNK = 65536
MAX_TO_HOST = 65536  # then the oldest goes
MAX_TO_BOARD = 65536  # then the host is made to wait
PIECE_S = 0.01  # what goes at once over a cable that has a speed of its own
CTRL_C = b"\x03"
INTERRUPTS_APART_S = 0.05
LFLAG, CC = 3, 6  # places in what termios.tcgetattr returns


def _raw_pair() -> tuple[int, int]:
    """A pseudo-terminal that passes every byte untouched, from its first moment on."""
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    return master, slave


def board_terminal() -> tuple[int, int]:
    """(our end, the board's end) of a terminal where only Ctrl-C means something: the interpreter's SIGINT."""
    master, slave = _raw_pair()
    attributes = termios.tcgetattr(slave)
    # NOFLSH: an interrupt must not throw away output that is on its way.
    attributes[LFLAG] = termios.ISIG | termios.NOFLSH
    disabled = os.fpathconf(slave, "PC_VDISABLE") if "PC_VDISABLE" in os.pathconf_names else 0
    for name in ("VQUIT", "VSUSP", "VDSUSP", "VSTATUS"):
        place = getattr(termios, name, None)
        if place is not None:
            attributes[CC][place] = bytes([disabled])
    attributes[CC][termios.VINTR] = CTRL_C
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    return master, slave


class Cable:
    """One board's cable. Everything is called from the event loop's thread."""

    def __init__(self, link: Path) -> None:
        self.link = link
        self.plugged = False
        self._powered = False
        self._loop = asyncio.get_running_loop()
        self._port: int | None = None  # our end of what the host opens
        self._port_slave: int | None = None  # kept open, so that the port outlives its readers
        self._board: int | None = None  # our end of the board's terminal
        self._terminal = ""
        self._ready = False  # a board that has not booted hears nothing, and would die of a Ctrl-C
        self._interrupt_after = 0.0
        self._process = 0
        self._to_host = bytearray()
        self._to_board = bytearray()
        self._host_is_full = False  # somebody has to read before more goes through
        self._host_waits = False  # until the board has read
        self.bytes_per_s: int | None = None  # of each direction; None: as fast as it goes
        self._rests: dict[int, asyncio.TimerHandle] = {}  # ends that are not read until so many bytes would have gone
        self.dropped_bytes = 0

    # The host's side.

    def plug(self) -> None:
        """Connect a fresh port."""
        if self.plugged:
            return
        self._port, self._port_slave = _raw_pair()
        self._loop.add_reader(self._port, self._from_host)
        self.plugged = True
        self._show_port()

    def unplug(self) -> None:
        """Take the port away; who has it open reads the end of the line."""
        if self._port is None or self._port_slave is None:
            return
        self.plugged = False
        self._show_port()
        self._stop_reading(self._port)
        self._loop.remove_writer(self._port)
        os.close(self._port_slave)
        os.close(self._port)
        self._port = self._port_slave = None
        self._to_host.clear()
        self._host_is_full = False
        self._host_waits = False

    def rename(self, link: Path) -> None:
        """The device is another one from now on, as after a renumbering: a fresh port under that name."""
        plugged = self.plugged
        self.unplug()
        self.link.unlink(missing_ok=True)
        self.link = link
        if plugged:
            self.plug()

    def _show_port(self) -> None:
        self.link.unlink(missing_ok=True)
        if self.plugged and self._powered and self._port_slave is not None:
            self.link.symlink_to(os.ttyname(self._port_slave))

    # The board's side.

    def attach(self, master: int, terminal: str, process: int) -> None:
        """The board has power. `master`: our end of its terminal; `terminal`: the name of the board's end."""
        self._board = master
        self._terminal = terminal
        self._process = process
        self._powered = True
        self._ready = False
        self._interrupt_after = 0.0
        self._loop.add_reader(master, self._from_board)
        self._show_port()

    def listen(self) -> None:
        """The board has booted as far as hearing what the host says; what came meanwhile goes through."""
        self._ready = True
        waiting = bytes(self._to_board)
        self._to_board.clear()
        self._forward(waiting)

    def detach(self, *, powered: bool) -> None:
        """The board's process is gone; what it had already sent still arrives. `powered`: it starts again at once."""
        while self._board is not None and self._from_board():
            continue
        self._close_board()
        self._to_board.clear()
        self._let_host_write()
        self._powered = powered
        self._show_port()

    def _close_board(self) -> None:
        if self._board is not None:
            self._stop_reading(self._board)
            self._loop.remove_writer(self._board)
            os.close(self._board)
            self._board = None

    # A cable's own speed.

    def _piece(self) -> int:
        return CHUNK if self.bytes_per_s is None else max(1, int(self.bytes_per_s * PIECE_S))

    def _rest(self, file: int, count: int, reader: Callable[[], object]) -> None:
        """Read no more from this end until so many bytes would have gone over the wire."""
        if self.bytes_per_s is not None:
            self._stop_reading(file)
            self._rests[file] = self._loop.call_later(count / self.bytes_per_s, self._read_again, file, reader)

    def _read_again(self, file: int, reader: Callable[[], object]) -> None:
        del self._rests[file]
        self._loop.add_reader(file, reader)

    def _stop_reading(self, file: int) -> None:
        self._loop.remove_reader(file)
        rest = self._rests.pop(file, None)
        if rest is not None:
            rest.cancel()

    # Bytes.

    def _from_board(self) -> bool:
        """Pass one piece on; False where there is none, or none any more."""
        assert self._board is not None
        try:
            data = os.read(self._board, self._piece())
        except BlockingIOError:
            return False
        except OSError:  # EIO: the board's end is closed; the supervisor notices by itself
            data = b""
        if not data:
            self._stop_reading(self._board)
            return False
        self._send_to_host(data)
        self._rest(self._board, len(data), self._from_board)
        return True

    def _send_to_host(self, data: bytes) -> None:
        if self._port is None:
            self.dropped_bytes += len(data)
            return
        self._to_host += data
        self._flush_to_host()

    def _flush_to_host(self) -> None:
        assert self._port is not None
        _write_some(self._port, self._to_host)
        excess = len(self._to_host) - MAX_TO_HOST
        if excess > 0:
            del self._to_host[:excess]
            self.dropped_bytes += excess
        if self._to_host and not self._host_is_full:
            self._loop.add_writer(self._port, self._flush_to_host)
        elif self._host_is_full and not self._to_host:
            self._loop.remove_writer(self._port)
        self._host_is_full = bool(self._to_host)

    def _from_host(self) -> None:
        assert self._port is not None
        try:
            data = os.read(self._port, self._piece())
        except BlockingIOError:
            return
        self._rest(self._port, len(data), self._from_host)
        if self._board is None:
            return  # no power: bytes fall off the cable's end
        if not self._ready:
            self._to_board += data
        else:
            self._forward(data)
        if len(self._to_board) > MAX_TO_BOARD:
            self._stop_reading(self._port)
            self._host_waits = True

    def _forward(self, data: bytes) -> None:
        assert self._board is not None
        if CTRL_C in data and termios.tcgetattr(self._board)[LFLAG] & termios.ISIG:
            data = self._interrupt(data)  # otherwise the board is at its prompt, and takes the byte for itself
        self._to_board += data
        self._flush_to_board()

    def _interrupt(self, data: bytes) -> bytes:
        """Let the board see one Ctrl-C, even if it has stopped reading, as real ones do; return what is left to send.

        A second one while the interpreter still deals with the first would end it: so they are kept apart.
        """
        before, _, after = data.partition(CTRL_C)
        after = after.replace(CTRL_C, b"")
        now = self._loop.time()
        if now < self._interrupt_after:
            return before + after
        self._interrupt_after = now + INTERRUPTS_APART_S
        if not self._to_board:
            return before + CTRL_C + after
        self._to_board.clear()
        terminal = os.open(self._terminal, os.O_RDWR | os.O_NOCTTY)
        termios.tcflush(terminal, termios.TCIFLUSH)
        os.close(terminal)
        os.kill(self._process, signal.SIGINT)
        return after

    def _flush_to_board(self) -> None:
        assert self._board is not None
        _write_some(self._board, self._to_board)
        if self._to_board:
            self._loop.add_writer(self._board, self._flush_to_board)
        else:
            self._loop.remove_writer(self._board)
        if len(self._to_board) <= MAX_TO_BOARD // 2:
            self._let_host_write()

    def _let_host_write(self) -> None:
        if self._host_waits and self._port is not None:
            self._host_waits = False
            self._loop.add_reader(self._port, self._from_host)

    def close(self) -> None:
        self._powered = False
        self.unplug()
        self._close_board()


def _write_some(file: int, waiting: bytearray) -> None:
    """Write as much as goes without blocking, and take it out of `waiting`."""
    while waiting:
        try:
            done = os.write(file, waiting[:CHUNK])
        except BlockingIOError:
            return
        except OSError:  # EIO: the other end is closed, and nothing will ever read this
            waiting.clear()
            return
        del waiting[:done]
        if done == 0:
            return
