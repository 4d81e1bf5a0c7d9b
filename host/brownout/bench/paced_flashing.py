"""Flashing twenty boards through four gateways, their ports as slow as real ones, against one board.

On a bench of namespaces made for it (root). Each virtual serial port takes a UART's bytes a second in each direction
and makes its sender wait, and the flasher keeps to the blocks and the window of a board behind a UART: what is
measured is whether boards wait for each other. Must not count the building of the firmware.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..bench_lab import BenchLab
from ..contracts import RigError
from ..drivers import bench_process
from ..firmware_build import Firmware, build
from ..flash import FlashTarget, flash, raise_failures
from ..rig import Model, load_model, read_rig
from .figures import Figure, Sample
from .flashing import configuration
from .workbench import Workbench

BOARDS, GATEWAYS = 20, 4
TURNS = 3
TARGET = 3.0
BITS_A_BYTE = 10  # of a UART: a start bit, eight of data, a stop bit
PACED_LIKE = "esp32"


def measure(bench: Workbench) -> list[Figure]:
    name = f"flashing {BOARDS} boards, paced ports"
    if os.geteuid() != 0:
        return [Figure(name, None, "s", TARGET, 0, note="a bench of namespaces needs root")]
    real = load_model(PACED_LIKE)
    model = dataclasses.replace(
        load_model("virtual"), block_bytes=real.block_bytes, window_bytes=real.window_bytes, baud_rate=real.baud_rate
    )
    firmware = build(model)
    speed = real.baud_rate // BITS_A_BYTE
    alone, together = [], []
    for turn in range(TURNS):
        bench.progress(name, turn, TURNS)
        one_s, all_s = _turn(model, firmware, speed)
        alone.append(one_s)
        together.append(all_s)
    bench.progress(name, TURNS, TURNS)
    one, every = Sample.of(alone), Sample.of(together)
    return [
        Figure(
            name,
            every.median,
            "s",
            TARGET,
            every.count,
            p99=every.p99,
            compared_to="one board",
            compared_value=one.median,
            compared_p99=one.p99,
            note=f"{GATEWAYS} gateways by SSH; {speed:,} bytes/s a port each way, blocks and window of {PACED_LIKE}",
        )
    ]


def _turn(model: Model, firmware: Firmware, bytes_per_s: int) -> tuple[float, float]:
    """Seconds for one board by itself, and for twenty others at once, all of them with empty flash."""
    boards = [f"b{number}" for number in range(1, BOARDS + 2)]
    with tempfile.TemporaryDirectory(prefix="brownout-bench-") as folder:
        directory = Path(folder) / "bench"
        gateways = bench_process.spread(boards, GATEWAYS)
        options = bench_process.BenchOptions(gateways=gateways, port_bytes_per_s=bytes_per_s)
        try:
            bench_process.up(directory, options)
            lab = BenchLab(read_rig(directory / "rig.toml"))
            try:
                missing = lab.missing_ports(boards)
                if missing:
                    raise RigError(f"no serial port of {', '.join(missing)}: is this machine too busy?")
                return _flash(lab, model, firmware, boards[:1]), _flash(lab, model, firmware, boards[1:])
            finally:
                lab.close()
        finally:
            bench_process.down(directory)


def _flash(lab: BenchLab, model: Model, firmware: Firmware, boards: Sequence[str]) -> float:
    targets = [
        FlashTarget(board, lab.serial_port(board), model, firmware, configuration(number, board))
        for number, board in enumerate(boards, 1)
    ]
    began = time.perf_counter()
    raise_failures(flash(targets, reset=False))
    return time.perf_counter() - began
