"""A board's console for people: its text on the terminal, keys to the board, frames for the host left out.

Must not talk to a board on its own account, other than to run what the user gave it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import termios
import tty
from collections.abc import Iterator

import serial
from brownout_node.transport.serial import HostDecoder
from mpremote.transport import TransportError

from .board_prompt import BoardPrompt
from .contracts import RigError
from .serial_cable import open_port

LEAVE = b"\x1d"  # Ctrl-]
QUIET_S = 0.5  # after the end of piped input, silence for so long ends the session
READ_BYTES = 4096


def execute(board: str, port: str, program: str, *, restart: bool = True) -> tuple[str, str]:
    """Run a program at the board's prompt: what it printed, and Python's complaint if it failed."""
    try:
        with BoardPrompt(board, port) as prompt:
            prompt.exec_raw_no_follow(program)
            output, error = prompt.follow(None)
            if restart:
                prompt.exit_raw_repl()
                prompt.serial.write(b"\x04")
    except (TransportError, serial.SerialException, OSError) as failure:
        raise RigError(f"board {board} at {port}: lost at its prompt: {failure}", definite=False) from failure
    return output.decode(errors="replace").replace("\r\n", "\n"), error.decode(errors="replace").replace("\r\n", "\n")


@contextlib.contextmanager
def _raw_keyboard() -> Iterator[None]:
    """Every key goes to the board, Ctrl-C included."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin, termios.TCSADRAIN)  # what was typed meanwhile is not thrown away
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def interact(board: str, port: str) -> None:
    """Join terminal and board until Ctrl-], the end of piped input, or the end of the cable."""
    opened = open_port(port, 115_200)
    try:
        with _raw_keyboard():
            # Only now is the key what it says: a terminal that waits for a whole line would keep it.
            print(f"console of {board}; Ctrl-] leaves it", end="\r\n", file=sys.stderr, flush=True)
            _join(opened)
    except (serial.SerialException, OSError) as error:
        raise RigError(f"board {board} at {port}: its port is gone ({error})") from error
    finally:
        opened.close()
    print(file=sys.stderr)


def _join(opened: serial.Serial) -> None:
    decoder = HostDecoder()
    with selectors.DefaultSelector() as selector:
        selector.register(opened.fileno(), selectors.EVENT_READ, "board")
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ, "keys")
        wait_s: float | None = None
        while events := selector.select(wait_s):
            for key, _mask in events:
                if key.data == "board":
                    _show(decoder, opened.read(max(1, opened.in_waiting)))
                    continue
                data = os.read(sys.stdin.fileno(), READ_BYTES)
                if LEAVE in data:
                    return
                if not data:
                    selector.unregister(sys.stdin.fileno())
                    wait_s = QUIET_S
                opened.write(data)


def _show(decoder: HostDecoder, data: bytes) -> None:
    """Print the text among the frames."""
    for is_frame, payload in decoder.feed(data):
        if not is_frame:
            sys.stdout.buffer.write(payload)
    sys.stdout.buffer.flush()
