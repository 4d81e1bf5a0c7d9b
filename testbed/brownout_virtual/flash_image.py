"""The flash of a virtual board as files of the host: the image (LittleFS, then the journal) and the control page.

Used while a board is off, except for the control page, which is how a running board's counters are read and a cut
inside a flash operation is armed. The layout of the page is rom/rom.py's. Must not interpret what the firmware
stores.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .process import LabError, find_program

BLOCK_BYTES = 4096
PAGE_BYTES = 256
ROM = Path(__file__).parent / "rom"
BUILD_WITHIN_S = 60.0
WAYS = ("none", "full", "fails", "sticks")  # in which erases and programs may go wrong; rom.py knows their places
NO_SPACE = "OSError: 28"  # how MicroPython says ENOSPC
MICROPYTHON_ADVICE = "install it with `pip install 'brownout[virtual]'`"


@dataclass(frozen=True)
class Geometry:
    """How the flash is divided; blocks of 4096 bytes, pages of 256."""

    filesystem_blocks: int = 256
    journal_blocks: int = 32

    def __post_init__(self) -> None:
        if self.filesystem_blocks < 16 or self.journal_blocks < 8:
            raise LabError("a board's flash needs at least 16 blocks of file system and 8 of journal (4096 bytes each)")

    @property
    def size_bytes(self) -> int:
        return (self.filesystem_blocks + self.journal_blocks) * BLOCK_BYTES

    def to_document(self) -> dict[str, int]:
        return {**asdict(self), "block_bytes": BLOCK_BYTES, "page_bytes": PAGE_BYTES}


def _builder(action: str, image: Path, geometry: Geometry, stdin: str = "") -> str:
    """Run rom/image.py: the interpreter that boards run knows their file system best."""
    micropython = find_program("micropython", MICROPYTHON_ADVICE)
    argv = [
        micropython,
        "-X",
        "heapsize=64M",
        str(ROM / "image.py"),
        action,
        str(image),
        str(geometry.filesystem_blocks),
    ]
    try:
        result = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=BUILD_WITHIN_S)
    except subprocess.TimeoutExpired:
        raise LabError(f"{image}: `micropython` did not finish within {BUILD_WITHIN_S} s") from None
    if result.returncode != 0:
        said = (result.stdout + result.stderr).strip().splitlines() or ["it said nothing"]
        reason = "the files do not fit" if said[-1] == NO_SPACE else said[-1]
        raise LabError(f"{image}: cannot {action} its file system: {reason}")
    return result.stdout


def create(path: Path, geometry: Geometry, files: Mapping[str, bytes] | None = None) -> None:
    """Make an image with an erased journal region and a LittleFS that holds `files` (name with folders -> content)."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(b"\xff" * geometry.size_bytes)
    try:
        _builder("make", fresh, geometry, json.dumps({name: data.hex() for name, data in (files or {}).items()}))
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def read_files(path: Path, geometry: Geometry) -> dict[str, bytes]:
    """Every file of an image's LittleFS, by name with folders."""
    _check_size(path, geometry)
    return {name: bytes.fromhex(data) for name, data in json.loads(_builder("read", path, geometry)).items()}


def _check_size(path: Path, geometry: Geometry) -> None:
    size = path.stat().st_size
    if size != geometry.size_bytes:
        raise LabError(
            f"{path} has {size} bytes, the board's flash {geometry.size_bytes}: start the lab with the sizes that it"
            " was made with, or with --erase to make all flash anew"
        )


def prepare(path: Path, geometry: Geometry, template: Path, *, erase: bool = False) -> None:
    """Give a board its flash: keep what is there, else (or with `erase`) copy the template, an empty image."""
    if erase or not path.exists():
        path.write_bytes(template.read_bytes())
        control_path(path).unlink(missing_ok=True)
    _check_size(path, geometry)


def wipe_journal(path: Path, geometry: Geometry) -> None:
    """Erase the journal's region, as a flasher's full erase would. Only while the board is off."""
    with path.open("r+b") as file:
        file.seek(geometry.filesystem_blocks * BLOCK_BYTES)
        file.write(b"\xff" * (geometry.journal_blocks * BLOCK_BYTES))


def headers(path: Path, geometry: Geometry) -> list[bytes]:
    """The first 16 bytes of each block of the journal's region."""
    first = geometry.filesystem_blocks
    with path.open("rb") as file:
        found = []
        for block in range(first, first + geometry.journal_blocks):
            file.seek(block * BLOCK_BYTES)
            found.append(file.read(16))
        return found


