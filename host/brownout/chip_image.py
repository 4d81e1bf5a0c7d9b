"""Writes an interpreter's image to boards of the ESP32 family by esptool: all at once, verified, failures by port.

    write_images([ImageTarget("b1", "/dev/serial/by-id/...", "esp32", Path("firmware.bin"))])

esptool runs as a process for each board: it keeps state of its own, and a port that hangs must not hold the others.
Must not touch a board's file system beyond what an image overwrites.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from .contracts import Progress, UsageError

WITHIN_S = 300.0
FAMILY = {
    "esp32": 0x1000,
    "esp32s2": 0x1000,
    "esp32s3": 0,
    "esp32c3": 0,
    "esp32c6": 0,
}  # chip -> where its image begins


@dataclass(frozen=True)
class ImageTarget:
    """One board in its boot loader. port: a path, or socket://HOST:PORT."""

    board: str
    port: str
    chip: str
    image: Path


@dataclass(frozen=True)
class ImageResult:
    board: str
    error: str | None = None


def quiet(what: str, done: int, total: int) -> None:
    """A Progress for those who want none."""


def write_images(targets: Sequence[ImageTarget], *, jobs: int = 8, progress: Progress = quiet) -> list[ImageResult]:
    """Write and verify all; the results are in the order of the targets, and failures in them."""
    for target in targets:
        if target.chip not in FAMILY:
            raise UsageError(f"board {target.board}: unknown chip {target.chip!r}; allowed: {', '.join(FAMILY)}")
        if not target.image.is_file():
            raise UsageError(f"board {target.board}: no image {target.image}")
    progress("writing images", 0, len(targets))
    with ThreadPoolExecutor(max(1, min(jobs, len(targets)))) as pool:
        running = [pool.submit(_write_one, target) for target in targets]
        for done, _job in enumerate(as_completed(running), 1):
            progress("writing images", done, len(targets))
    return [job.result() for job in running]


def command(target: ImageTarget, verb: str) -> list[str]:
    """esptool's arguments; `verb` is write-flash or verify-flash."""
    where = ["--chip", target.chip, "--port", target.port, "--before", "no-reset", "--after", "no-reset"]
    return [sys.executable, "-m", "esptool", *where, verb, hex(FAMILY[target.chip]), str(target.image)]


def _write_one(target: ImageTarget) -> ImageResult:
    for verb in ("write-flash", "verify-flash"):
        try:
            result = subprocess.run(
                command(target, verb), capture_output=True, text=True, check=False, timeout=WITHIN_S,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return ImageResult(
                target.board, f"board {target.board} at {target.port}: {verb} took over {WITHIN_S:.0f} s"
            )
        if result.returncode:
            lines = (result.stderr.strip() or result.stdout.strip() or "esptool said nothing").splitlines()
            return ImageResult(target.board, f"board {target.board} at {target.port}: {verb}: {lines[-1]}")
    return ImageResult(target.board)
