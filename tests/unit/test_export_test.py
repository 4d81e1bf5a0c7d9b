"""From a recorded run with a bug to a test file: it fails with the bug and passes without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from brownout.cli import main

BROWNOUT = [sys.executable, "-c", "from brownout.cli import main; raise SystemExit(main())"]
QUORUM = "return 2 * weight > self.total_weight"
ONE_SHORT = "return 2 * weight >= self.node.config.total_weight - 1"
CAMPAIGN = """
[campaign]
name = "small"
duration_s = 3.0
voters = 3

[[operation]]
at_s = 0.1
client = 1
operation = "put"
key = "k1"

[checks]
progress_within_s = 1.0
converge_within_s = 1.0
operations_at_least = 0
"""


def run(firmware: Path | None, *words: str) -> subprocess.CompletedProcess[str]:
    """Another Python, with that firmware or with ours."""
    environment = {**os.environ, **({"PYTHONPATH": str(firmware)} if firmware else {})}
    return subprocess.run(words, env=environment, cwd=None, capture_output=True, text=True, timeout=120, check=False)


def test_an_exported_test_fails_with_the_bug_and_passes_without(tmp_path: Path, root: Path) -> None:
    firmware = tmp_path / "firmware"
    shutil.copytree(root / "firmware", firmware, ignore=shutil.ignore_patterns("__pycache__"))
    vote = firmware / "brownout_node" / "core" / "vote.py"
    text = vote.read_text(encoding="utf-8")
    assert text.count(QUORUM) == 1
    vote.write_text(text.replace(QUORUM, ONE_SHORT), encoding="utf-8")
    campaign, out, exported = tmp_path / "small.toml", tmp_path / "runs", tmp_path / "test_small.py"
    campaign.write_text(CAMPAIGN, encoding="utf-8")

    ran = run(firmware, *BROWNOUT, "run", str(campaign), "--rig", "sim", "--seed", "1", "--out", str(out))
    assert ran.returncode == 1, ran.stdout + ran.stderr
    (folder,) = out.iterdir()

    replayed = run(None, *BROWNOUT, "replay", str(folder))  # with the firmware that lies in the folder
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "faithful" in replayed.stdout and "violates again" in replayed.stdout and "voting" in replayed.stdout
    other = run(None, *BROWNOUT, "replay", str(folder), "--own-firmware")
    assert other.returncode == 1 and "differs at step" in other.stdout

    made = run(
        None, *BROWNOUT, "export", str(folder), "--as", "test", "--check", "voting", "--out", str(exported),
        "--time-limit", "2s",
    )  # fmt: skip
    assert made.returncode == 0 and made.stdout.strip() == str(exported), made.stderr
    pytest_words = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(exported))
    bad = run(firmware, *pytest_words)
    assert bad.returncode == 1 and "1 failed" in bad.stdout, bad.stdout
    good = run(None, *pytest_words)
    assert good.returncode == 0 and "1 passed" in good.stdout, good.stdout


def test_a_run_that_violated_nothing_gives_no_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    campaign = tmp_path / "small.toml"
    campaign.write_text(CAMPAIGN, encoding="utf-8")
    assert main(["run", str(campaign), "--rig", "sim", "--seed", "1", "--out", str(tmp_path / "runs"), "--json"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert main(["export", str(folder), "--as", "test", "--out", str(tmp_path / "test_none.py")]) == 2
    assert "violated nothing" in capsys.readouterr().err
    assert not (tmp_path / "test_none.py").exists()
