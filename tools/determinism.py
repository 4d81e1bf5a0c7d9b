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

from brownout import resources
from brownout.campaign_file import load_campaign
from brownout.faults import plan
from brownout.rig import load_rig
from brownout.sim.runs import simulate

HASH_SEEDS = ("1", "20231")


def hashes(campaigns: list[str], seeds: int) -> dict[str, list[tuple[str, str]]]:
    """campaign -> (trace hash, verdict) of each seed."""
    rig = load_rig("sim")
    found: dict[str, list[tuple[str, str]]] = {}
    for name in campaigns:
        campaign = load_campaign(name)
        runs = [simulate(plan(campaign, rig, seed), rig) for seed in range(1, seeds + 1)]
        found[name] = [(run.trace_hash, run.verdict) for run in runs]
    return found


def in_a_process(hash_seed: str, campaigns: list[str], seeds: int) -> dict[str, list[list[str]]]:
    command = [sys.executable, __file__, "--seeds", str(seeds), "--only", *campaigns, "--child"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    document: dict[str, list[list[str]]] = json.loads(done.stdout)
    return document


def main() -> int:
    shipped = resources.shipped(resources.campaigns_directory())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=shipped, default=shipped)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(hashes(arguments.only, arguments.seeds)))
        return 0
    with ThreadPoolExecutor(len(HASH_SEEDS)) as pool:
        one, other = pool.map(lambda seed: in_a_process(seed, arguments.only, arguments.seeds), HASH_SEEDS)
    different = 0
    for name in arguments.only:
        same = sum(first == second for first, second in zip(one[name], other[name], strict=True))
        valid = sum(verdict == "valid" for _hash, verdict in one[name])
        different += arguments.seeds - same
        print(f"{name:16} {same} of {arguments.seeds} seeds the same in both processes, {valid} valid")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
