"""The main campaigns on a bench of network namespaces, made for them and removed again: one line each. Root only.

    python tools/bench_campaigns.py --seeds 1 2 3 [--only demo] [--out runs]

Campaigns of up to seven boards share one bench of two gateways; `fifty-boards` gets one of its own with four. Exits
with 1 if any run is not valid. Must not judge: verdicts are the checkers'.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from brownout import campaign_file
from brownout.campaign import run
from brownout.contracts import RigError
from brownout.drivers import bench_process
from brownout.rig import Rig, read_rig

SMALL = (
    "blackout", "broker-loss", "demo", "flapping-power", "mixed-serial", "proposer-kill", "split-brain", "torn-write",
    "wiped-voter",
)  # fmt: skip
LARGE = ("fifty-boards",)


def carry_out(name: str, rig: Rig, seed: int, out: Path) -> bool:
    """Run one campaign and print its line; whether it was valid."""
    began = time.monotonic()
    try:
        result = run(campaign_file.load_campaign(name), rig, seed, out)
        verdict, folder = result.verdict, str(result.folder)
        reasons = [check["detail"] for check in result.document["checks"] if check["verdict"] != "valid"]
    except RigError as error:
        verdict, folder, reasons = "rig failure", "", [str(error)]
    print(f"{name:16} seed {seed:3}  {verdict:12} {time.monotonic() - began:6.1f} s  {folder}", flush=True)
    for reason in reasons:
        print(f"{'':16}   {reason}", flush=True)
    return verdict == "valid"


def on_bench(boards: int, gateways: int, names: list[str], seeds: list[int], out: Path) -> list[bool]:
    """Run these on a bench made for them."""
    if not names:
        return []
    with tempfile.TemporaryDirectory(prefix="brownout-bench-") as folder:
        directory = Path(folder) / "bench"
        every = [f"b{number}" for number in range(1, boards + 1)]
        try:
            bench_process.up(directory, bench_process.BenchOptions(gateways=bench_process.spread(every, gateways)))
            rig = read_rig(directory / "rig.toml")
            return [carry_out(name, rig, seed, out) for name in names for seed in seeds]
        finally:
            bench_process.down(directory)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=(*SMALL, *LARGE), default=[*SMALL, *LARGE])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the bench is taken down
    verdicts = on_bench(7, 2, [name for name in arguments.only if name in SMALL], arguments.seeds, arguments.out)
    verdicts += on_bench(50, 4, [name for name in arguments.only if name in LARGE], arguments.seeds, arguments.out)
    print(f"{sum(verdicts)} valid, {len(verdicts) - sum(verdicts)} not")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