def flip(path: Path, geometry: Geometry, position: int, bit: int) -> tuple[int, int]:
    """Turn over a bit of the journal's region, as ageing does, also of a board at work; the byte before and after."""
    at = geometry.filesystem_blocks * BLOCK_BYTES + position
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        before = os.pread(file, 1, at)[0]
        os.pwrite(file, bytes([before ^ 1 << bit]), at)
        return before, os.pread(file, 1, at)[0]
    finally:
        os.close(file)


def control_path(image: Path) -> Path:
    return image.with_suffix(".control")


class ControlPage:
    """The page of counters, the armed cut and the clock's faults that a running board shares with its supervisor."""

    _ARMED = struct.Struct("<II")  # operation by its number since the flash was made (0: never), byte
    _COUNTS = struct.Struct("<IIII")
    _CLOCK = struct.Struct("<ii")  # parts per million too fast, milliseconds ahead
    _CLOCK_AT = _ARMED.size + _COUNTS.size
    # place in WAYS, sectors of the journal as bits, the journal's operation from which on, how many went wrong
    _REFUSE = struct.Struct("<IIII")
    _REFUSE_AT = _CLOCK_AT + _CLOCK.size
    # number of the wish (of 256) << 8 | KiB of heap to leave + 1 (0: all), and how many of it the boot ROM has taken
    _MEMORY = struct.Struct("<II")
    _MEMORY_AT = _REFUSE_AT + _REFUSE.size

    def __init__(self, image: Path) -> None:
        self.path = control_path(image)
        size = self._MEMORY_AT + self._MEMORY.size
        known = self.path.read_bytes() if self.path.exists() else b""
        if len(known) != size:  # one of an earlier release lacks what came later
            self.path.write_bytes(known[:size].ljust(size, b"\0"))
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._file)

    def _counts(self) -> tuple[int, ...]:
        return self._COUNTS.unpack(os.pread(self._file, self._COUNTS.size, self._ARMED.size))

    def counters(self) -> dict[str, Any]:
        """Programs and erases since the flash was made, in all and by part."""
        programs, erases, journal_programs, journal_erases = self._counts()
        return {
            "programs": programs + journal_programs,
            "erases": erases + journal_erases,
            "filesystem": {"programs": programs, "erases": erases},
            "journal": {"programs": journal_programs, "erases": journal_erases},
            "refused": self._REFUSE.unpack(os.pread(self._file, self._REFUSE.size, self._REFUSE_AT))[3],
        }

    def arm(self, operation: int, byte: int) -> None:
        """Cut power in the `operation`-th flash operation from now, after `byte` bytes of it; 0 disarms."""
        target = sum(self._counts()) + operation if operation else 0
        os.pwrite(self._file, self._ARMED.pack(target, byte if operation else 0), 0)

    def armed(self) -> dict[str, int] | None:
        """How many operations are left until the cut, and its byte; None where no cut is armed."""
        target, byte = self._ARMED.unpack(os.pread(self._file, self._ARMED.size, 0))
        return {"operation": max(1, target - sum(self._counts())), "byte": byte} if target else None

    def clock(self) -> dict[str, int]:
        """How wrong the board's clock is made to be."""
        ppm, ms = self._CLOCK.unpack(os.pread(self._file, self._CLOCK.size, self._CLOCK_AT))
        return {"ppm": ppm, "ms": ms}

    def set_clock(self, ppm: int, ms: int) -> None:
        """Let the clock run so much too fast and be so far ahead; the board obeys when it next looks at it."""
        os.pwrite(self._file, self._CLOCK.pack(ppm, ms), self._CLOCK_AT)

    def press(self, kib: int | None) -> None:
        """Let the board's ROM take up its heap but for so much, until a release (None) or the board's next start."""
        word, held = self._MEMORY.unpack(os.pread(self._file, self._MEMORY.size, self._MEMORY_AT))
        number = ((word >> 8) + 1) & 0xFF
        left = 0 if kib is None else kib + 1
        held = held if kib is None else 0
        os.pwrite(self._file, self._MEMORY.pack(number << 8 | left, held), self._MEMORY_AT)

    def held(self) -> int:
        """How many pieces of heap of 1 KiB were taken for the last press."""
        return int(self._MEMORY.unpack(os.pread(self._file, self._MEMORY.size, self._MEMORY_AT))[1])

    def refuse(self, way: str, sectors: int, after: int) -> None:
        """Let erases and programs of these sectors of the journal go wrong, from so many operations from now on."""
        first = sum(self._counts()[2:]) + after
        os.pwrite(self._file, self._REFUSE.pack(WAYS.index(way), sectors, first, 0), self._REFUSE_AT)
