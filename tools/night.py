"""A night of the swarm: all shipped campaigns in turn, seed after seed, until the time is over.

    python tools/night.py [--hours 8] [--seeds 1000000] [--first 1] [--slice 250] [--jobs 2] [--only demo ..]
                          [--json FILE]

Campaigns take turns at slices of seeds, so that a night that is cut short has tried all of them alike. Prints a line
for each slice, the command that replays each violation, and the counts at the end; Ctrl-C prints them too. Firmware
that ends with an error, and an error of the simulator, are violations as well. Exits with 1 if there is any. Must not
judge.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brownout import resources
from brownout.campaign_file import load_campaign
from brownout.rig import load_rig
from brownout.sim.explore import Found, explore

CRASHES = {"crashes", "simulator"}


@dataclass
class Night:
    """The counts so far."""

    tried: Counter[str] = field(default_factory=Counter)  # by campaign
    unknown: Counter[str] = field(default_factory=Counter)  # by check
    violations: list[dict[str, Any]] = field(default_factory=list)
    processor_s: float = 0.0

    def add(self, name: str, found: Found) -> None:
        self.tried[name] += found.tried
        self.unknown.update(found.checks_unknown)
        self.processor_s += found.processor_seconds
        for tried in found.violations:
            entry = {"campaign": name, "seed": tried.seed, "violated": list(tried.violated), "detail": tried.detail}
            self.violations.append(entry)
            print(f"  {', '.join(tried.violated)}: {tried.detail}", flush=True)
            print(f"  replay it: brownout explore {name} --seed {tried.seed}", flush=True)

    def document(self, seconds: float) -> dict[str, Any]:
        return {
            "seeds": self.tried.total(),
            "violations": len(self.violations),
            "crashes": sum(not CRASHES.isdisjoint(entry["violated"]) for entry in self.violations),
            "seconds": round(seconds, 1),
            "processor_seconds": round(self.processor_s, 1),
            "by_campaign": dict(self.tried),
            "checks_unknown": dict(self.unknown),
            "found": self.violations,
        }


def spend(night: Night, arguments: argparse.Namespace, until: float) -> bool:
    """Whether it went on to the end: False where it was interrupted."""
    rig = load_rig("sim")
    last = arguments.first + arguments.seeds - 1
    for first in range(arguments.first, last + 1, arguments.slice):
        for name in arguments.only:
            left_s = until - time.monotonic()
            if left_s <= 0:
                return True
            seeds = range(first, min(first + arguments.slice - 1, last) + 1)
            campaign = load_campaign(name)
            found = explore(campaign, seeds, rig, jobs=arguments.jobs, time_limit_s=left_s, stop_at_first=False)
            print(
                f"{name:16} seeds {seeds.start}..{seeds.start + found.tried - 1}: {len(found.violations)} violations,"
                f" {found.seconds:.0f} s",
                flush=True,
            )
            night.add(name, found)
            if found.ended == "interrupted":
                return False
    return True


def main() -> int:
    shipped = resources.shipped(resources.campaigns_directory())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=8.0, help="no seed begins later than that")
    parser.add_argument("--seeds", type=int, default=1_000_000, help="the most that one campaign gets")
    parser.add_argument("--first", type=int, default=1, help="the first seed; another night may begin where one ended")
    parser.add_argument("--slice", type=int, default=250, help="seeds of one campaign before it is the next one's turn")
    parser.add_argument("--jobs", type=int, help="processes; all cores if left out")
    parser.add_argument("--only", nargs="+", choices=shipped, default=shipped)
    parser.add_argument("--json", type=Path, help="write the counts there too")
    arguments = parser.parse_args()
    began = time.monotonic()
    night = Night()
    finished = spend(night, arguments, began + 3600 * arguments.hours)
    counts = night.document(time.monotonic() - began)
    print(
        f"{counts['seeds']} seeds of {len(night.tried)} campaigns in {counts['seconds']:.0f} s:"
        f" {counts['violations']} violations, {counts['crashes']} of them crashes"
        + "".join(f"; {check} unknown in {count}" for check, count in sorted(night.unknown.items()))
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(counts, indent=1), encoding="utf-8")
    if not finished:
        return 130
    return 1 if night.violations else 0


if __name__ == "__main__":
    sys.exit(main())
