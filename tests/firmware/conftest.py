"""What firmware tests share: the real MicroPython interpreter, and running a script in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FIRMWARE = Path(__file__).resolve().parent.parent.parent / "firmware"
STANDINS = Path(__file__).resolve().parent / "standins"


@pytest.fixture(scope="session")
def micropython() -> str:
    """The path of the interpreter, which `pip install` put beside python."""
    beside = Path(sys.executable).with_name("micropython")
    found = str(beside) if beside.exists() else shutil.which("micropython")
    assert found, "no micropython: install the extra `virtual`"
    return found


@pytest.fixture
def run_micropython(micropython: str, tmp_path: Path) -> Callable[..., str]:
    """run(script) runs it with the firmware on its path, in an empty folder; returns what it printed."""

    def run(script: str, *, standins: bool = False, check: bool = True) -> str:
        path = [str(FIRMWARE)] + ([str(STANDINS)] if standins else [])
        head = f"import sys\nsys.path[:0] = {path!r}\n"
        file = tmp_path / "script.py"
        file.write_text(head + script)
        done = subprocess.run(
            [micropython, str(file)], cwd=tmp_path, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run
