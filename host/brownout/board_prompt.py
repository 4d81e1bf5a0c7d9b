"""A board's raw prompt over its serial port, by mpremote's transport as a library, waiting on bytes instead of polling.

Interrupts whatever runs on the board. Must not know what is done at the prompt: flashing and the console do.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import serial
from mpremote.transport import TransportError
from mpremote.transport_serial import SerialTransport

from .contracts import RigError
from .serial_cable import open_port

PROMPT_WITHIN_S = 8.0
FIRST_ATTEMPT_S = 0.3  # each attempt waits longer than the one before: a board that starts loses what comes too early
OPEN_WITHIN_S = 2.0  # a board that starts anew takes its port away for a moment
START_WITHIN_S = 3.0  # a program's start is acknowledged at once
STARTS = 2
ANSWER_WITHIN_S = 30.0
WRITE_WITHIN_S = 30.0
RAW_BANNER = b"raw REPL; CTRL-B to exit\r\n"
END = b"\x04"


class _Port:
    """What SerialTransport takes for a serial port: reads that end with their bytes or in a TransportError."""

    def __init__(self, path: str, baud_rate: int) -> None:
        self.serial = _open(path, baud_rate)
        self.serial.timeout = 0.2
        self.serial.write_timeout = WRITE_WITHIN_S
        self.buffer = bytearray()

    def fill(self, deadline: float) -> bool:
        """Take in what has come, waiting for the first byte; False where nothing came in time."""
        while True:
            data = self.serial.read(max(1, self.serial.in_waiting))
            if data:
                self.buffer += data
                return True
            if time.monotonic() >= deadline:
                return False

    def read(self, count: int = 1) -> bytes:
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while len(self.buffer) < count:
            if not self.fill(deadline):
                raise TransportError(f"no answer within {ANSWER_WITHIN_S:.0f} s")
        return self.take(count)

    def take(self, count: int) -> bytes:
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def write(self, data: bytes) -> int:
        written: int = self.serial.write(data)
        return written

    def inWaiting(self) -> int:  # noqa: N802 - mpremote's name
        return len(self.buffer) or self.serial.in_waiting

    def close(self) -> None:
        self.serial.close()


def _open(path: str, baud_rate: int) -> serial.Serial:
    deadline = time.monotonic() + OPEN_WITHIN_S
    while True:
        try:
            return open_port(path, baud_rate)
        except RigError:
            if Path(path).exists() or time.monotonic() > deadline:
                raise
            time.sleep(0.05)  # nothing tells us when a port appears


class BoardPrompt(SerialTransport):
    """Use as a context manager: inside, the board stands at its raw prompt, unless `enter` is False."""

    def __init__(self, board: str, path: str, baud_rate: int = 115_200, *, enter: bool = True) -> None:
        # SerialTransport's own __init__ opens the port in its own way; these are the attributes that it sets.
        self.board = board
        self._enter = enter
        self.device_name = path
        self.in_raw_repl = False
        self.use_raw_paste = True
        self.mounted = False
        self.is_pty = False
        self.serial: Any = _Port(path, baud_rate)

    def __enter__(self) -> BoardPrompt:
        try:
            if self._enter:
                self.enter_raw_repl()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        # A board that starts anew may be gone already, and its port with it.
        with contextlib.suppress(OSError, serial.SerialException):
            if self.in_raw_repl:
                self.exit_raw_repl()
        self.close()

    def close(self) -> None:
        self.serial.close()

    def enter_raw_repl(self, soft_reset: bool = False, timeout_overall: float = PROMPT_WITHIN_S) -> None:
        """Interrupt what runs and get the raw prompt.

        Firmware reads the same bytes as the prompt, so what follows Ctrl-C may be swallowed: wait for the prompt first,
        and try again.
        """
        del soft_reset  # would end what is there to be looked at
        deadline = time.monotonic() + timeout_overall
        attempt_s = FIRST_ATTEMPT_S
        while time.monotonic() < deadline:
            self.serial.write(b"\r\x03")
            if self._wait_for((b">>> ", b"\n>"), attempt_s):
                self.serial.write(b"\r\x01")
                if self._wait_for((RAW_BANNER,), attempt_s):
                    self.in_raw_repl = True
                    return
            attempt_s *= 1.5
        raise self._no_prompt()

    def _no_prompt(self) -> RigError:
        return RigError(
            f"board {self.board} at {self.device_name} gives no prompt; is MicroPython on it, and has it power?"
        )

    def _wait_for(self, endings: tuple[bytes, ...], within_s: float) -> bool:
        """Skip up to and including the first of these that comes."""
        deadline = time.monotonic() + within_s
        buffer = self.serial.buffer
        while True:
            places = [(buffer.find(ending), len(ending)) for ending in endings if ending in buffer]
            if places:
                at, length = min(places)
                del buffer[: at + length]
                return True
            del buffer[: max(0, len(buffer) - 64)]
            if not self.serial.fill(deadline):
                return False

    def read_until(
        self,
        min_num_bytes: int,
        ending: bytes,
        timeout: float | None = START_WITHIN_S,
        data_consumer: Any = None,
        timeout_overall: float | None = None,
    ) -> bytes:
        """What comes up to and including `ending`, or until nothing more comes in time."""
        del min_num_bytes, timeout_overall
        buffer = self.serial.buffer
        searched = 0
        while True:
            at = buffer.find(ending, max(0, searched - len(ending)))
            if at >= 0:
                data: bytes = self.serial.take(at + len(ending))
                if data_consumer is not None:
                    data_consumer(data)
                return data
            searched = len(buffer)
            if not self.serial.fill(time.monotonic() + (ANSWER_WITHIN_S if timeout is None else timeout)):
                return bytes(self.serial.take(len(buffer)))

    def run(self, program: str) -> None:
        """Start a program at the raw prompt; its output follows."""
        for attempt in range(1, STARTS + 1):
            try:
                self.exec_raw_no_follow(program)
                return
            except TransportError:
                if attempt == STARTS:
                    raise
                self.enter_raw_repl(timeout_overall=PROMPT_WITHIN_S / 2)

    def run_at_once(self, program: str) -> None:
        """The same from wherever the board is, in one piece, for boards that make a sender wait.

        The prompt takes bytes one by one, and by the window where it must; a program reads what follows far quicker.
        """
        data = program.encode()
        start = f"import sys;exec(sys.stdin.buffer.read({len(data)}))".encode()
        deadline = time.monotonic() + PROMPT_WITHIN_S
        attempt_s = FIRST_ATTEMPT_S
        while time.monotonic() < deadline:
            self.serial.write(b"\r\x03")
            if self._wait_for((b">>> ", b"\n>"), attempt_s):
                self.serial.write(b"\r\x01" + start + END + data)
                if self._wait_for((RAW_BANNER + b">OK",), START_WITHIN_S):
                    self.in_raw_repl = True
                    return
            attempt_s *= 1.5
        raise self._no_prompt()

    def read_mark(self, mark: str) -> None:
        """One character that the program says."""
        byte = self._read_byte()
        if byte != mark.encode():
            rest = byte + self.read_until(1, b"\n", timeout=0.2)
            raise RigError(f"board {self.board}: unexpected answer {rest[:80]!r}", definite=False)

    def read_line(self) -> str:
        """One line of what the program says."""
        buffer = self.serial.buffer
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while (at := buffer.find(b"\n")) < 0 and END not in buffer:
            if not self.serial.fill(deadline):
                raise TransportError(f"no answer within {ANSWER_WITHIN_S:.0f} s")
        end = buffer.find(END, 0, at if at >= 0 else len(buffer))
        if end >= 0:
            del buffer[:end]
            self._read_byte()
        return bytes(self.serial.take(at + 1)).decode(errors="replace").strip()

    def _read_byte(self) -> bytes:
        """RigError with Python's own words where the program has failed."""
        byte: bytes = self.serial.read(1)
        if byte == END:
            error = self.read_until(1, END)[:-1].decode(errors="replace").strip()
            why = error.splitlines()[-1] if error else "the program ended early"
            raise RigError(f"board {self.board}: {why}", definite=False)
        return byte
