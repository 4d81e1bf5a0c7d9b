"""A power command through Fabric on an open connection against plain ssh over a control socket; how far a cut spreads.

On a bench of namespaces with twenty boards on four gateways, made for it (root). Must not flash anything: what is timed
is the way to the switches.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from ..bench_lab import BenchLab
from ..drivers import bench_process
from ..drivers.bench_power import BenchPower
from ..rig import GatewaySpec, read_rig
from .figures import Figure, Sample, side_by_side
from .workbench import Workbench

BOARDS, GATEWAYS = 20, 4
COUNT = 60
CUTS = 5
SPREAD_MS = 250.0
COMMAND = ("uhubctl", "-N", "-e", "-l", "1-1", "-p", "1")
WITHIN_S = 20.0


def measure(bench: Workbench) -> list[Figure]:
    if os.geteuid() != 0:
        note = "a bench of namespaces needs root"
        return [
            Figure("power command by SSH", None, "ms", 1.0, 0, note=note),
            Figure("spread of a cut", None, "ms", SPREAD_MS, 0, measure="value", note=note),
        ]
    boards = [f"b{number}" for number in range(1, BOARDS + 1)]
    with tempfile.TemporaryDirectory(prefix="brownout-bench-") as folder:
        directory = Path(folder) / "bench"
        bench_process.up(directory, bench_process.BenchOptions(gateways=bench_process.spread(boards, GATEWAYS)))
        try:
            lab = BenchLab(read_rig(directory / "rig.toml"))
            try:
                return [_command(lab, Path(folder)), _spread(lab, boards)]
            finally:
                lab.close()
        finally:
            bench_process.down(directory)


def _command(lab: BenchLab, folder: Path) -> Figure:
    gateway, spec = lab.gateways["east"], lab.rig.gateways["east"]
    ours: list[float] = []
    plain: list[float] = []
    ssh = _ssh(spec, folder / "control")
    master = subprocess.Popen([*ssh, "-M", "-N", f"{spec.user}@{spec.host}"], stdin=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + WITHIN_S
        while not (folder / "control").exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        for _ in range(COUNT):  # in turns, so that the machine's moods meet both
            ours.append(gateway.run(COMMAND).duration_ms)
            began = time.perf_counter()
            subprocess.run([*ssh, f"{spec.user}@{spec.host}", *COMMAND], capture_output=True, check=True)
            plain.append((time.perf_counter() - began) * 1000)
    finally:
        master.terminate()
        master.wait(WITHIN_S)
    return side_by_side(
        "power command by SSH",
        ours[1:],
        plain[1:],
        unit="ms",
        compared_to="ssh, control socket",
        target=1.0,
        note="uhubctl's stand-in on a gateway; both on a connection that is open",
    )


def _ssh(spec: GatewaySpec, control: Path) -> list[str]:
    options = {"ControlPath": str(control), "UserKnownHostsFile": spec.known_hosts, "BatchMode": "yes"}
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", "-F", os.devnull, "-p", str(spec.port), "-i", spec.key, *words]


def _spread(lab: BenchLab, boards: list[str]) -> Figure:
    power = lab.switches().power
    assert isinstance(power, BenchPower)
    lab.missing_ports(boards)
    spreads = []
    for _ in range(CUTS):
        power.off(boards)
        moments = [power.cut_ns[board] for board in boards]
        spreads.append((max(moments) - min(moments)) / 1e6)
        power.on(boards)
    sample = Sample.of(spreads)
    return Figure(
        "spread of a cut",
        sample.median,
        "ms",
        SPREAD_MS,
        sample.count,
        p99=sample.p99,
        measure="value",
        note=f"{BOARDS} boards on {GATEWAYS} gateways, hubs, relays and pins: from the first answer to the last",
    )
