"""One campaign, from plan to verdict and report; and healing what a run left behind whose host was killed.

    run(campaign, rig, seed, out)  ->  a run's folder with everything in it

Must not judge; checkers do, from the folder. Must not know what happens in between; session.py does.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checkers, report
from .bed import Bed, Hand, quiet
from .campaign_file import Campaign
from .contracts import Progress, UsageError
from .faults import Plan
from .faults import plan as make_plan
from .firmware_build import ENTRY
from .history import FaultStage
from .qualify import refuse_unproven
from .rig import Rig, read_rig
from .session import Session, SessionBed, cluster_of
from .store import RunFolder, read_document, read_faults

if TYPE_CHECKING:
    from .sim.network import Weather


@dataclass(frozen=True)
class RunResult:
    """What `run` returns. document: that of verdict.json."""

    folder: Path
    verdict: str
    document: dict[str, Any]


def run(
    campaign: Campaign,
    rig: Rig,
    seed: int,
    out: Path,
    *,
    progress: Progress = quiet,
    firmware: Path | None = None,
    weather: Weather | None = None,
    trust_switches: bool = False,
) -> RunResult:
    """Run one campaign. UsageError and RigError before or while it comes up; after that there is always a verdict.

    weather: for simulated boards, what the network does by itself. trust_switches: cut the power of boards, too, whose
    outlets `brownout rig qualify` could not prove.

    On KeyboardInterrupt the rig is healed, the folder is kept with what was seen, and the interrupt goes on.
    """
    plan = make_plan(campaign, rig, seed)
    if firmware is not None:
        _check_firmware(firmware, rig)
    if rig.bench is not None and not trust_switches:
        refuse_unproven(plan, rig)
    folder = RunFolder.create(out, campaign.name, seed)
    folder.write_plan(plan.to_document())
    bed = open_bed(plan, rig, folder.path.absolute(), firmware=firmware, progress=progress, weather=weather)
    session = Session(plan, rig, folder, bed, progress)
    try:
        session.run()
    except KeyboardInterrupt:
        judge(folder.path)
        raise
    finally:
        shutil.rmtree(folder.path / "lab", ignore_errors=True)
    document = judge(folder.path)
    return RunResult(folder.path, document["verdict"], document)


def _check_firmware(firmware: Path, rig: Rig) -> None:
    """Whether this folder can be flashed to the boards of that rig."""
    if rig.simulated is not None:
        raise UsageError(
            f"--firmware: simulated boards run the brownout_node that Python imports; say PYTHONPATH={firmware} instead"
        )
    for name in (*ENTRY, "brownout_node"):
        if not (firmware / name).exists():
            raise UsageError(f"--firmware: {firmware} has no {name}; give a folder laid out like the one that ships")


def judge(folder: Path) -> dict[str, Any]:
    """Check a run's folder and write its report; the document of verdict.json."""
    document = checkers.check_run(folder)
    report.write_report(folder)
    return document


def open_bed(
    plan: Plan,
    rig: Rig,
    directory: Path,
    *,
    firmware: Path | None = None,
    progress: Progress = quiet,
    weather: Weather | None = None,
) -> SessionBed:
    """The bed that carries out a plan on its rig. directory: the run's folder."""
    if rig.simulated is not None:
        from .sim.flight import RecordedSimBed

        return RecordedSimBed(rig.simulated, plan, rig, directory, weather)
    return Bed(
        rig,
        plan.boards,
        directory=directory,
        cluster=cluster_of(plan.seed),
        seed=plan.seed,
        settings=plan.configuration,
        firmware=firmware,
        own={name: text for name, text in plan.sources.items() if name != plan.checker},
        recorded=True,
        progress=progress,
        sites=plan.sites,
    )


# Healing after a crash of the host.


def heal(path: Path) -> list[str]:
    """Restore what a run left behind; `path` is its folder, or a folder of runs. Sentences about what was done."""
    folders = [path] if (path / "manifest.json").exists() else sorted(path.glob("*/"))
    folders = [folder for folder in folders if (folder / "manifest.json").exists()]
    if not folders:
        raise UsageError(f"{path}: no run to heal; give the folder of a run, or one that holds runs")
    done: list[str] = []
    for folder in folders:
        manifest = read_document(folder, "manifest.json")
        if not manifest.get("finished") and ("reason" not in manifest or "unhealed" in manifest):
            done += [f"{folder.name}: {line}" for line in _heal_run(folder, manifest)]
    return done


def _heal_run(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    done = []
    rig = read_rig(Path(manifest["rig_file"]))
    if rig.virtual is not None:
        from .drivers import virtual_lab

        said = virtual_lab.down(folder / "lab") if (folder / "lab").exists() else ""
        if said and not said.startswith("no lab"):
            done.append(said)
        shutil.rmtree(folder / "lab", ignore_errors=True)
    else:
        with Hand(rig) as hand:
            done += hand.heal()
    open_faults = {record.id for record in read_faults(folder) if record.stage is not FaultStage.HEALED}
    healed = {record.id for record in read_faults(folder) if record.stage is FaultStage.HEALED}
    left = sorted(open_faults - healed)
    if left:
        done.append(f"faults that the host left standing, now gone: {', '.join(left)}")
    record = RunFolder(folder)
    kept = {key: value for key, value in manifest.items() if key != "unhealed"}
    reason = kept.get("reason", "the host ended in mid-run")
    record.finish({**kept, "reason": f"{reason}; healed afterwards"})
    return done or ["nothing was left standing"]
