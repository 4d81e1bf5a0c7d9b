"""The vote on the interpreter of the boards: the same inputs give the same bytes, message by message, as on CPython."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = Path(__file__).with_name("vote_scenario.py")


def run(interpreter: list[str], root: Path, seed: int) -> str:
    argv = [*interpreter, str(SCENARIO), str(root / "firmware"), str(seed)]
    finished = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.parametrize("seed", [1, 2])
def test_the_vote_runs_the_same_on_both_interpreters(root: Path, micropython: str, seed: int) -> None:
    on_board = run([micropython, "-X", "heapsize=4m"], root, seed)
    on_host = run([sys.executable], root, seed)
    assert on_board == on_host
    replies = int(on_host.split("\n")[5].split()[1])
    assert replies > 300
    assert on_host.count("True") == 3, "the wiped voter was admitted again, the learner never"
