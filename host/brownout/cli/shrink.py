"""brownout shrink: the smallest campaign that violates what a run violated."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..contracts import UsageError
from .common import LiveProgress, json_option, out, print_document
from .explore import parse_time

if TYPE_CHECKING:
    from ..sim.shrink import Shrunk

DEFAULT_LIMIT = "5m"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", "file", type=click.Path(path_type=Path), default=Path("minimal.toml"), show_default=True)
@click.option("--check", help="The check to violate; the first that the run violated if left out.")
@click.option("--time-limit", default=DEFAULT_LIMIT, show_default=True, help="Keep the smallest found by then.")
@click.option("--verify", type=click.IntRange(0, 1000), default=0, help="Run the result so often on --rig, and count.")
@click.option("--rig", "rig_name", default="virtual", show_default=True, help="Where --verify runs it.")
@click.option("--firmware", type=click.Path(path_type=Path), help="What --verify flashes, as in `brownout run`.")
@click.option("--runs", "folder", type=click.Path(path_type=Path), default=Path("runs"), help="Where they go.")
@json_option
def shrink(
    run: Path,
    file: Path,
    check: str | None,
    time_limit: str,
    verify: int,
    rig_name: str,
    firmware: Path | None,
    folder: Path,
    as_json: bool,
) -> int:
    """Shrink the RUN of a folder to a campaign with as few faults, operations, boards and seconds as still violate.

    It is shrunk with the firmware that its boards ran, which its recording holds; without a recording that has to be
    the one that Python imports: PYTHONPATH=its folder. Exit code 1 where the campaign that is written violates the
    check, 2 where the run does not violate it again in the simulator.
    """
    from ..replay import firmware as recorded_firmware

    if recorded_firmware.is_recorded(run) and not recorded_firmware.in_place(run):
        return recorded_firmware.run_with(
            run, _again(run, file, check, time_limit, verify, rig_name, firmware, folder, as_json)
        )
    from ..campaign_text import campaign_text
    from ..rig import load_rig
    from ..sim import shrink as search
    from ..sim.explicit import read_run

    limit_s = parse_time(time_limit)
    recorded = read_run(run)
    if not file.parent.is_dir() or file.is_dir():
        raise UsageError(f"--out {file}: not the path of a file in a folder that there is")
    with LiveProgress() as progress:
        shrunk = search.shrink(
            recorded,
            load_rig("sim"),
            check=check,
            time_limit_s=limit_s,
            progress=lambda what, size: progress(f"shrink {what}: {_sizes(size)}", 0, 1),
        )
    comment = (
        f"Shrunk by `brownout shrink` from seed {recorded.document['seed']} of {recorded.document['campaign']}: "
        f"violates {shrunk.check}."
    )
    file.write_text(campaign_text(shrunk.campaign, comment), encoding="utf-8")
    for name, source in shrunk.campaign.sources.items():
        (file.parent / name).write_text(source, encoding="utf-8")
    violated = _verify(file, shrunk.check, verify, rig_name, folder, firmware)
    if as_json:
        print_document(_document(shrunk, file, rig_name, violated))
    else:
        _show(shrunk, file, rig_name, violated)
    return 1


def _again(
    run: Path,
    file: Path,
    check: str | None,
    time_limit: str,
    verify: int,
    rig_name: str,
    firmware: Path | None,
    folder: Path,
    as_json: bool,
) -> list[str]:
    """The same command, for a Python with the run's firmware."""
    words = ["shrink", str(run), "--out", str(file), "--time-limit", time_limit, "--verify", str(verify)]
    words += ["--rig", rig_name, "--runs", str(folder)]
    words += ["--check", check] if check is not None else []
    words += ["--firmware", str(firmware)] if firmware is not None else []
    return [*words, "--json"] if as_json else words


def _sizes(size: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in size.items())


def _verify(file: Path, check: str, times: int, rig_name: str, folder: Path, firmware: Path | None) -> list[bool]:
    """Whether each of so many runs on a rig violated the check."""
    from .. import campaign as runner
    from ..campaign_file import load_campaign
    from ..rig import load_rig

    loaded, rig = load_campaign(str(file)), load_rig(rig_name)
    violated = []
    with LiveProgress() as progress:
        for seed in range(1, times + 1):
            result = runner.run(loaded, rig, seed, folder, firmware=firmware)
            named = [entry["name"] for entry in result.document["checks"] if entry["verdict"] == "invalid"]
            violated.append(check in named)
            progress(f"verify on {rig_name}", seed, times)
    return violated


def _document(shrunk: Shrunk, file: Path, rig: str, violated: list[bool]) -> dict[str, Any]:
    document = {key: value for key, value in asdict(shrunk).items() if key != "campaign"}
    document["file"] = str(file)
    if violated:
        document["verified"] = {"rig": rig, "runs": len(violated), "violated": sum(violated)}
    return document


def _show(shrunk: Shrunk, file: Path, rig: str, violated: list[bool]) -> None:
    console = out()
    console.print(f"from      {_sizes(shrunk.before)}")
    console.print(f"to        {_sizes(shrunk.after)}, {shrunk.campaign.duration_s:g} s ({shrunk.ended})")
    console.print(f"violates  {shrunk.check}, in {100 * shrunk.rate:.0f}% of simulated runs")
    if violated:
        console.print(f"          and in {sum(violated)} of {len(violated)} runs on {rig}")
    console.print(f"written   {file}, after {shrunk.tries} simulations in {shrunk.seconds:.1f} s")
    console.print(f"run it    brownout run {file} --rig sim")
