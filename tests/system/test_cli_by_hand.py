"""The command line by hand against a kept lab, as docs/virtual-lab.md shows it: lab, flash, power, link, console."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mqtt_bed import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

BROWNOUT = [sys.executable, "-c", "import sys; from brownout.cli import main; sys.exit(main())"]


class Shell:
    """Runs commands with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "XDG_STATE_HOME": str(home / "state")}

    def run(self, *words: str, code: int = 0, given: str = "") -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [*BROWNOUT, *words],
            env=self.environment,
            cwd=self.home,
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in result.stderr or "<stdin>" in result.stderr
        assert result.returncode == code, result.stderr
        return result

    def document(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    opened = Shell(tmp_path_factory.mktemp("home"))
    opened.run("lab", "up", "--boards", "3", "--serial-only", "b3")
    yield opened
    opened.run("lab", "down")
    assert "no lab is running" in opened.run("lab", "status").stdout


def connected(shell: Shell, board: str) -> bool:
    return bool(shell.document("lab", "status")["state"]["boards"][board]["connected"])


def test_boards_are_flashed_once(shell: Shell) -> None:
    first = shell.document("flash")
    assert [result["board"] for result in first] == ["b1", "b2", "b3"]
    assert all(result["written"] and result["error"] is None for result in first)
    wait_until(lambda: connected(shell, "b1") and connected(shell, "b2"), "the boards run", 20)
    (again,) = shell.document("flash", "b1")
    assert (again["board"], again["written"]) == ("b1", [])
    assert "unknown board 'b9'" in shell.run("flash", "b9", code=2).stderr


def test_power_is_switched(shell: Shell) -> None:
    assert shell.document("power", "off", "b2")["b2"]["on"] is False
    states = shell.document("power", "state", "all")
    assert {name: state["on"] for name, state in states.items()} == {"b1": True, "b2": False, "b3": True}
    assert shell.document("power", "cycle", "b1", "--off-s", "0.05")["b1"]["on"] is True
    assert "b2           on" in shell.run("power", "on", "b2").stdout
    shell.run("power", "off", "b2")
    assert "has no power" in shell.run("power", "reset", "b2", code=4).stderr
    shell.run("power", "on", "b2")
    assert "unknown board 'b7'" in shell.run("power", "off", "b7", code=2).stderr


def test_links_are_cut_counted_and_cleared(shell: Shell) -> None:
    assert shell.document("link", "isolate", "b1") == ["hand.isolate.b1.1", "hand.isolate.b1.2"]
    shell.run("link", "split", "b1,b2", "b3")
    shell.run("link", "one-way", "--from", "b1", "--to", "host")
    shell.run("link", "loss", "b2", "--percent", "10")
    shell.run("link", "delay", "b2", "--ms", "5")
    rules = {count["rule"] for count in shell.document("link", "counts")}
    assert "hand.delay.b2.1" in rules
    shell.run("link", "clear", "hand.delay.b2.1", "hand.delay.b2.2")
    assert {count["rule"] for count in shell.document("link", "counts")} == rules - {
        "hand.delay.b2.1",
        "hand.delay.b2.2",
    }
    assert "links cleared" in shell.document("heal", "--rig", "lab")["healed"]
    assert shell.document("link", "counts") == []
    assert "two or more groups" in shell.run("link", "split", "b1,b2", code=2).stderr
    assert "unknown board 'b9'" in shell.run("link", "isolate", "b9", code=2).stderr


def test_a_program_runs_at_the_prompt_and_the_board_goes_on(shell: Shell) -> None:
    wait_until(lambda: connected(shell, "b1"), "the firmware runs", 20)
    result = shell.run("console", "b1", "--exec", "import sys; print(sys.implementation.name)")
    assert result.stdout == "micropython\n"
    wait_until(lambda: connected(shell, "b1"), "the firmware runs again", 20)
    failed = shell.run("console", "b1", "--exec", "1/0", code=1)
    assert "ZeroDivisionError" in failed.stderr


def test_a_console_passes_keys_and_text(shell: Shell) -> None:
    shell.run("console", "b2", "--exec", "pass", "--stay")
    result = shell.run("console", "b2", given="print(6 * 7)\r\n")
    assert "42" in result.stdout


def test_a_console_is_left_by_its_key(shell: Shell) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*BROWNOUT, "console", "b1"], env=shell.environment, stdin=slave, stdout=slave, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    assert b"Ctrl-] leaves it" in process.stderr.readline()
    os.write(master, b"\x1d")
    assert process.wait(10) == 0
    process.stderr.close()
    os.close(master)
    os.close(slave)


def test_a_port_that_is_in_use_is_exit_4(shell: Shell) -> None:
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*BROWNOUT, "console", "b1"], env=shell.environment, stdin=slave, stdout=slave, stderr=subprocess.PIPE
    ) as holder:
        assert holder.stderr is not None
        holder.stderr.readline()
        assert "is in use by another program" in shell.run("flash", "b1", code=4).stderr
        assert "is in use by another program" in shell.run("rig", "doctor", "--rig", "lab", code=4).stdout
        os.write(master, b"\x1d")
        holder.wait(10)
    os.close(master)
    os.close(slave)
    assert "FAILED" not in shell.run("rig", "doctor", "--rig", "lab").stdout


def test_an_interrupted_run_is_exit_130_and_leaves_no_process(shell: Shell) -> None:
    process = subprocess.Popen(
        [*BROWNOUT, "run", "blackout", "--seed", "1"],
        env=shell.environment,
        cwd=shell.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("campaign blackout"):
            break
    time.sleep(0.5)  # into the campaign, wherever that is
    process.send_signal(signal.SIGINT)
    _output, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in error
    (folder,) = (shell.home / "runs").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert not Path(f"/proc/{manifest['lab']['pid']}").exists()
    result = shell.run("check", str(folder), "--json", code=3)
    assert json.loads(result.stdout)["verdict"] == "unknown"
