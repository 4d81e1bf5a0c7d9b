"""Flashes boards through their serial ports, many at once: unchanged files are skipped, written ones verified.

The order keeps a board that loses power meanwhile harmless: files, then the journal's genesis, then config.json.
Genesis is written where nobody has promised anything yet: on the first flash, for another cluster or another board
number, or when asked. Must not decide what a board runs, only put it there.
"""

from __future__ import annotations

import hashlib
import json
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import serial
from mpremote.transport import TransportError

from .board_prompt import BoardPrompt
from .contracts import Progress, RigError
from .firmware_build import Firmware, FirmwareFile
from .flash_program import LOOK, SERVE, WRITE
from .rig import Model

WORKERS = 32  # at once: a board at the end of a real cable mostly waits for it
RESCUES = 2
SETTLE_S = 1.5  # a board has booted by then, and interrupting it is safe again
CONFIG = "config.json"
BLOCK, ORDER = ".", "line"  # how the board answers


@dataclass(frozen=True)
class FlashTarget:
    """One board to be flashed. config: its config.json."""

    board: str
    port: str
    model: Model
    firmware: Firmware
    config: Mapping[str, Any]


@dataclass
class FlashResult:
    """What was done to one board, or why not."""

    board: str
    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    sent_bytes: int = 0
    genesis: bool = False
    duration_s: float = 0.0
    error: str | None = None


def quiet(what: str, done: int, total: int) -> None:
    """A Progress for those who want none."""


def flash(
    targets: Sequence[FlashTarget],
    *,
    genesis: str = "first",
    reset: bool = True,
    rescue: Callable[[str], None] | None = None,
    progress: Progress = quiet,
    workers: int = WORKERS,
) -> list[FlashResult]:
    """Flash all targets; the results are in their order, and failures in them.

    genesis: "first", "always" or "never". reset: start the boards anew afterwards, or leave them at the prompt.
    rescue: brings a board that hangs back to life (a reset, a power cycle); it is then tried again. MicroPython's unix
    port, for one, locks up now and then when it is interrupted while it allocates memory, as it does while it boots.
    progress: called with "flashing" and the number of boards that are done.
    """
    progress("flashing", 0, len(targets))
    with ThreadPoolExecutor(max(1, min(workers, len(targets)))) as pool:
        jobs = {pool.submit(_flash_one, target, genesis, reset, rescue): target for target in targets}
        for done, _job in enumerate(as_completed(jobs), 1):
            progress("flashing", done, len(targets))
    return [job.result() for job in jobs]


def raise_failures(results: Sequence[FlashResult]) -> None:
    """RigError that names every board which could not be flashed."""
    failed = [result for result in results if result.error]
    if failed:
        raise RigError("; ".join(str(result.error) for result in failed), definite=False)


def config_file(config: Mapping[str, Any]) -> FirmwareFile:
    """The bytes of a board's config.json, the same for the same configuration."""
    data = (json.dumps(config, sort_keys=True, separators=(",", ":")) + "\n").encode()
    return FirmwareFile(CONFIG, data, hashlib.sha256(data).hexdigest())


def _flash_one(
    target: FlashTarget, genesis: str, reset: bool, rescue: Callable[[str], None] | None = None
) -> FlashResult:
    began = time.monotonic()
    result = _try(target, genesis, reset)
    for _ in range(RESCUES):
        if rescue is None or not result.error or result.sent_bytes or not Path(target.port).exists():
            break
        try:
            rescue(target.board)
        except RigError as error:
            result.error = f"{result.error}; and it could not be rescued: {error}"
            break
        time.sleep(SETTLE_S)
        result = _try(target, genesis, reset)
    result.duration_s = time.monotonic() - began
    return result


def _try(target: FlashTarget, genesis: str, reset: bool) -> FlashResult:
    result = FlashResult(target.board)
    try:
        with BoardPrompt(target.board, target.port, target.model.baud_rate, enter=False) as prompt:
            Session(prompt, target, result).run(genesis, reset)
    except RigError as error:
        text = str(error)
        result.error = text if target.board in text else f"board {target.board}: {text}"
    except (TransportError, serial.SerialException, OSError) as error:
        result.error = f"board {target.board} at {target.port}: lost while it was flashed ({error}); flash it again"
    return result


