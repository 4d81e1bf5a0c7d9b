"""brownout calibrate: what a simulated number is worth, and a rig that makes it worth more."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..contracts import UsageError
from .common import LiveProgress, json_option, out, print_document, rig_option

if TYPE_CHECKING:
    from ..rig import SimSpec
    from ..sim.calibrate import Calibrated


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@rig_option("sim")
@click.option("--out", "file", type=click.Path(path_type=Path), default=Path("calibrated.toml"), show_default=True)
@json_option
def calibrate(run: Path, rig_name: str, file: Path, as_json: bool) -> int:
    """Fit the simulator's times to the RUN of a folder, on virtual or real boards, and write them as a rig file.

    Prints how far apart the distributions of both rungs are, before and after, as Kolmogorov-Smirnov distance: 0 is the
    same, 1 nowhere overlaps. The campaign and seed of the run are simulated some dozens of times.
    """
    from ..rig import load_rig
    from ..sim import calibrate as fitting

    rig = load_rig(rig_name)
    history, plan = fitting.read_run(run)
    if not file.parent.is_dir() or file.is_dir():
        raise UsageError(f"--out {file}: not the path of a file in a folder that there is")
    with LiveProgress() as progress:
        calibrated = fitting.calibrate(history, plan, rig, progress)
    comment = f"[sim] fitted by `brownout calibrate` to seed {plan.seed} of {plan.campaign} on rig {plan.rig}"
    file.write_text(fitting.rig_text(rig, calibrated.after, comment), encoding="utf-8")
    if as_json:
        print_document({**asdict(calibrated), "file": str(file)})
    else:
        _show(calibrated, file, plan.campaign)
    return 0


def _show(calibrated: Calibrated, file: Path, campaign: str) -> None:
    console = out()
    console.print(f"{'':36}{'run':>16}{'simulated before':>26}{'after':>26}")
    console.print(f"{'':36}{'n':>6}{'median':>10}" + f"{'n':>8}{'median':>10}{'KS':>8}" * 2)
    for entry in calibrated.comparisons:
        line = f"{entry.name:36}{entry.samples:6}{_ms(entry.median_ms)}"
        line += f"{entry.samples_before:8}{_ms(entry.median_before_ms)}{entry.distance_before:8.2f}"
        line += f"{entry.samples_after:8}{_ms(entry.median_after_ms)}{entry.distance_after:8.2f}"
        console.print(line + ("" if entry.fitted_to else "  too few to fit to"))
    console.print(f"before    {_times(calibrated.before)}")
    console.print(f"after     {_times(calibrated.after)}")
    console.print(f"written   {file}, after {calibrated.tries} simulations")
    console.print(f"use it    brownout run {campaign} --rig {file}")


def _ms(value: float | None) -> str:
    return f"{'–':>10}" if value is None else f"{value:7.1f} ms"


def _times(spec: SimSpec) -> str:
    low_ms, high_ms = spec.latency_ms
    return f"a hop {spec.latency} [{low_ms:g}, {high_ms:g}] ms, a message's work {spec.work_ms:g} ms"
