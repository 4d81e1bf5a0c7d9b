"""tools/night.py: counts over all campaigns, an exit code that says whether anything broke, and how to replay it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def night(root: Path, firmware: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "tools" / "night.py"), "--jobs", "1", *arguments],
        env={**os.environ, "PYTHONPATH": str(firmware)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_all_that_were_chosen_take_turns_and_the_counts_come_at_the_end(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "night.json"
    done = night(
        root, root / "firmware", "--only", "demo", "blackout", "--seeds", "2", "--slice", "1", "--json", str(file)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["demo", "blackout", "demo", "blackout", "4"]
    assert "4 seeds of 2 campaigns" in done.stdout
    counts = json.loads(file.read_text(encoding="utf-8"))
    assert counts["by_campaign"] == {"demo": 2, "blackout": 2}
    assert (counts["violations"], counts["crashes"], counts["found"]) == (0, 0, [])


@pytest.mark.parametrize(
    ("old", "new", "crashes"),
    [
        ("return 2 * weight > self.total_weight", "return 2 * weight >= 2", 0),
        ("return 2 * weight > self.total_weight", "return weight.total > 0", 1),
    ],
)
def test_what_breaks_is_counted_and_can_be_replayed(
    root: Path, tmp_path: Path, old: str, new: str, crashes: int
) -> None:
    firmware = tmp_path / "firmware"
    shutil.copytree(root / "firmware", firmware, ignore=shutil.ignore_patterns("__pycache__"))
    file = firmware / "brownout_node" / "core" / "vote.py"
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")
    done = night(root, firmware, "--only", "split-brain", "--seeds", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "replay it: brownout explore split-brain --seed 1" in done.stdout
    assert f"1 violations, {crashes} of them crashes" in done.stdout.splitlines()[-1]


def test_no_seed_begins_after_the_time_is_over(root: Path) -> None:
    done = night(root, root / "firmware", "--only", "demo", "--hours", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("0 seeds of 0 campaigns")
