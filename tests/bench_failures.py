"""A campaign that is hurt while its faults stand, and what it leaves behind; for the tests of what befalls a bench.

Must not say how a run should have ended.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench_bed import BROWNOUT, CAMPAIGN_WITHIN_S, TestBench
from brownout.bench_lab import BenchLab
from brownout_virtual.bench.mishaps import ask
from mqtt_bed import wait_until

GATEWAYS = {"east": ["b1", "b3"], "west": ["b2", "b4"]}  # the broker and the links' proxy are on east
BOARDS = ("b1", "b2", "b3", "b4")
FAULTS = 3
CAMPAIGN = """
[campaign]
name = "hurt"
description = "one board without power, one cut off by its gateway, one link cut by the proxy"
duration_s = 3.0
voters = 4

[workload]
clients = 1
operations_per_s = 5.0

[[fault]]
kind = "cut"
select = ["b4"]
at_s = 0.2
for_s = 2.5

[[fault]]
kind = "isolate"
select = ["b2"]
at_s = 0.2
for_s = 2.5

[[fault]]
kind = "one_way"
from = ["b1"]
to = ["b3"]
at_s = 0.2
for_s = 2.5

[checks]
progress_within_s = 8.0
converge_within_s = 8.0
"""


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def sentence(self) -> str:
        """What the user is told at the end."""
        return self.stderr.strip().partition("brownout: rig failure: ")[2]


def hurt(bench: TestBench, out: Path, mishap: Callable[[], object], afterwards: Callable[[], object]) -> Ended:
    """Run the campaign by the command line; `mishap` happens once all its faults stand, `afterwards` when it ended."""
    out.mkdir(exist_ok=True)
    (out / "hurt.toml").write_text(CAMPAIGN)
    words = ["run", str(out / "hurt.toml"), "--rig", str(bench.folder / "rig.toml"), "--seed", "1", "--no-live"]
    with ExitStack() as stack:
        run = subprocess.Popen(
            [*BROWNOUT, *words, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        stack.callback(run.wait)
        stack.callback(run.kill)
        wait_until(lambda: standing(out) == FAULTS or run.poll() is not None, "all faults stand", 60.0)
        try:
            if run.poll() is not None:
                raise AssertionError(f"it ended before its faults stood: {run.communicate()}")
            mishap()
            stdout, stderr = run.communicate(timeout=CAMPAIGN_WITHIN_S)
        finally:
            afterwards()
    assert "Traceback" not in stderr, stderr
    return Ended(run.returncode, stdout, stderr, next(out.glob("*-hurt-1")))


def standing(out: Path) -> int:
    """How many faults have been applied, as the run's own record has it."""
    return sum(text.count('"stage":"applied"') + text.count('"stage": "applied"') for text in read_all(out))


def read_all(out: Path) -> list[str]:
    return [path.read_text() for path in out.glob("*/faults.jsonl")]


def mishap(bench: TestBench, gateway: str, *words: str) -> None:
    ask(bench.folder, gateway, *words)


def after(seconds: float, action: Callable[[], object]) -> None:
    """How long a machine takes to come back."""
    time.sleep(seconds)
    action()


def dark(bench: TestBench) -> list[str]:
    """The boards whose switch says off, or whose port has gone."""
    lab = bench.take()
    try:
        return lab.missing_ports(BOARDS) + [
            board for board, state in lab.switches().power.state(BOARDS).items() if state.evidence["switch"] != "on"
        ]
    finally:
        lab.close()


def cut_off(bench: TestBench) -> list[str]:
    """What stands on the gateways: elements of nftables' sets, and rules of the proxy."""
    lab = bench.take()
    try:
        return [*elements(lab), *(str(count) for count in lab.switches().link.counts())]
    finally:
        lab.close()


def elements(lab: BenchLab) -> list[str]:
    found = []
    for gateway in lab.gateways.values():
        text = gateway.run(["nft", "list", "ruleset"]).stdout
        found += [f"{gateway.name}: {line.strip()}" for line in text.splitlines() if "elements" in line]
    return found