class Session:
    """One board at its raw prompt, with our program running on it."""

    def __init__(self, prompt: BoardPrompt, target: FlashTarget, result: FlashResult) -> None:
        self.prompt = prompt
        self.target = target
        self.result = result
        self._files: dict[str, tuple[int, str]] = {}
        self._can_write = False  # the part of the program that writes is there
        self._under_way: deque[tuple[int, str, FirmwareFile | None]] = deque()  # bytes, the answer's kind, its file
        self._under_way_bytes = 0

    def run(self, genesis: str, reset: bool) -> None:
        if self.target.model.window_bytes > len(LOOK + SERVE):
            self.prompt.run_at_once(LOOK + SERVE)
        else:
            self.prompt.enter_raw_repl()
            self.prompt.run(LOOK + WRITE + SERVE)
            self._can_write = True
        self._look()
        wanted = self.target.firmware.files
        config = config_file(self.target.config)
        paths = {file.path for file in wanted} | {CONFIG}
        for path in sorted(set(self._files) - paths):
            self._write(_order(f"d {path}"))
            self.result.removed.append(path)
        for file in wanted:
            self._put(file)
        if genesis == "always" or (genesis == "first" and not self._has(config) and self._is_new()):
            self._write(_order(f"g {self.target.config['cluster']} {self.target.config['board']}"))
            self.result.genesis = True
        self._put(config)
        self._send(_order("b" if reset else "x"), ORDER)
        self._take_answers()
        self.prompt.in_raw_repl = not reset

    def _look(self) -> None:
        """Read what is on the board."""
        while True:
            words = self.prompt.read_line().split(" ")
            if words[0] == "f" and len(words) == 4:
                self._files[words[1]] = (int(words[2]), words[3])
            elif words == ["r"]:
                return
            elif words != [""]:
                raise RigError(f"board {self.target.board}: unexpected answer {' '.join(words)[:80]!r}", definite=False)

    def _has(self, file: FirmwareFile) -> bool:
        return self._files.get(file.path) == (len(file.data), file.sha256)

    def _is_new(self) -> bool:
        """Whether the board, as the configuration that was there says, has promised nothing to this cluster."""
        if CONFIG not in self._files:
            return True
        self._can_write_now()
        self._take_answers()
        self.prompt.serial.write(_order("i"))
        return self.prompt.read_line().split(" ") != [
            "ok",
            *(str(self.target.config[key]) for key in ("cluster", "board")),
        ]

    def _put(self, file: FirmwareFile) -> None:
        """Write one file, unless the board has it."""
        if self._has(file):
            self.result.unchanged += 1
            return
        self._can_write_now()
        block = self.target.model.block_bytes // 3 * 3
        blocks = [b64encode(file.data[at : at + block]) for at in range(0, len(file.data), block)]
        head = _order(f"w {len(file.data)} {block} {file.path}")
        for number, encoded in enumerate(blocks):
            self._send(encoded if number else head + encoded, BLOCK)
        self._send(b"" if blocks else head, ORDER, file)
        self.result.written.append(file.path)

    def _write(self, order: bytes) -> None:
        """Send an order of the part that writes."""
        self._can_write_now()
        self._send(order, ORDER)

    def _can_write_now(self) -> None:
        """Bring the part of the program that writes, if it is not there yet."""
        if not self._can_write:
            self._can_write = True
            self._send(_order(f"p {len(WRITE)}") + WRITE.encode(), ORDER)

    def _take_answers(self) -> None:
        while self._under_way:
            self._take_answer()

    def _send(self, data: bytes, answer: str, file: FirmwareFile | None = None) -> None:
        """Send once there is room for it on the way; its answer is taken later."""
        while self._under_way and self._under_way_bytes + len(data) > self.target.model.window_bytes:
            self._take_answer()
        if data:
            self.prompt.serial.write(data)
        self._under_way.append((len(data), answer, file))
        self._under_way_bytes += len(data)
        self.result.sent_bytes += len(data)

    def _take_answer(self) -> None:
        """Take the answer to the oldest thing under way, and see that the board holds what it was sent."""
        size, answer, file = self._under_way.popleft()
        self._under_way_bytes -= size
        if answer == BLOCK:
            self.prompt.read_mark(BLOCK)
            return
        words = self.prompt.read_line().split(" ")
        wanted = ["ok"] if file is None else ["ok", str(len(file.data)), file.sha256]
        if words != wanted:
            what = (
                f"{file.path} reads back as something else" if file else f"unexpected answer {' '.join(words)[:80]!r}"
            )
            raise RigError(f"board {self.target.board}: {what}; is its flash worn?", definite=False)


def _order(text: str) -> bytes:
    return f"{len(text):04d}{text}".encode()
