"""Puts one known bug after the other into a copy of the firmware and lets the swarm look for it; a table at the end.

    python tools/mutants.py [--only NAME ..] [--seeds 10000] [--jobs 2] [--time-limit 120] [--shrink 60]
                            [--json FILE] [--sound]

The bugs are tests/mutants/*.toml, one exact replacement each. Every hunt is a process of its own whose `brownout_node`
is the changed copy; each seed of the mutant's campaign draws a run (sim/swarm.py), which is simulated and judged, until
one is `invalid` by a check that is expected to see it; it counts if the same run with the firmware as it is is not
`invalid`. --sound lets the same campaigns run on
the firmware as it is: whatever is found then is a false alarm. Exits with 1 if a bug is not found, or a false alarm is.
Must not change the firmware itself, and must not judge.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from brownout.faults import Plan
    from brownout.rig import Rig
    from brownout.sim.network import Weather
    from brownout.sim.runs import Simulated

ROOT = Path(__file__).resolve().parent.parent
FIRMWARE = ROOT / "firmware"
CATALOGUE = ROOT / "tests" / "mutants"
CAMPAIGNS = CATALOGUE / "campaigns"  # beside those that are shipped
SOUND = "sound"  # the name that the unchanged firmware has in a table
SLACK_S = 60.0  # a hunt that overruns its time by so much hangs


@dataclass(frozen=True)
class Mutant:
    """One bug. expected: the checks that may find it. weights: of the voters, where they are not all 1."""

    name: str
    file: str
    old: str
    new: str
    summary: str
    inspired_by: str
    expected: tuple[str, ...]
    campaign: str
    weights: tuple[int, ...] = ()


@dataclass(frozen=True)
class Hunt:
    """What came of one mutant. seeds: tried, the last one is the one that found it. boards, faults, operations: of it.

    shrunk: boards, faults and operations of the smallest campaign that still violates the same check, where asked for.
    alarms: runs that were `invalid` otherwise: by another check, or with the firmware as it is too; they find nothing.
    """

    name: str
    campaign: str
    found_by: tuple[str, ...] = ()
    seeds: int = 0
    seconds: float = 0.0
    detail: str = ""
    boards: int = 0
    faults: int = 0
    operations: int = 0
    unknown: int = 0
    alarms: int = 0
    shrunk: tuple[int, ...] = ()
    error: str = ""

    @property
    def found(self) -> bool:
        return bool(self.found_by)


def read_catalogue(folder: Path = CATALOGUE) -> list[Mutant]:
    """Every mutant of a folder, by name."""
    mutants = []
    for file in sorted(folder.glob("*.toml")):
        document = tomllib.loads(file.read_text(encoding="utf-8"))
        lists = {key: tuple(document.pop(key, ())) for key in ("expected", "weights")}
        mutants.append(Mutant(**document, **lists))
    return mutants


def mutated(mutant: Mutant, source: str) -> str:
    """The file's text with the bug in it. ValueError where the text to replace is not there exactly once."""
    count = source.count(mutant.old)
    if count != 1:
        raise ValueError(f"{mutant.name}: `old` occurs {count} times in {mutant.file}; the firmware has moved on")
    return source.replace(mutant.old, mutant.new)


