"""The long acceptance: every shipped campaign with several seeds on one rig, one line each, and a table at the end.

    python tools/campaigns.py --seeds 1 2 3 4 5 [--only blackout split-brain] [--rig virtual] [--out runs]

Exits with 1 if any run is not valid. Must not judge: verdicts are the checkers'.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from brownout import campaign_file, resources
from brownout.campaign import run
from brownout.contracts import RigError
from brownout.rig import load_rig


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = resources.shipped(resources.campaigns_directory())
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--only", nargs="+", choices=shipped, default=shipped)
    parser.add_argument("--rig", default="virtual")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    rig = load_rig(arguments.rig)
    failures = []
    for name in arguments.only:
        campaign = campaign_file.load_campaign(name)
        for seed in arguments.seeds:
            began = time.monotonic()
            try:
                result = run(campaign, rig, seed, arguments.out)
                verdict, folder = result.verdict, str(result.folder)
                reasons = [check["detail"] for check in result.document["checks"] if check["verdict"] != "valid"]
            except RigError as error:
                verdict, folder, reasons = "rig failure", "", [str(error)]
            print(f"{name:16} seed {seed:3}  {verdict:12} {time.monotonic() - began:6.1f} s  {folder}", flush=True)
            for reason in reasons:
                print(f"{'':16}   {reason}", flush=True)
            if verdict != "valid":
                failures.append(f"{name} seed {seed}: {verdict}")
    print(f"{len(arguments.only) * len(arguments.seeds) - len(failures)} valid, {len(failures)} not")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
