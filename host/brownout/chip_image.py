"""Writes images to boards: the ESP32 family by esptool, RP2 boards by picotool; many at once, verified.

    write_images([ImageTarget("b1", "/dev/serial/by-id/...", "esp32", Path("firmware.bin"))])

A tool runs as a process for each board: it keeps state of its own, and a port that hangs must not hold the others.
`done` remembers which boards have which image, so that what broke off goes on where it stopped. Must not touch a
board's flash beyond what an image overwrites.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from .contracts import Progress, RigError, UsageError

WITHIN_S = 300.0
FAMILY = {
    "esp32": 0x1000,
    "esp32s2": 0x1000,
    "esp32s3": 0,
    "esp32c3": 0,
    "esp32c6": 0,
}  # chip -> where its image begins
PICO = ("rp2040", "rp2350")


@dataclass(frozen=True)
class ImageTarget:
    """One board. port: a path or socket://HOST:PORT; of an RP2 board its USB serial number.

    offset: where the image goes, if not where the chip's own begins. reset: get the board into its boot loader and out
    of it, by DTR and RTS or over USB; else it is there already and stays.
    """

    board: str
    port: str
    chip: str
    image: Path
    offset: int | None = None
    reset: bool = False


@dataclass(frozen=True)
class ImageResult:
    board: str
    error: str | None = None
    skipped: bool = False  # it has this image already


class Done:
    """Which board was given which image, in a file beside the rig. A board counts once it was verified, not before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._digests: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            if not isinstance(self._digests, dict):
                raise ValueError("it is no table")
        except (OSError, ValueError) as error:
            raise RigError(f"{path} cannot be read ({error}); remove it, and every board is written again") from None

    @staticmethod
    def digest(target: ImageTarget) -> str:
        place = f"{target.chip} {target.offset} ".encode()
        return hashlib.sha256(place + target.image.read_bytes()).hexdigest()

    def has(self, target: ImageTarget) -> bool:
        return self._digests.get(_place(target)) == self.digest(target)

    def forget(self, target: ImageTarget) -> None:
        self._put(target, None)

    def keep(self, target: ImageTarget) -> None:
        self._put(target, self.digest(target))

    def _put(self, target: ImageTarget, digest: str | None) -> None:
        with self._lock:
            self._digests.pop(_place(target), None)
            if digest is not None:
                self._digests[_place(target)] = digest
            draft = self.path.with_name(f".{self.path.name}.new")
            draft.write_text(json.dumps(self._digests, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            draft.replace(self.path)


def _place(target: ImageTarget) -> str:
    return f"{target.board} {'image' if target.offset is None else hex(target.offset)}"


def quiet(what: str, done: int, total: int) -> None:
    """A Progress for those who want none."""


def write_images(
    targets: Sequence[ImageTarget], *, jobs: int = 8, progress: Progress = quiet, done: Done | None = None
) -> list[ImageResult]:
    """Write and verify all; the results are in the order of the targets, and failures in them."""
    for target in targets:
        if target.chip not in (*FAMILY, *PICO):
            raise UsageError(
                f"board {target.board}: unknown chip {target.chip!r}; allowed: {', '.join((*FAMILY, *PICO))}"
            )
        if not target.image.is_file():
            raise UsageError(f"board {target.board}: no image {target.image}")
    progress("writing images", 0, len(targets))
    with ThreadPoolExecutor(max(1, min(jobs, len(targets)))) as pool:
        running = [pool.submit(_write_or_skip, target, done) for target in targets]
        for count, _job in enumerate(as_completed(running), 1):
            progress("writing images", count, len(targets))
    return [job.result() for job in running]


def command(target: ImageTarget, verb: str) -> list[str]:
    """esptool's arguments; `verb` is write-flash or verify-flash."""
    before, after = ("default-reset", "hard-reset") if target.reset else ("no-reset", "no-reset")
    where = ["--chip", target.chip, "--port", target.port, "--before", before, "--after", after]
    offset = FAMILY[target.chip] if target.offset is None else target.offset
    return [sys.executable, "-m", "esptool", *where, verb, hex(offset), str(target.image.absolute())]


def picotool_command(target: ImageTarget) -> list[str]:
    """picotool's arguments (https://github.com/raspberrypi/picotool): load, verify, and start the board again."""
    kind = "uf2" if target.image.suffix == ".uf2" else "bin"
    where = [] if target.offset is None else ["-o", hex(target.offset)]
    board = ["--ser", target.port, *(["-f"] if target.reset else [])]
    return ["picotool", "load", "-v", "-x", str(target.image.absolute()), "-t", kind, *where, *board]


def _write_or_skip(target: ImageTarget, done: Done | None) -> ImageResult:
    if done is None:
        return _write_one(target)
    if done.has(target):
        return ImageResult(target.board, skipped=True)
    done.forget(target)  # from here on it may hold half an image
    result = _write_one(target)
    if result.error is None:
        done.keep(target)
    return result


def _write_one(target: ImageTarget) -> ImageResult:
    verbs = {"load": picotool_command(target)} if target.chip in PICO else {
        verb: command(target, verb) for verb in ("write-flash", "verify-flash")
    }  # fmt: skip
    for verb, argv in verbs.items():
        try:
            result = subprocess.run(
                argv, capture_output=True, text=True, check=False, timeout=WITHIN_S,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            return ImageResult(target.board, f"board {target.board}: {argv[0]} does not start ({error})")
        except subprocess.TimeoutExpired:
            return ImageResult(
                target.board, f"board {target.board} at {target.port}: {verb} took over {WITHIN_S:.0f} s"
            )
        if result.returncode:
            lines = (result.stderr.strip() or result.stdout.strip() or "the tool said nothing").splitlines()
            return ImageResult(target.board, f"board {target.board} at {target.port}: {verb}: {lines[-1]}")
    return ImageResult(target.board)
