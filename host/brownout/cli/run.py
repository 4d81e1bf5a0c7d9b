"""brownout demo, run, report, heal: campaigns and what is left of them."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import LiveProgress, json_option, open_hand, out, print_document, rig_option
from .live import live_page

if TYPE_CHECKING:
    from ..campaign import RunResult

REPORTS = ("html", "md", "json", "junit")
EXIT_CODES = {"valid": 0, "invalid": 1, "unknown": 3}
MOST_EVIDENCE = 5  # lines of a counter-example on the terminal; the report has all
MOST_ANOMALIES = 5
DEMO_SEED = "1"

out_option = click.option(
    "--out", "folder", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where runs go."
)
live_option = click.option("--live-less", "--no-live", "live_less", is_flag=True, help="Lines of text, no moving bars.")
page_option = click.option("--live", is_flag=True, help="Show the run on a web page as it happens (extra `live`).")
port_option = click.option(
    "--live-port", type=click.IntRange(0, 65535), default=0, show_default="any free one", help="Port of that page."
)


@click.command()
@click.option("--seed", default=DEMO_SEED, show_default=True, help="Another course of the same events.")
@out_option
@json_option
@live_option
@page_option
@port_option
def demo(seed: str, folder: Path, as_json: bool, live_less: bool, live: bool, live_port: int) -> int:
    """Run the demo: five virtual boards, a cut in the middle of a vote, a split, a torn write, and a verdict."""
    with live_page(folder, live, live_port):
        return _run("demo", "virtual", seed, folder, as_json, live_less)


@click.command()
@click.argument("campaign")
@rig_option("virtual")
@click.option("--seed", help="An integer from 0; the same seed gives the same plan. Drawn and named if left out.")
@out_option
@click.option(
    "--firmware",
    type=click.Path(path_type=Path),
    help="Flash the firmware of this folder (boot.py, main.py, brownout_node/) instead of the one shipped.",
)
@click.option("--trust-switches", is_flag=True, help="Cut power by outlets that `rig qualify` could not prove, too.")
@json_option
@live_option
@page_option
@port_option
def run(
    campaign: str,
    rig_name: str,
    seed: str | None,
    folder: Path,
    firmware: Path | None,
    trust_switches: bool,
    as_json: bool,
    live_less: bool,
    live: bool,
    live_port: int,
) -> int:
    """Run CAMPAIGN, a shipped one's name or a campaign file, and judge what happened."""
    with live_page(folder, live, live_port):
        return _run(campaign, rig_name, seed, folder, as_json, live_less, firmware, trust_switches)


def _run(
    campaign_name: str,
    rig_name: str,
    seed: str | None,
    folder: Path,
    as_json: bool,
    live_less: bool,
    firmware: Path | None = None,
    trust_switches: bool = False,
) -> int:
    from .. import campaign as runner
    from ..campaign_file import load_campaign
    from ..document import parse_seed
    from ..rig import load_rig

    number = parse_seed(secrets.randbelow(10**6) if seed is None else seed)
    campaign = load_campaign(campaign_name)
    rig = load_rig(rig_name)
    with LiveProgress(live=not live_less) as progress:
        result = runner.run(
            campaign, rig, number, folder, progress=progress, firmware=firmware, trust_switches=trust_switches
        )
    if as_json:
        print_document(result.document)
    else:
        show_verdict(result.document)
        _show_places(result, campaign_name, rig_name, number, firmware)
    return EXIT_CODES[result.verdict]


def _show_places(result: RunResult, campaign: str, rig: str, seed: int, firmware: Path | None) -> None:
    console = out()
    console.print(f"report    {result.folder / 'report.html'}")
    flashed = f" --firmware {firmware}" if firmware is not None else ""
    console.print(f"run again brownout run {campaign} --rig {rig} --seed {seed}{flashed}")


def show_verdict(document: dict[str, Any]) -> None:
    """The verdict, each check with its finding, and the evidence of those that are not valid."""
    from rich.markup import escape

    console = out()
    colours = {"valid": "green", "invalid": "red", "unknown": "yellow"}
    for check in document["checks"]:
        verdict = check["verdict"]
        console.print(f"[{colours[verdict]}]{verdict:8}[/] {check['name']:16} {escape(str(check['detail']))}")
        if verdict != "valid":
            for line in check["evidence"][:MOST_EVIDENCE]:
                console.print(f"         {escape(_one_line(line))}")
            more = len(check["evidence"]) - MOST_EVIDENCE
            if more > 0:
                console.print(f"         and {more} more, in the report")
    for anomaly in document.get("metrics", {}).get("anomalies", {}).get("found", ())[:MOST_ANOMALIES]:
        console.print(f"[yellow]anomaly [/] {anomaly['board']:16} {anomaly['kind']}: {escape(anomaly['detail'])}")
    more = document.get("metrics", {}).get("anomalies", {}).get("count", 0) - MOST_ANOMALIES
    if more > 0:
        console.print(f"         and {more} more anomalies, in the report")
    verdict = document["verdict"]
    seed = f" (campaign {document['campaign']}, seed {document['seed']})" if "campaign" in document else ""
    console.print(f"[bold {colours[verdict]}]{verdict.upper()}[/]{seed}")


def _one_line(evidence: Any) -> str:
    if not isinstance(evidence, dict):
        return str(evidence)
    return ", ".join(f"{key} {value}" for key, value in evidence.items() if value is not None)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(REPORTS),
    default="html",
    show_default=True,
    help="html writes report.html into the run's folder; the others are printed.",
)
def report(run: Path, form: str) -> None:
    """Report on a RUN again: its verdict with evidence, and what was measured (docs/analysis.md)."""
    if form == "html":
        from ..report import write_report

        click.echo(str(write_report(run)))
        return
    from ..report.formats import render

    click.echo(render(run, form))


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), required=False)
@click.option("--rig", "rig_name", help="Heal this rig by hand instead: links, broker, cables and power of all boards.")
@json_option
def heal(runs: Path | None, rig_name: str | None, as_json: bool) -> None:
    """Undo what a run left behind whose host was killed. RUNS: its folder, or one of runs (default: runs)."""
    from ..campaign import heal as heal_runs
    from ..contracts import UsageError

    if rig_name is not None and runs is not None:
        raise UsageError("heal takes the folder of a run or --rig, not both")
    if rig_name is not None:
        with open_hand(rig_name) as hand:
            done = hand.heal()
    else:
        done = heal_runs(runs or Path("runs"))
    if as_json:
        print_document({"healed": done})
    else:
        click.echo("\n".join(done) if done else "there was nothing to heal")
