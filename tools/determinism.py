"""Whether simulated runs are the same in any process: every shipped campaign, several seeds, two hash seeds.

    python tools/determinism.py --seeds 20 [--only demo blackout]

Prints one line a campaign; exits with 1 where any trace hash differs between the two processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

from brownout import resources
from brownout.campaign_file import load_campaign
from brownout.faults import plan
from brownout.rig import load_rig
from brownout.sim.runs import simulate

HASH_SEEDS = ("1", "20231")


def hashes(name: str, seeds: int) -> list[tuple[str, str]]:
    """(trace hash, verdict) of each seed of a campaign."""
    rig = load_rig("sim")
    campaign = load_campaign(name)
    runs = (simulate(plan(campaign, rig, seed), rig) for seed in range(1, seeds + 1))
    return [(run.trace_hash, run.verdict) for run in runs]


def in_a_process(hash_seed: str, name: str, seeds: int) -> list[list[str]]:
    command = [sys.executable, __file__, "--seeds", str(seeds), "--only", name, "--child"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    document: list[list[str]] = json.loads(done.stdout)
    return document


def main() -> int:
    shipped = resources.shipped(resources.campaigns_directory())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=shipped, default=shipped)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(hashes(arguments.only[0], arguments.seeds)))
        return 0
    different = 0
    with ThreadPoolExecutor(len(HASH_SEEDS)) as pool:
        for name in arguments.only:
            one, other = pool.map(in_a_process, HASH_SEEDS, repeat(name), repeat(arguments.seeds))
            same = sum(first == second for first, second in zip(one, other, strict=True))
            valid = sum(verdict == "valid" for _hash, verdict in one)
            different += arguments.seeds - same
            line = f"{name:16} {same} of {arguments.seeds} seeds the same in both processes, {valid} valid"
            print(line, flush=True)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
