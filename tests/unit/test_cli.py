"""The command line: exit codes and messages for everything foreseeable, documents on standard output alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from brownout.cli import main
from brownout.cli.common import LiveProgress


@pytest.fixture(autouse=True)
def no_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lab of the user's own is looked at."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def fails(arguments: Sequence[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


CAMPAIGN = '[campaign]\nname = "x"\nduration_s = 5.0\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[campaign\n", "not valid TOML"),
        (CAMPAIGN + "durations = 3\n", "campaign.durations: unknown key (did you mean 'duration_s'?)"),
        (CAMPAIGN + "[[fault]]\nkind = 'zap'\nat_s = 1\n", "fault[0].kind: unknown kind 'zap'"),
        (CAMPAIGN + "[[fault]]\nkind = 'cut'\nat_s = -1\nfor_s = 1\n", "fault[0].at_s: -1; allowed"),
        (CAMPAIGN + "[[fault]]\nkind = 'cut'\nat_s = 1\nfor_s = 1\nselect = ['b9']\n", "unknown board 'b9'"),
        (CAMPAIGN + "learners = 100\n", "needs 105 boards (5 voters, 100 learners); rig 'virtual' has 60"),
    ],
)
def test_a_bad_campaign_is_exit_2_and_named(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text(text)
    said = fails(["run", "c.toml", "--seed", "1"], 2, capsys)
    assert message in said
    assert not (tmp_path / "runs").exists()


def test_firmware_that_cannot_be_flashed_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(["run", "demo", "--firmware", str(tmp_path)], 2, capsys)
    assert f"{tmp_path} has no boot.py" in said
    assert f"PYTHONPATH={tmp_path}" in fails(["run", "demo", "--rig", "sim", "--firmware", str(tmp_path)], 2, capsys)
    assert not (tmp_path / "runs").exists()


def test_what_is_no_campaign_at_all_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'blackout'?" in fails(["run", "blackot"], 2, capsys)
    assert "no such file" in fails(["run", "none.toml"], 2, capsys)
    assert "is a folder" in fails(["run", f"{tmp_path}/"], 2, capsys)
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    assert "not a text file" in fails(["run", "binary.toml"], 2, capsys)
    for seed in ("-1", "1.5", "x", str(2**63)):
        assert "is not a seed; allowed" in fails(["run", "demo", f"--seed={seed}"], 2, capsys)
    assert "unknown rig 'bench'" in fails(["run", "demo", "--rig", "bench"], 2, capsys)
    assert "--sed" in fails(["run", "demo", "--sed", "1"], 2, capsys)
    assert "No such command" in fails(["rn"], 2, capsys)
    assert "Missing argument" in fails(["run"], 2, capsys)


def test_a_rig_that_cannot_do_a_campaign_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "poor.toml").write_text(
        '[rig]\nname = "poor"\nrung = "virtual"\n[virtual]\n[faults]\ncut = "physical"\n'
    )
    said = fails(["run", "blackout", "--rig", "poor.toml"], 2, capsys)
    assert "needs the faults blackout, which rig 'poor' cannot do; it has: cut" in said


def test_folders_that_are_no_runs_are_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("check", "report", "heal"):
        assert "nowhere" in fails([command, "nowhere"], 2, capsys)
        assert str(tmp_path) in fails([command, str(tmp_path)], 2, capsys)


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/runs"])
def test_runs_that_cannot_be_kept_are_exit_2(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert "no runs can be kept there" in fails(["run", "demo", "--rig", "sim", "--out", where], 2, capsys)


def test_a_rig_that_is_not_there_is_exit_4(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["power", "off", "b1"], ["flash"], ["link", "clear"], ["console", "b1"], ["heal", "--rig", "lab"]):
        assert "no lab is running" in fails(command, 4, capsys)


def test_boards_that_exist_only_in_a_run_cannot_be_used_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["power", "off", "b1"], ["flash"], ["console", "b1"]):
        assert "brownout lab up" in fails([*command, "--rig", "virtual"], 2, capsys)


def test_a_port_that_does_not_exist_is_exit_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bench.toml").write_text(
        '[rig]\nname = "bench"\nrung = "bench"\n[[board]]\nname = "b1"\nmodel = "pico-w"\nport = "/dev/none"\n'
    )
    said = fails(["console", "b1", "--rig", "bench.toml", "--exec", "1"], 4, capsys)
    assert "serial port /dev/none does not exist; is the board plugged in" in said


def test_rigs_are_listed_and_shown_as_documents(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rig", "list", "--json"]) == 0
    assert {"lab", "virtual"} <= {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert main(["rig", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faults"]["cut"] == "physical"
    assert main(["rig", "list"]) == 0
    assert main(["rig", "show"]) == 0
    assert "fault cut" in capsys.readouterr().out


def test_help_of_every_command_is_quick_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from brownout.cli import main; code = main(['run', '--help']);"
        "heavy = {'fabric', 'duckdb', 'paho', 'rich', 'serial'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "CAMPAIGN" in result.stdout


def test_output_into_a_closed_pipe_is_no_verdict_and_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "import sys; from brownout.cli import main; sys.exit(main(['rig', 'show']))"]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writing)
    assert result.returncode == 141
    assert result.stderr == b""


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveProgress() as progress:
        for done in range(1001):
            progress("flashing", done, 1000)
        progress("flashing", 1000, 1000)
        progress("healing", 0, 1)
        progress("healing", 1, 1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["flashing", "flashing 100%", "healing"]
