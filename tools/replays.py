"""Runs campaigns on virtual boards, replays each run, and says which were faithful: `make replay`.

    python tools/replays.py [CAMPAIGN ..] [--seeds 1-3]

A line for each run; the exit code is 1 unless all were faithful. Must not keep runs that were.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

CAMPAIGNS = (
    "demo",
    "blackout",
    "split-brain",
    "proposer-kill",
    "flapping-power",
    "mixed-serial",
    "torn-write",
    "broker-loss",
    "wiped-voter",
    "fifty-boards",
)
WITHIN_S = 600
COMMAND = str(Path(sys.executable).with_name("brownout"))


def brownout(*words: str) -> tuple[int, str]:
    done = subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=WITHIN_S, check=False)
    return done.returncode, done.stdout or done.stderr


def replayed(campaign: str, seed: int, folder: Path) -> bool:
    """Run it and replay it; print how it went. A run that was faithful is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    code, said = brownout("run", campaign, "--seed", str(seed), "--out", str(folder), "--json", "--no-live")
    runs = sorted(folder.glob("*/"))
    if not runs or code not in (0, 1, 3):
        print(f"{campaign} seed {seed}: no run: {said.strip().splitlines()[-1:]}", flush=True)
        return False
    verdict = json.loads(said)["verdict"]
    code, said = brownout("replay", str(runs[0]), "--json")
    if code not in (0, 1, 3):
        print(f"{campaign} seed {seed}: {verdict}, no replay: {said.strip()[-300:]}", flush=True)
        return False
    told = json.loads(said)
    print(
        f"{campaign} seed {seed}: {verdict}, {told['replay']}, {told['replayed']} of {told['steps']} steps, "
        f"{told['inputs']} inputs, {len(told['boots'])} boots",
        flush=True,
    )
    for boot in told["boots"]:
        if boot["why"]:
            print(f"  {boot['board']} boot {boot['boot']}: {boot['why']}")
    for found in told["differences"]:
        print(f"  {found['board']} boot {found['boot']} step {found['step']} since {found['since']}: {found['what']}")
        print(f"    {found['recorded']} | {found['replayed']}")
    if told["replay"] == "faithful":
        shutil.rmtree(folder)
    return bool(told["replay"] == "faithful")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("campaigns", nargs="*", default=CAMPAIGNS)
    parser.add_argument("--seeds", default="1-3", help="first-last")
    parser.add_argument("--out", type=Path, default=Path("runs/replays"))
    given = parser.parse_args()
    first, _, last = given.seeds.partition("-")
    failed = 0
    for campaign in given.campaigns:
        for seed in range(int(first), int(last or first) + 1):
            failed += not replayed(campaign, seed, given.out / f"{campaign}-{seed}")
    print(f"{failed} not faithful")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
