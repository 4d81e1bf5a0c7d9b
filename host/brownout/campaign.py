"""One campaign, from plan to verdict: bring the bed up, load it, hurt it, heal it, collect, judge, report.

    run(campaign, rig, seed, out)  ->  a run's folder with everything in it

The order of the ending matters: every fault healed, then the load goes on for a while (progress after the last heal is
what liveness asks for), then final reads, then the boards' last events. Must not judge; checkers do, from the folder.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import checkers, report
from .bed import Bed, Hand, quiet
from .campaign_file import Campaign
from .contracts import Progress, RigError, UsageError
from .faults import Plan
from .faults import plan as make_plan
from .history import FaultStage, Gap
from .injector import Injector
from .rig import Rig, read_rig
from .store import RunFolder, read_document, read_faults
from .workload import Workload

AFTERWARDS_S = 2.5  # how long the load goes on after the last heal
FAULTS_WITHIN_S = 60.0  # beyond the campaign's time, for boards that come back slowly
COLLECT_WITHIN_S = 6.0  # a board sends an unacknowledged event again after 3 s
LOOK_S = 0.05


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
) -> RunResult:
    """Run one campaign. UsageError and RigError before or while it comes up; after that there is always a verdict.

    On KeyboardInterrupt the rig is healed, the folder is kept with what was seen, and the interrupt goes on.
    """
    plan = make_plan(campaign, rig, seed)
    folder = RunFolder.create(out, campaign.name, seed)
    folder.write_plan(plan.to_document())
    session = Session(plan, rig, folder, progress, firmware)
    try:
        session.run()
    except RigError as error:
        session.close(finished=False, reason=str(error))
        raise
    except KeyboardInterrupt:
        session.close(finished=False, reason="interrupted")
        judge(folder.path)
        raise
    document = judge(folder.path)
    return RunResult(folder.path, document["verdict"], document)


def judge(folder: Path) -> dict[str, Any]:
    """Check a run's folder and write its report; the document of verdict.json."""
    document = checkers.check_run(folder)
    report.write_report(folder)
    return document


