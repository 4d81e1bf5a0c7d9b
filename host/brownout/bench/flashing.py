"""Flashing twenty boards, against twenty times the CPU time that one board takes, shared by the cores.

Boards are left at their prompts: their start is not part of flashing. Must not use a compiler's cold cache as an
excuse: the firmware is built before the clock starts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from ..drivers.virtual_lab import VirtualLab
from ..firmware_build import build
from ..flash import FlashTarget, flash, raise_failures
from ..rig import load_model
from .figures import Figure, Sample
from .workbench import Workbench, tree_cpu_s

BOARDS = 20
TURNS = 5
TARGET = 1.2
AGAIN_TARGET = 0.2


def measure(bench: Workbench) -> list[Figure]:
    cores = os.cpu_count() or 1
    names = [f"b{number}" for number in range(1, BOARDS + 1)]
    one_cpu_s, first_s, again_s = [], [], []
    for turn in range(TURNS):
        bench.progress("flashing 20 boards", turn, TURNS)
        lab = bench.lab(*names, "alone")
        _flash(lab, ["alone"])  # warms up what is loaded once in this process
        lab.close()
        lab = bench.lab(*names, "alone")
        before = tree_cpu_s(os.getpid())
        _flash(lab, ["alone"])
        one_cpu_s.append(tree_cpu_s(os.getpid()) - before)
        first_s.append(_flash(lab, names))
        again_s.append(_flash(lab, names))
        lab.close()
    bench.progress("flashing 20 boards", TURNS, TURNS)
    one, first, again = (Sample.of(values) for values in (one_cpu_s, first_s, again_s))
    return [
        Figure(
            "flashing 20 boards",
            first.median,
            "s",
            TARGET,
            TURNS,
            p99=first.p99,
            compared_to=f"20 / {cores} cores × one board's CPU",
            compared_value=BOARDS / cores * one.median,
            note=f"one board takes {one.median * 1000:.0f} ms of CPU (host and board; counted in steps of 10 ms)",
        ),
        Figure(
            "flashing 20 unchanged boards",
            again.median,
            "s",
            AGAIN_TARGET,
            TURNS,
            p99=again.p99,
            compared_to="the first flash",
            compared_value=first.median,
            note="most of what is left is the board's LittleFS looking up 29 files and reading their hashes",
        ),
    ]


def _flash(lab: VirtualLab, boards: Sequence[str]) -> float:
    """Seconds that it took; the boards are left at their prompts."""
    model = load_model("virtual")
    firmware = build(model)
    targets = [
        FlashTarget(name, lab.serial_port(name), model, firmware, configuration(number, name))
        for number, name in enumerate(boards, 1)
    ]
    began = time.perf_counter()
    raise_failures(flash(targets, reset=False))
    return time.perf_counter() - began


def configuration(number: int, name: str) -> dict[str, Any]:
    roster = [[number, name, 1]]
    return {"cluster": 1, "board": number, "name": name, "bed": "bed", "seed": 0, "roster": roster, "mesh": "serial"}
