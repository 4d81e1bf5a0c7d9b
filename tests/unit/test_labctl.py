"""The gateway's one command says in a sentence that whoever it asked has gone, under the name that it was called by."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from brownout_virtual import labctl


@pytest.mark.parametrize("name", ["labctl", "linkctl"])
def test_one_who_ends_in_the_middle_of_a_question_is_told_without_a_traceback(tmp_path: Path, name: str) -> None:
    command = tmp_path / "bin" / name
    command.parent.mkdir()
    shutil.copy(labctl.__file__, command)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "control.sock"))
        server.listen()

        def die() -> None:
            """Unread words make the kernel reset the connection."""
            connection, _ = server.accept()
            connection.recv(1)
            connection.close()

        thread = threading.Thread(target=die)
        thread.start()
        words = [sys.executable, "-IS", str(command), "link", "counts"]
        asked = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
        thread.join()
    assert asked.returncode == 4
    assert asked.stderr.startswith(f"{name}: what runs in ")
    assert "ended before it answered" in asked.stderr
    assert "Traceback" not in asked.stderr


def test_nobody_there_is_said_too(tmp_path: Path) -> None:
    command = tmp_path / "bin" / "linkctl"
    command.parent.mkdir()
    shutil.copy(labctl.__file__, command)
    words = [sys.executable, "-IS", str(command), "link", "counts"]
    asked = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert (asked.returncode, asked.stderr.partition(":")[0]) == (4, "linkctl")
