"""What an exported test asks: does a small campaign still violate a check, with the firmware that Python imports now?

    violations(Path("shrunk.toml"), "voting", seeds=[3, 4, 5, 6, 7])  ->  [(seed, what was found), ..]

Must not search; each seed is one simulation, on the same boards as when the campaign was shrunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..campaign_file import load_campaign
from ..faults import plan
from ..rig import load_rig
from .runs import simulate
from .shrink import SEEDS, rig_of_try


def seeds_of(seed: int) -> list[int]:
    """Those that a campaign is tried with which was shrunk from a run with that seed."""
    return [seed + number for number in range(SEEDS)]


def violations(campaign: Path, check: str, seeds: Sequence[int]) -> list[tuple[int, str]]:
    """Every seed with which the campaign violates the check, and what the check found."""
    loaded, rig = load_campaign(str(campaign)), load_rig("sim")
    found = []
    for at, seed in enumerate(seeds):
        slower = rig_of_try(rig, at)
        for entry in simulate(plan(loaded, slower, seed), slower).document["checks"]:
            if entry["name"] == check and entry["verdict"] == "invalid":
                found.append((seed, str(entry["detail"])))
    return found
