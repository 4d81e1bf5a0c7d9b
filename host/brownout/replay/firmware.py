"""Replays a run with the very code that its boards ran: that of this Python, or the one in the run's folder.

Another firmware needs another Python process, for protocols are imported once: `in_place` says whether this one will
do, `run_with` starts one that will. Must not touch the installed firmware.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .. import resources
from ..contracts import UsageError
from . import tap

STARTED = "BROWNOUT_FIRMWARE_OF"  # names the run to the process that was started for it


def in_place(folder: Path) -> bool:
    """Whether the firmware that this Python imports is the one that the boards of the run had."""
    if os.environ.get(STARTED) == str(folder.resolve()):
        return True
    return bool(tap.read_boards(folder)["source"] == tap.source_hash(tap.source_files(resources.firmware_package())))


def is_recorded(folder: Path) -> bool:
    return (folder / tap.FOLDER / tap.BOARDS).exists()


def run_with(folder: Path, arguments: Sequence[str]) -> int:
    """Run `brownout ARGUMENTS` with the firmware that lies in a run's folder; its exit code."""
    archive = folder / tap.FOLDER / tap.FIRMWARE
    if not archive.exists():
        raise UsageError(f"{archive} is missing, and this version's firmware is not the one that the boards ran")
    with tempfile.TemporaryDirectory(prefix="brownout-firmware-") as place:
        with zipfile.ZipFile(archive) as files:
            files.extractall(place)
        path = os.pathsep.join([place, *filter(None, [os.environ.get("PYTHONPATH")])])
        script = "import sys; from brownout.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", script, *arguments]
        environment = {**os.environ, "PYTHONPATH": path, STARTED: str(folder.resolve())}
        return subprocess.run(command, env=environment, check=False).returncode