class Session:
    """The state of one run while it lasts."""

    def __init__(self, plan: Plan, rig: Rig, folder: RunFolder, progress: Progress, firmware: Path | None) -> None:
        self.plan = plan
        self.rig = rig
        self.folder = folder
        self.progress = progress
        self.bed = Bed(
            rig,
            plan.boards,
            directory=folder.path.absolute(),
            cluster=plan.seed % 0x7FFFFFFF + 1,
            seed=plan.seed,
            timing=plan.timing,
            firmware=firmware,
            progress=progress,
        )
        self.manifest: dict[str, Any] = self._first_manifest()
        self.gaps: list[Gap] = []

    def _first_manifest(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "campaign": plan.campaign,
            "seed": plan.seed,
            "rung": plan.rung,
            "rig": plan.rig,
            "rig_file": self.rig.source,
            "started_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "brownout_version": importlib.metadata.version("brownout"),
            "host_pid": os.getpid(),
            "roster": self.bed.roster(),
            "timing": dict(plan.timing),
            "checks": dict(plan.checks),
            "finished": False,
        }

    def run(self) -> None:
        self.folder.write_manifest(self.manifest)
        with self.bed as bed:
            self.manifest |= self._facts()
            self.folder.write_manifest(self.manifest)
            bed.telemetry.subscribe(self.folder.append_events)
            self.folder.append_events(bed.telemetry.events())  # those from before; the reader keeps one of each
            load = self._workload()
            start_ns = bed.now_ns()
            self.manifest["began_ns"] = start_ns
            injector = Injector(bed, self.plan.faults, self.folder.append_fault, start_ns)
            try:
                load.start(*bed.broker_address)
                injector.start()
                self._pass_time(start_ns)
                self._heal(injector)
                self._afterwards()
                load.stop()
                load.final_reads(within_s=float(self.plan.checks["progress_within_s"]))
                self._collect()
                self.manifest["finished"] = True
            except BaseException:
                injector.abandon()
                injector.join(FAULTS_WITHIN_S)
                bed.heal()
                raise
            finally:
                load.close()
                self.gaps = bed.telemetry.gaps()
                self.manifest |= self._last_facts()
        self.close(finished=True)

    def close(self, *, finished: bool, reason: str | None = None) -> None:
        """Write the last manifest; the folder is complete from then on."""
        if not finished:
            self.manifest["finished"] = False
            self.manifest["reason"] = reason
        shutil.rmtree(self.folder.path / "lab", ignore_errors=True)
        self.folder.finish(self.manifest, self.gaps)

    def _workload(self) -> Workload:
        from .workload import WorkloadPlan

        return Workload(
            WorkloadPlan(**self.plan.workload),
            self.rig.bed,
            self.bed.cluster,
            self.bed.names,
            self.plan.seed,
            clock=self.bed.now_ns,
            on_invoke=self.folder.append_operation_invoke,
            on_complete=self.folder.append_operation_complete,
        )

    # The course of a run.

    def _pass_time(self, start_ns: int) -> None:
        """Let the campaign's time pass, and say how far it is."""
        duration_s = self.plan.duration_s
        pause = threading.Event()
        while (passed_s := (self.bed.now_ns() - start_ns) / 1e9) < duration_s:
            self.progress(f"campaign {self.plan.campaign}", int(passed_s * 10), int(duration_s * 10))
            pause.wait(min(0.2, duration_s - passed_s))
        self.progress(f"campaign {self.plan.campaign}", int(duration_s * 10), int(duration_s * 10))

    def _heal(self, injector: Injector) -> None:
        self.progress("healing", 0, 1)
        if not injector.join(FAULTS_WITHIN_S):
            injector.abandon()
            injector.join(FAULTS_WITHIN_S)
        if injector.errors:
            raise injector.errors[0]
        self.bed.heal()
        self.manifest["healed_ns"] = self.bed.now_ns()
        self.progress("healing", 1, 1)

    def _afterwards(self) -> None:
        """Progress and convergence after the last heal, waited for no longer than the campaign's bounds."""
        checks = self.plan.checks
        watch = self.bed.watch
        self.progress("waiting for progress", 0, 1)
        height = watch.decided_height
        watch.wait(lambda: watch.decided_height > height, float(checks["progress_within_s"]))
        threading.Event().wait(AFTERWARDS_S)
        self.progress("waiting for progress", 1, 1)

    def _collect(self) -> None:
        """Wait until all boards have caught up and converged, and the record has no hole that may yet be filled."""
        bed, watch = self.bed, self.bed.watch
        within_s = float(self.plan.checks["converge_within_s"])
        self.progress("collecting", 0, 3)
        watch.wait_for_height(bed.names, watch.decided_height, within_s)
        self.progress("collecting", 1, 3)
        watch.wait_for_one_digest(bed.names, within_s)
        watch.wait_for_all_alive(bed.names, within_s)
        self.progress("collecting", 2, 3)
        until = time.monotonic() + COLLECT_WITHIN_S
        while bed.telemetry.gaps() and time.monotonic() < until:
            threading.Event().wait(LOOK_S)
        self.progress("collecting", 3, 3)

    # The manifest.

    def _facts(self) -> dict[str, Any]:
        """What the boards said of themselves, and what stands around them."""
        boards = []
        for board in self.plan.boards:
            boot = self.bed.watch.boot(board.name)
            assert boot is not None, "the bed is up, so every board has booted"
            boards.append(
                {
                    "name": board.name,
                    "board": board.board,
                    "weight": board.weight,
                    "mesh": board.mesh,
                    "implementation": boot.fields["implementation"],
                    "version": boot.fields["version"],
                    "firmware": boot.fields["firmware"],
                    "files": self.bed.described[board.name],
                }
            )
        mqtt = self.bed.lab.document["mqtt"]
        return {
            "boards": boards,
            "broker": {"kind": mqtt["broker"], "version": mqtt["version"]},
            "firmware_flashed": {"files": self.bed.flashed},
            "lab": {
                "directory": str(self.bed.lab.directory),
                "pid": self.bed.lab.document["pid"],
                "started": self.bed.lab.document["started"],
            },
        }

    def _last_facts(self) -> dict[str, Any]:
        gateway = self.bed.gateway
        return {
            "ended_ns": self.bed.now_ns(),
            "gateway": {
                "transport": gateway.transport,
                "commands": [
                    {"argv": list(result.argv), "ms": round(result.duration_ms, 2), "exit_code": result.exit_code}
                    for result in gateway.commands
                ],
            },
        }


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
        if not manifest.get("finished") and "reason" not in manifest:
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
    record.finish({**manifest, "reason": "the host ended in mid-run; healed afterwards"})
    return done or ["nothing was left standing"]
