"""What the measurements share: a folder that goes away, the firmware built as for a board, MicroPython, beds, CPU time.

Must not measure by itself, and must not leave a process behind.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from ..bed import Bed
from ..contracts import Progress, RigError
from ..drivers.virtual_lab import LabOptions, VirtualLab
from ..firmware_build import build
from ..protocols import DEFAULT
from ..resources import firmware_directory, firmware_package
from ..rig import PlannedBoard, load_model, load_rig

ON_BOARD = Path(__file__).with_name("on_board")
HEAP = "224k"
LOADED = ("stake", "mirror", "sampling")  # what scripts load beside the first three
VOTERS = 5
SEED = 1
COMMANDS = 1500  # that five replicas decide


def find_micropython() -> str:
    """The interpreter that `pip install` put beside python, or the one on the path."""
    beside = Path(sys.executable).with_name("micropython")
    found = str(beside) if beside.exists() else shutil.which("micropython")
    if found is None:
        raise RigError("no `micropython`: install it with `pip install 'brownout[virtual]'`")
    return found


def known(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that are given."""
    return {name: value for name, value in settings.items() if value is not None}


class Workbench:
    """A context manager: everything that it started ends with it."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._stack = ExitStack()
        self._beds: dict[str, Bed] = {}
        self._replicas: Any = None

    def __enter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="brownout-bench-")))
        try:
            self.micropython = find_micropython()
            self.compiled = self.folder / "compiled"
            for file in build(load_model("virtual"), protocols=(*DEFAULT, *LOADED), whole=True).files:
                target = self.compiled / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.data)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    # One MicroPython.

    def script_command(self, script: str, *words: object, heap: str = HEAP) -> list[str]:
        return [
            self.micropython,
            "-X",
            f"heapsize={heap}",
            str(ON_BOARD / script),
            str(self.compiled),
            *map(str, words),
        ]

    def run(self, script: str, *words: object, heap: str = HEAP, within_s: float = 180.0) -> Any:
        """Run one script of on_board/ with the compiled firmware on its path; its last line is a literal of Python."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            command = self.script_command(script, *words, heap=heap)
            try:
                done = subprocess.run(
                    command,
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    timeout=within_s,
                    check=False,
                    stdin=subprocess.DEVNULL,
                )
            except subprocess.TimeoutExpired:
                raise RigError(f"{script} did not end within {within_s:.0f} s") from None
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines() or ["nothing"]
            raise RigError(f"{script} failed on MicroPython: {' / '.join(lines[-4:])}")
        return ast.literal_eval(done.stdout.strip().splitlines()[-1])

    def replicas(self) -> Any:
        """What replicas.py found; run once."""
        if self._replicas is None:
            self.progress("five replicas in lockstep", 0, 1)
            self._replicas = self.run("replicas.py", COMMANDS, heap="16m")
            self.progress("five replicas in lockstep", 1, 1)
        return self._replicas

    # Labs and beds.

    def lab(self, *boards: str) -> VirtualLab:
        """A lab of boards that are not flashed."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        lab = VirtualLab.start(folder, LabOptions(boards=boards, local_gateway=True))
        self._stack.callback(lab.close)
        return lab

    def firmware_with_nulls(self) -> Path:
        """The firmware as sources, and the null protocols among its modules."""
        folder = self.folder / "null-firmware"
        if not folder.exists():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(firmware_package(), folder / "brownout_node", ignore=ignored)
            for name in ("boot.py", "main.py"):
                shutil.copy(firmware_directory() / name, folder)
            for name in ("null_vote.py", "null_byzantine.py", "null_commit.py"):
                shutil.copy(ON_BOARD / name, folder / "brownout_node" / "core")
        return folder

    def make_bed(
        self,
        name: str,
        boards: int,
        *,
        voters: int = VOTERS,
        protocols: tuple[str, ...] | None = None,
        timing: dict[str, int] | None = None,
        options: dict[str, dict[str, int]] | None = None,
        firmware: Path | None = None,
        kind: type[Bed] = Bed,
    ) -> Bed:
        """A bed of virtual boards that is not up yet."""
        folder = self.folder / name
        folder.mkdir()
        planned = [
            PlannedBoard(number, f"b{number}", 1 if number <= voters else 0, "mqtt", "virtual")
            for number in range(1, boards + 1)
        ]
        return kind(
            load_rig("virtual"),
            planned,
            directory=folder,
            cluster=7,
            seed=SEED,
            settings={**(timing or {}), **known({"protocols": protocols, "options": options})},
            firmware=firmware,
            progress=self.progress,
        )

    def bed(self, name: str, boards: int, **options: Any) -> Bed:
        """A bed that is up, and stays so until `close_bed` or the end; asked for again, the same one."""
        if name not in self._beds:
            self._beds[name] = self.make_bed(name, boards, **options).__enter__()
            self._stack.callback(self.close_bed, name)
        return self._beds[name]

    def close_bed(self, name: str) -> None:
        bed = self._beds.pop(name, None)
        if bed is not None:
            bed.__exit__(None, None, None)


# CPU time.


def _processes() -> dict[int, tuple[int, float]]:
    """pid -> (parent, seconds of CPU of it and of its children that have ended), of every process that can be read."""
    ticks = os.sysconf("SC_CLK_TCK")
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            found[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15])) / ticks
    return found


def tree_cpu_s(root: int) -> float:
    """Seconds of CPU that a process and all its descendants have used."""
    processes = _processes()
    family = {root}
    while True:
        more = {pid for pid, (parent, _) in processes.items() if parent in family} - family
        if not more:
            return sum(processes[pid][1] for pid in family if pid in processes)
        family |= more


def machine() -> str:
    """What the figures were measured on; a busy machine makes all times longer."""
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, load average {load:.1f}, CPython {sys.version.split()[0]}"
