"""The supervisor of one virtual board: its power, its reset pin, and the process that is its processor.

Power that goes off is SIGKILL, and the kernel is asked what became of the process; power on is a new process, which
boots from the flash. The firmware's own wishes (power_off, reset, a cut inside a flash operation) come through a
pipe from the boot ROM. Must not know what runs on the board, and must not keep alive what asked to die.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cable import Cable, board_terminal
from .flash_image import ControlPage, Geometry, flip, headers, wipe_journal
from .process import REAP_WITHIN_S, LabError, describe_exit, process_state, spawn

# An interpreter that ends at once, again and again, must not eat the machine.
RESTART_AFTER_S = 0.2
# Without its ROM a board must not fall to a prompt: that one would be in the host's files.
BOOT = """\
try:
    import rom
    rom.start(rom.sys.argv)
except Exception as error:
    print("no boot ROM:", repr(error))
    raise SystemExit(1)
rom.run(globals())
"""


@dataclass(frozen=True)
class ChipModel:
    """What all boards of a lab have in common."""

    micropython: str
    rom: Path  # folder with the compiled rom.mpy
    geometry: Geometry
    heap_bytes: int
    real_timings: bool


class Chip:
    """One board. Everything is called from the event loop's thread."""

    def __init__(self, name: str, model: ChipModel, image: Path, port: Path, prefix: tuple[str, ...] = ()) -> None:
        """prefix: words before the interpreter's, such as those that enter a network namespace."""
        self._prefix = prefix
        self.name = name
        self.model = model
        self.image = image
        self.control = ControlPage(image)
        self.cable = Cable(port)
        self.cable.plug()
        self.on = False
        self.starts = 0
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None  # what the boot ROM says
        self._said = b""
        self._started_at = 0.0
        self._restart: asyncio.TimerHandle | None = None
        self._cause = "power on"
        self._exit: str | None = None
        self._cut: dict[str, Any] | None = None
        self._fault: str | None = None

    # Power.

    def power_on(self, cause: str = "power on") -> None:
        """Switch on; nothing happens where power is on already."""
        if self.on:
            return
        self.on = True
        self._start(cause)

    def pull(self) -> None:
        """Take power away without waiting; `power_off` must follow. So that many boards lose it in one moment."""
        self.on = False
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)

    def power_off(self) -> None:
        """Switch off and see the process gone."""
        self.pull()
        self._bury(powered=False)

    def reset(self, cause: str = "reset") -> None:
        """Pull the reset pin: the board starts anew and never loses its supply. Only while it has one."""
        self.pull()
        self.on = True
        self._bury(powered=True)
        self._start(cause)

    def _start(self, cause: str) -> None:
        master, slave = board_terminal()
        pipe, pipe_end = os.pipe()
        os.set_blocking(pipe, False)
        flash = os.open(self.image, os.O_RDWR | os.O_CLOEXEC)
        control = os.open(self.control.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._process = spawn(
                self._command(flash, control, pipe_end, cause),
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={"MICROPYPATH": ".frozen", "PATH": os.defpath, "TERM": "dumb"},
                folder=self.model.rom,
                pass_fds=(flash, control, pipe_end),
                terminal=True,
            )
        except OSError as error:
            os.close(master)
            os.close(pipe)
            self.on = False
            raise LabError(f"{self.name} does not start: {self.model.micropython}: {error.strerror}") from error
        finally:
            terminal = os.ttyname(slave)
            for file in (slave, pipe_end, flash, control):
                os.close(file)
        self.starts += 1
        self._cause = cause
        self._fault = None
        self._started_at = self._loop.time()
        self._pipe, self._said = pipe, b""
        self._loop.add_reader(pipe, self._listen)
        self.cable.attach(master, terminal, self._process.pid)

    def _command(self, flash: int, control: int, pipe: int, cause: str) -> list[str]:
        model, geometry = self.model, self.model.geometry
        numbers = (flash, control, pipe, geometry.filesystem_blocks, geometry.journal_blocks, int(model.real_timings))
        command = [*self._prefix, model.micropython, "-X", f"heapsize={model.heap_bytes}", "-i", "-c", BOOT]
        return [*command, *map(str, numbers), str(model.heap_bytes), cause]

    def _bury(self, *, powered: bool) -> None:
        """Wait for the killed or ended process, keep how it ended, and close what belonged to it."""
        if self._process is not None:
            self._exit = describe_exit(self._process.wait(REAP_WITHIN_S))
            self._process = None
        if self._pipe is not None:
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = None
        self.cable.detach(powered=powered)

    # What happens on the board by itself.

    def _listen(self) -> None:
        assert self._pipe is not None
        data = os.read(self._pipe, 4096)
        if not data:
            self._loop.remove_reader(self._pipe)
            return
        self._said += data
        *lines, self._said = self._said.split(b"\n")
        for line in lines:  # "ready" first; what follows ends the process, and is the last it says
            what, _, rest = line.decode(errors="replace").partition(" ")
            self._obey(what, rest)

    def _obey(self, what: str, rest: str) -> None:
        if what == "ready":
            self.cable.listen()
        elif what == "cut":
            operation, part, at, done, size = rest.split()
            self.power_off()
            self.control.arm(0, 0)
            self._cut = {"operation": operation, "part": part, "at": int(at), "bytes": int(done), "of": int(size)}
            self._cut["start"] = self.starts
        elif what == "off":
            self.power_off()
        elif what == "reset":
            self.reset(rest)
        elif what == "fault":
            self._fault = rest

    def check(self) -> None:
        """A child has ended; if it was this board's, by itself, the board boots again as after a soft reset."""
        if self._process is None or self._process.poll() is None:
            return
        self._bury(powered=True)
        wait_s = RESTART_AFTER_S - (self._loop.time() - self._started_at)
        self._restart = self._loop.call_later(max(0.0, wait_s), self._start_again)

    def _start_again(self) -> None:
        self._restart = None
        self._start("reset")

    # Flash, state, end.

    def arm_cut(self, operation: int, byte: int) -> None:
        """Lose power inside the `operation`-th flash operation from now, after `byte` bytes; 0 disarms."""
        self._cut = None
        self.control.arm(operation, byte)

    def wipe_journal(self) -> None:
        if self.on:
            raise LabError(
                f"{self.name} has power: its journal is only wiped while it is off (`power off {self.name}`)"
            )
        wipe_journal(self.image, self.model.geometry)

    def headers(self) -> list[bytes]:
        return headers(self.image, self.model.geometry)

    def flip(self, position: int, bit: int) -> tuple[int, int]:
        return flip(self.image, self.model.geometry, position, bit)

    def state(self) -> dict[str, Any]:
        """What the switch, the kernel and the flash say."""
        pid = self._process.pid if self._process is not None else None
        return {
            "on": self.on,
            "pid": pid,
            "process": process_state(pid),
            "starts": self.starts,
            "exit": self._exit,
            "reset_cause": self._cause,
            "flash": self.control.counters(),
            "held": self.control.held(),
            "armed": self.control.armed(),
            "cut": self._cut,
            "fault": self._fault,
        }

    def close(self) -> None:
        self.power_off()
        self.cable.close()
        self.control.close()
