"""brownout explore: many seeds of a campaign in the simulator, and what they found."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import LiveProgress, json_option, out, print_document
from .exhaustive import bounds_options, search_and_show
from .run import EXIT_CODES, out_option, show_verdict

if TYPE_CHECKING:
    from ..campaign_file import Campaign
    from ..rig import Rig
    from ..sim.explore import Found

UNITS_S = {"s": 1, "m": 60, "h": 3600, "": 1}
MOST_SEEDS = 10**9
INTERRUPTED = 130


@click.command()
@click.argument("campaign", required=False)
@click.option("--seeds", default="1..1000", show_default=True, help="Which seeds to try: A..B, both included.")
@click.option("--seed", type=click.IntRange(0), help="Replay this seed alone, and keep it in a run's folder.")
@click.option("--jobs", type=click.IntRange(1, 1024), help="Processes; all cores if left out.")
@click.option("--time-limit", help="Stop after so long: 90s, 20m, 8h. Goes on past the last seed until then.")
@click.option("--all", "collect_all", is_flag=True, help="Collect all violations instead of stopping at the first.")
@click.option("--dask", metavar="ADDRESS", help="Try them on a Dask cluster: its scheduler, tcp://host:8786.")
@click.option("--rig", "rig_name", default="sim", show_default=True, help="A simulated rig.")
@click.option("--exhaustive", is_flag=True, help="Every course of events of a tiny cluster instead of a CAMPAIGN.")
@bounds_options
@out_option
@json_option
def explore(
    campaign: str | None,
    seeds: str,
    seed: int | None,
    jobs: int | None,
    time_limit: str | None,
    collect_all: bool,
    dask: str | None,
    rig_name: str,
    exhaustive: bool,
    folder: Path,
    as_json: bool,
    **bounds: int | None,
) -> int:
    """Search seeds of CAMPAIGN for violations: each draws boards, faults, load, timings and weather.

    With --exhaustive: every order of messages, loss, crash and time-out of a tiny cluster, down to a depth.
    """
    from ..contracts import UsageError

    limit_s = None if time_limit is None else parse_time(time_limit)
    if exhaustive:
        if campaign is not None or seed is not None or jobs is not None or dask is not None or collect_all:
            raise UsageError(
                "--exhaustive takes no CAMPAIGN, --seed, --jobs, --dask or --all: give bounds, as --depth 8"
            )
        return search_and_show(bounds, limit_s, as_json)
    if campaign is None:
        raise UsageError("explore needs a CAMPAIGN, as split-brain, or --exhaustive")
    if any(bound is not None for bound in bounds.values()):
        raise UsageError(f"{', '.join('--' + name for name in bounds)}: only with --exhaustive")
    from ..campaign_file import load_campaign
    from ..rig import load_rig
    from ..sim import explore as search

    loaded, rig = load_campaign(campaign), load_rig(rig_name)
    if seed is not None:
        return _replay(loaded, rig, seed, folder, as_json)
    first, last = parse_seeds(seeds)
    total = last - first + 1
    with LiveProgress() as progress:

        def tell(found: Found) -> None:
            if limit_s is None:
                progress(f"explore {loaded.name}", found.tried, total)
            else:
                progress(f"explore {loaded.name}", min(int(found.seconds), int(limit_s)), int(limit_s))

        found = search.explore(
            loaded,
            range(first, last + 1),
            rig,
            jobs=jobs,
            time_limit_s=limit_s,
            stop_at_first=not collect_all,
            progress=tell,
            dask=dask,
        )
    if as_json:
        print_document(to_document(found, campaign, rig_name))
    else:
        show_found(found, campaign, rig_name)
    if found.ended == "interrupted":
        return INTERRUPTED
    return 1 if found.violations else 0


def parse_seeds(text: str) -> tuple[int, int]:
    from ..contracts import UsageError

    match = re.fullmatch(r"(\d{1,18})(?:\.\.(\d{1,18}))?", text)
    if match is None:
        raise UsageError(f"--seeds: {text!r}; allowed: A..B, two integers from 0, such as 1..1000")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first or last - first >= MOST_SEEDS:
        raise UsageError(f"--seeds: {text!r}; allowed: A..B with A up to B, and up to {MOST_SEEDS} of them")
    return first, last


def parse_time(text: str) -> float:
    from ..contracts import UsageError

    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smh]?)", text)
    if match is None or not float(match[1]):
        raise UsageError(f"--time-limit: {text!r}; allowed: seconds, minutes or hours, such as 90s, 20m, 8h")
    return float(match[1]) * UNITS_S[match[2]]


def replay_command(campaign: str, rig: str, seed: int) -> str:
    return f"brownout explore {campaign} --seed {seed}" + (f" --rig {rig}" if rig != "sim" else "")


def to_document(found: Found, campaign: str, rig: str) -> dict[str, Any]:
    document = asdict(found)
    document["checks_unknown"] = dict(found.checks_unknown)
    for entry in (*document["violations"], *document["unknown"]):
        entry["replay"] = replay_command(campaign, rig, entry["seed"])
    return document


def show_found(found: Found, campaign: str, rig: str) -> None:
    from rich.markup import escape

    console = out()
    for tried in found.violations:
        console.print(f"[red]invalid[/]  seed {tried.seed}: {', '.join(tried.violated)}: {escape(tried.detail)}")
        console.print(f"         {replay_command(campaign, rig, tried.seed)}")
    for name, count in found.checks_unknown.most_common():
        example = next(tried for tried in found.unknown if name in tried.unknown)
        console.print(f"[yellow]unknown[/]  {count} by {name}, such as seed {example.seed}: {escape(example.detail)}")
    if found.unproven:
        console.print(f"in {found.unproven} of {found.tried} seeds a fault met nothing, such as no message to hold")
    rate = found.tried / found.seconds if found.seconds else 0.0
    console.print(
        f"{found.tried} seeds of {found.campaign}: {len(found.violations)} violations, {len(found.unknown)} unknown, "
        f"in {found.seconds:.1f} s ({rate:.1f} a second); ended by: {found.ended}"
    )


def _replay(campaign: Campaign, rig: Rig, seed: int, folder: Path, as_json: bool) -> int:
    from .. import campaign as runner
    from ..sim.swarm import draw

    drawn = draw(campaign, seed)
    with LiveProgress() as progress:
        result = runner.run(drawn.campaign, rig, seed, folder, progress=progress, weather=drawn.weather)
    if as_json:
        print_document(result.document)
    else:
        show_verdict(result.document)
        out().print(f"report    {result.folder / 'report.html'}")
    return EXIT_CODES[result.verdict]
