"""A virtual lab for tests, which ends with the test whatever happens, and the host's side of a board's cable."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from brownout_virtual.flash_image import Geometry, create
from mqtt_bed import wait_until

WITHIN_S = 20.0
MPREMOTE = str(Path(sys.executable).with_name("mpremote"))
MODULE = (sys.executable, "-m", "brownout_virtual.lab")


Files = dict[str, dict[str, bytes]]  # board -> name -> content


class LabFailure(Exception):
    """The lab did not start."""


class Lab:
    """A lab in the foreground whose owner is this process. `files`: what each board's file system holds
    at first; `flash`: a folder of flash that an earlier lab left."""

    def __init__(
        self, folder: Path, boards: str, *options: str, files: Files | None = None, flash: Path | None = None
    ) -> None:
        self.folder = folder
        if flash is not None:
            shutil.copytree(flash, folder / "flash")
        (folder / "flash").mkdir(parents=True, exist_ok=True)
        for board, content in (files or {}).items():
            create(folder / "flash" / f"{board}.bin", Geometry(), content)
        theirs, ours = os.pipe()
        self.owner: int | None = ours
        command = [*MODULE, "up", "--directory", str(folder), "--boards", boards, "--owner-fd", str(theirs), *options]
        self.process = subprocess.Popen(
            command, pass_fds=(theirs,), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        os.close(theirs)
        assert self.process.stdout is not None
        self.progress: list[str] = []
        self.errors = ""
        for line in self.process.stdout:
            self.progress.append(line.strip())
            if line.startswith("ready "):
                break
        else:
            self.close()
            raise LabFailure(self.errors)
        self.document: dict[str, Any] = json.loads((folder / "lab.json").read_text())

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.folder / "bin" / "labctl"), *words], capture_output=True, text=True, timeout=WITHIN_S, check=False
        )

    def labctl(self, *words: str) -> Any:
        result = self.command(*words)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def state(self, board: str) -> dict[str, Any]:
        return self.labctl("power", "state", board)[board]

    def mpremote(self, board: str, *words: str) -> str:
        port = str(self.folder / "serial" / board)
        result = subprocess.run(
            [MPREMOTE, "connect", port, "resume", *words], capture_output=True, text=True, timeout=WITHIN_S, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def close(self) -> None:
        """Let go of it, and see it end."""
        if self.owner is None:
            return
        os.close(self.owner)
        self.owner = None
        self.errors += self.process.communicate(timeout=WITHIN_S)[1]


class Port:
    """A board's serial port, open."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self.heard = b""

    def read_until(self, what: bytes, within_s: float = WITHIN_S) -> bytes:
        """Everything up to and including `what`."""
        deadline = time.monotonic() + within_s
        while what not in self.heard:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._file], [], [], left)[0]:
                raise AssertionError(f"not heard within {within_s} s: {what!r}; heard {self.heard[-2000:]!r}")
            self.heard += os.read(self._file, 65536)
        before, _, self.heard = self.heard.partition(what)
        return before + what

    def write(self, data: bytes) -> None:
        while data:
            if not select.select([], [self._file], [], WITHIN_S)[1]:
                raise AssertionError("the port takes no more bytes")
            data = data[os.write(self._file, data[:4096]) :]

    def drain(self) -> None:
        """Forget what has come so far."""
        while select.select([self._file], [], [], 0)[0]:
            os.read(self._file, 65536)
        self.heard = b""

    def is_silent(self, for_s: float) -> bool:
        return not select.select([self._file], [], [], for_s)[0]

    def ended(self) -> bool:
        """Whether the line has ended, as when a cable is pulled."""
        try:
            return not select.select([self._file], [], [], WITHIN_S)[0] or os.read(self._file, 65536) == b""
        except OSError:
            return True

    def close(self) -> None:
        os.close(self._file)


def is_gone(pid: int) -> bool:
    """Whether no such process runs; one that nobody has reaped yet does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def see_gone(pids: list[int]) -> None:
    for pid in pids:
        wait_until(lambda pid=pid: is_gone(pid), f"process {pid} is gone", WITHIN_S)
