"""Membership and gossip on the interpreter of the boards: the same inputs give the same bytes as on CPython."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = Path(__file__).with_name("gossip_scenario.py")


def run(interpreter: list[str], root: Path, seed: int) -> str:
    argv = [*interpreter, str(SCENARIO), str(root / "firmware"), str(seed)]
    finished = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.parametrize("seed", [1, 2])
def test_gossip_runs_the_same_on_both_interpreters(root: Path, micropython: str, seed: int) -> None:
    on_board = run([micropython, "-X", "heapsize=4m"], root, seed)
    on_host = run([sys.executable], root, seed)
    assert on_board == on_host
    states = {line for line in on_host.splitlines() if line.startswith("state")}
    assert len(states) == 1, "all boards hold the same in the end, the wiped one too"
    assert int(on_host.splitlines()[7].split()[1]) > 500  # replies
