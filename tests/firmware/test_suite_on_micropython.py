"""Protocols of the suite on the interpreter of the boards: the same inputs give the same bytes as on CPython."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = Path(__file__).with_name("suite_scenario.py")


def run(interpreter: list[str], root: Path, name: str, seed: int) -> list[str]:
    argv = [*interpreter, str(SCENARIO), str(root / "firmware"), name, str(seed)]
    finished = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "seed", "least_replies"),
    [
        ("mirror", 1, 250),
        ("work", 1, 20),
        ("work", 2, 20),
        ("sampling", 1, 150),
        ("byzantine", 1, 200),
        ("byzantine", 2, 150),
        ("stake", 1, 200),
        ("commit", 1, 200),
        ("commit-non-blocking", 1, 200),
    ],
)
def test_it_runs_the_same_on_both_interpreters(
    root: Path, micropython: str, name: str, seed: int, least_replies: int
) -> None:
    on_board = run([micropython, "-X", "heapsize=4m"], root, name, seed)
    on_host = run([sys.executable], root, name, seed)
    assert on_board == on_host
    states = {line for line in on_host if line.startswith("state")}
    assert len(states) == 1, "all boards hold the same in the end, the wiped one too"
    assert int(on_host[7].split()[1]) >= least_replies
    if name.startswith("commit"):
        assert states == {"state 0 0"}, "no money was made or lost, and no board is in doubt"
