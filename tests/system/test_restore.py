"""Backup and restore by the command line, on virtual boards: one board, then everything after a majority was lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brownout.bench.command_client import CommandClient
from brownout_node.core import schema
from mqtt_bed import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

BROWNOUT = [sys.executable, "-c", "import sys; from brownout.cli import main; sys.exit(main())"]
CLIENT = 5000


class Shell:
    """Runs commands with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "XDG_STATE_HOME": str(home / "state")}

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [*BROWNOUT, *words],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in result.stderr
        assert result.returncode == code, result.stderr + result.stdout
        return result

    def document(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    opened = Shell(tmp_path)
    opened.run("lab", "up", "--boards", "3", "--serial-only", "b3", "--local-gateway")
    yield opened
    opened.run("lab", "down")


def lab_of(shell: Shell) -> Path:
    return shell.home / "state" / "brownout" / "lab"


def client(shell: Shell, cluster: int, number: int = CLIENT) -> CommandClient:
    mqtt = json.loads((lab_of(shell) / "lab.json").read_text())["mqtt"]
    return CommandClient((mqtt["host"], mqtt["port"]), "bed", cluster, number)


def ask(asker: CommandClient, board: str, operation: int, key: str, value: str | None = None) -> tuple[int, int]:
    """(status, height), asked until it is answered."""
    answers: list[tuple[float, int, int]] = []

    def answered() -> bool:
        answer = asker.ask(board, operation, key, value)
        if answer is not None:
            answers.append(answer)
        return answer is not None

    wait_until(answered, f"{board} answers", 30)
    return answers[0][1], answers[0][2]


def test_what_a_backup_has_comes_back_and_what_came_later_does_not(shell: Shell) -> None:
    shell.run("flash")
    writer = client(shell, 1)
    for number in range(5):
        assert ask(writer, "b1", schema.PUT, f"k{number}", f"v{number}")[0] == schema.OK
    manifest = shell.document("backup", "--out", "saved")
    height = max(entry["height"] for entry in manifest["boards"].values())
    assert set(manifest["boards"]) == {"b1", "b2", "b3"}  # the one on its cable only, too
    assert all(len(entry["firmware"]) > 10 for entry in manifest["boards"].values())

    # One board: back without a vote, admitted by the others.
    one = shell.document("restore", "saved", "--boards", "b2")["boards"]["b2"]
    assert one["restored"] and one["verified"]
    assert one["votes_from_height"] > height
    assert "no majority" in shell.run("restore", "saved", "--boards", "b1,b2", code=2).stderr

    # Everything: what was written after the backup is in the way, then lost.
    assert ask(writer, "b1", schema.PUT, "later", "lost")[0] == schema.OK
    assert "--discard-later" in shell.run("restore", "saved", code=2).stderr
    shell.run("power", "off", "b1", "b2")
    assert set(shell.document("backup", "--out", "partial")["missing"]) == {"b1", "b2"}
    flash = lab_of(shell) / "flash"
    for name in ("b1", "b2"):  # a majority of the journals is gone
        image = bytearray((flash / f"{name}.bin").read_bytes())
        image[256 * 4096 :] = b"\xff" * (len(image) - 256 * 4096)
        (flash / f"{name}.bin").write_bytes(image)
    report = shell.document("restore", "saved", "--discard-later")
    assert report["verified"]
    assert report["height"] == height
    assert report["cluster"] == 2
    assert {row["digest"] for row in report["boards"].values()} == {manifest["boards"]["b1"]["digest"]}
    assert report["decided_at"] >= height
    assert f"at height {height} or later is lost" in report["lost"]
    writer.close()
    reader = client(shell, 2, CLIENT + 1)
    assert ask(reader, "b2", schema.CAS, "k4", None)[0] == schema.MISMATCH  # it is there
    assert ask(reader, "b2", schema.CAS, "later", None)[0] == schema.OK  # it is not
    reader.close()

    # Flashed again by hand, the boards stay what they are; a damaged backup is refused.
    shell.run("flash", "b1")
    again = shell.document("backup", "--out", "again")
    assert again["cluster"] == 2
    state = shell.home / "saved" / "b1.state"
    state.write_bytes(state.read_bytes()[:-1] + b"\x00\x00")
    assert "damaged" in shell.run("restore", "saved", code=2).stderr