def make_firmware(mutant: Mutant | None, folder: Path) -> Path:
    """A copy of the firmware below `folder`, with the bug in it; what goes first on the path of Python."""
    shutil.copytree(FIRMWARE, folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    if mutant is not None:
        file = folder / "brownout_node" / mutant.file
        file.write_text(mutated(mutant, file.read_text(encoding="utf-8")), encoding="utf-8")
    return folder


# The hunt, in a process of its own.


def shrunk(plan: Plan, weather: Weather, simulated: Simulated, rig: Rig, within_s: float) -> tuple[int, ...]:
    """Boards, faults and operations of the smallest campaign; nothing where the run hangs on the course of chance."""
    from brownout.contracts import UsageError
    from brownout.sim import shrink
    from brownout.sim.explicit import Recorded

    run = Recorded(plan.to_document(), weather, simulated.history, tuple(shrink.violated(simulated)))
    try:
        smallest = shrink.shrink(run, rig, time_limit_s=within_s).after
    except UsageError:
        return ()
    return smallest["boards"], smallest["faults"], smallest["operations"]


def hunt(mutant: Mutant, seeds: Sequence[int], time_limit_s: float, shrink_s: float, firmware: Path) -> Hunt:
    """Try seeds until one run is `invalid`, or they or the time are over; then shrink that run, if asked for."""
    import brownout_node
    from brownout.campaign_file import load_campaign
    from brownout.contracts import RigError
    from brownout.rig import load_rig
    from brownout.sim.explore import planned
    from brownout.sim.runs import simulate

    if Path(brownout_node.__file__).resolve().parent.parent != firmware.resolve():
        raise SystemExit(f"{brownout_node.__file__} is not the firmware in {firmware}")
    own = CAMPAIGNS / f"{mutant.campaign}.toml"
    campaign = load_campaign(str(own) if own.is_file() else mutant.campaign)
    rig = load_rig("sim")
    began = time.monotonic()
    tried = unknown = 0
    for seed in seeds:
        if time.monotonic() - began > time_limit_s:
            break
        plan, weather = planned(campaign, rig, seed)
        if mutant.weights:
            voters = [board for board in plan.boards if board.weight]
            weighted = [replace(board, weight=own) for board, own in zip(voters, mutant.weights, strict=False)]
            plan = replace(plan, boards=(*weighted, *plan.boards[len(weighted) :]))
        tried += 1
        try:
            simulated = simulate(plan, rig, weather=weather)
        except RigError:
            unknown += 1
            continue
        unknown += simulated.verdict == "unknown"
        wrong = [check for check in simulated.document["checks"] if check["verdict"] == "invalid"]
        if wrong:
            return Hunt(
                mutant.name,
                mutant.campaign,
                tuple(check["name"] for check in wrong),
                tried,
                time.monotonic() - began,
                f"seed {seed}: {wrong[0]['detail']}",
                len(plan.boards),
                len(plan.faults),
                len(simulated.history.operations),
                unknown,
                shrunk=shrunk(plan, weather, simulated, rig, shrink_s) if shrink_s else (),
            )
    return Hunt(mutant.name, mutant.campaign, seeds=tried, seconds=time.monotonic() - began, unknown=unknown)


def hunt_elsewhere(mutant: Mutant, changed: bool, seeds: range, time_limit_s: float, shrink_s: float = 0.0) -> Hunt:
    """The hunt in a process whose firmware is a changed copy (or, where not `changed`, one that is as it was)."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = make_firmware(mutant if changed else None, Path(name))
        words = [seeds.start, seeds.stop - 1, time_limit_s, shrink_s]
        done = subprocess.run(
            [sys.executable, __file__, "--hunt", mutant.name, str(folder), *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=time_limit_s + 2 * shrink_s + SLACK_S,
            check=False,
        )
    if done.returncode:
        return Hunt(mutant.name, mutant.campaign, error=done.stderr.strip().rpartition("\n")[2])
    document = json.loads(done.stdout)
    return Hunt(**{**document, **{key: tuple(document[key]) for key in ("found_by", "shrunk")}})


def hunt_until_sure(mutant: Mutant, seeds: int, time_limit_s: float, shrink_s: float = 0.0) -> Hunt:
    """The hunt, and the same run with the firmware as it is, until one is `invalid` and the other is not."""
    first, seconds, unknown, alarms = 1, 0.0, 0, 0
    while True:
        result = hunt_elsewhere(mutant, True, range(first, seeds + 1), max(1.0, time_limit_s - seconds))
        seconds += result.seconds
        unknown += result.unknown
        first += result.seeds
        seed = range(first - 1, first)
        sure = not result.found or (
            not set(mutant.expected).isdisjoint(result.found_by)
            and not hunt_elsewhere(mutant, False, seed, time_limit_s).found
        )
        alarms += not sure
        if sure or first > seeds or seconds >= time_limit_s:
            break
    size: tuple[int, ...] = ()
    if result.found and sure and shrink_s:
        size = hunt_elsewhere(mutant, True, seed, time_limit_s, shrink_s).shrunk
    by = result.found_by if sure else ()
    return replace(result, found_by=by, seeds=first - 1, seconds=seconds, unknown=unknown, alarms=alarms, shrunk=size)


# The table.


def print_hunt(result: Hunt) -> None:
    by = ", ".join(result.found_by) or result.error or "not found"
    size = f"{result.boards} / {result.faults} / {result.operations}" if result.found else ""
    if result.shrunk:
        size += " -> " + " / ".join(map(str, result.shrunk))
    line = f"{result.name:32} {result.campaign:16} {by[:52]:52} {result.seeds:6} {result.seconds:7.1f}  {size}"
    print(line.rstrip(), flush=True)


def print_table(title: str, results: list[Hunt]) -> None:
    found = [result for result in results if result.found]
    print(f"{title}: {len(found)} of {len(results)} found", end="")
    if found:
        median = statistics.median(result.seeds for result in found)
        worst = max(found, key=lambda result: result.seeds)
        print(f"; seeds: median {median:g}, most {worst.seeds} ({worst.name})", end="")
    print()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mutants = {mutant.name: mutant for mutant in read_catalogue()}
    parser.add_argument("--only", nargs="+", choices=sorted(mutants), default=sorted(mutants), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=10_000, help="the most that one mutant gets")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds that one mutant gets")
    parser.add_argument("--shrink", type=float, default=0.0, help="seconds for shrinking what one mutant was found by")
    parser.add_argument("--json", type=Path, help="write the results there too")
    parser.add_argument("--sound", action="store_true", help="the same campaigns on the firmware as it is")
    arguments = parser.parse_args()
    chosen = [mutants[name] for name in arguments.only]
    if arguments.sound:
        chosen = list({mutant.campaign: replace(mutant, weights=()) for mutant in chosen}.values())
    print(f"{'mutant':32} {'campaign':16} {'found by':52} {'seeds':>6} {'seconds':>7}  boards / faults / operations")
    results = []
    with ThreadPoolExecutor(arguments.jobs) as pool:

        def run(mutant: Mutant) -> Hunt:
            if arguments.sound:
                return hunt_elsewhere(mutant, False, range(1, arguments.seeds + 1), arguments.time_limit)
            return hunt_until_sure(mutant, arguments.seeds, arguments.time_limit, arguments.shrink)

        for result in pool.map(run, chosen):
            print_hunt(replace(result, name=SOUND) if arguments.sound else result)
            results.append(result)
    print_table("false alarms" if arguments.sound else "mutants", results)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1), encoding="utf-8")
    failed = [result for result in results if result.error or result.found == arguments.sound]
    for result in failed:
        print(f"{result.name} [{result.campaign}]: {result.error or result.detail or 'not found'}")
    return 1 if failed else 0


def hunter(name: str, firmware: str, first: str, last: str, time_limit_s: str, shrink_s: str) -> int:
    """What a hunt's own process does: its result is one line of JSON."""
    mutant = next(mutant for mutant in read_catalogue() if mutant.name == name)
    seeds = range(int(first), int(last) + 1)
    result = hunt(mutant, seeds, float(time_limit_s), float(shrink_s), Path(firmware))
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(hunter(*sys.argv[2:]) if sys.argv[1:2] == ["--hunt"] else main())
