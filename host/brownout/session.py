"""The course of one run: bring the bed up, load it, hurt it, heal it, and collect what the boards saw.

The order of the ending matters: every fault healed, then the load goes on for a while (progress after the last heal is
what liveness asks for), then final reads, then the boards' last events. The same on every rung: it waits only through
the bed's pace. Must not judge, and must not know where its record goes.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

from .contracts import Progress, RigError
from .faults import Plan
from .healing import Unhealed
from .history import BoardEvent, FaultRecord, Gap, Operation, Outcome
from .injector import Injector
from .mqtt_connection import Connect
from .pace import Pace
from .rig import Rig
from .telemetry import Telemetry
from .watch import Watch
from .workload import Workload, WorkloadPlan

AFTERWARDS_S = 2.5  # how long the load goes on after the last heal
FAULTS_WITHIN_S = 60.0  # beyond the campaign's time, for boards that come back slowly
COLLECT_WITHIN_S = 6.0  # a board sends an unacknowledged event again after 3 s
LOOK_S = 0.05


def cluster_of(seed: int) -> int:
    """The number by which boards tell their own run's messages from another's."""
    return seed % 0x7FFFFFFF + 1


class Record(Protocol):
    """Where a run is recorded: store.RunFolder, or sim.runs.MemoryRecord."""

    def write_manifest(self, manifest: Mapping[str, Any]) -> Any: ...

    def append_events(self, events: Sequence[BoardEvent]) -> None: ...

    def append_fault(self, record: FaultRecord) -> None: ...

    def append_operation_invoke(self, operation: Operation) -> Any: ...

    def append_operation_complete(self, operation: Operation) -> None: ...

    def finish(self, manifest: Mapping[str, Any], gaps: Iterable[Gap] = ()) -> None: ...


class SessionBed(Protocol):
    """A bed as a session sees it: bed.Bed, or sim.bed.SimBed. Injector asks it for the switches beside."""

    pace: Pace
    watch: Watch
    telemetry: Telemetry
    names: tuple[str, ...]
    described: dict[str, dict[str, str]]

    def drive(self, function: Callable[[], None]) -> None:
        """Run `function` where it may wait."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def now_ns(self) -> int: ...

    @property
    def connect(self) -> Connect: ...

    def facts(self) -> dict[str, Any]: ...

    def last_facts(self) -> dict[str, Any]: ...

    def heal(self) -> list[str]: ...


class Session:
    """The state of one run while it lasts."""

    def __init__(
        self, plan: Plan, rig: Rig, record: Record, bed: SessionBed, progress: Progress = lambda *_arguments: None
    ) -> None:
        self.plan = plan
        self.rig = rig
        self.record = record
        self.progress = progress
        self.bed = bed
        self.manifest: dict[str, Any] = self._first_manifest()
        self.gaps: list[Gap] = []
        self._done = 0  # operations that were answered with ok

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
            "roster": [[board.board, board.name, board.weight] for board in plan.boards],
            "timing": dict(plan.timing),
            "protocols": list(plan.protocols),
            "checks": dict(plan.checks),
            "finished": False,
        }

    def run(self) -> None:
        """Carry it out; however it ends, the record is complete then. Raises RigError, KeyboardInterrupt."""
        try:
            self.bed.drive(self._run)
        except RigError as error:
            if isinstance(error, Unhealed):
                self.manifest["unhealed"] = str(error)
            self._close(finished=False, reason=str(error))
            raise
        except KeyboardInterrupt:
            self._close(finished=False, reason="interrupted")
            raise
        self._close(finished=True)

    def _run(self) -> None:
        self.record.write_manifest(self.manifest)
        with self.bed as bed:
            self.manifest |= self._facts()
            self.record.write_manifest(self.manifest)
            bed.telemetry.subscribe(self.record.append_events)
            self.record.append_events(bed.telemetry.events())  # those from before; the reader keeps one of each
            load = self._workload()
            start_ns = bed.now_ns()
            self.manifest["began_ns"] = start_ns
            injector = Injector(bed, self.plan.faults, self.record.append_fault, start_ns)
            try:
                load.start(bed.connect)
                injector.start()
                self._pass_time(start_ns)
                self._heal(injector)
                self._afterwards()
                load.stop()
                load.final_reads(within_s=float(self.plan.checks["progress_within_s"]))
                self._collect()
                self.manifest["finished"] = True
            except BaseException as error:
                injector.abandon()
                injector.join(FAULTS_WITHIN_S)
                self._heal_after(error)
                raise
            finally:
                load.close()
                self.gaps = bed.telemetry.gaps()
                self.manifest |= self._last_facts()

    def _close(self, *, finished: bool, reason: str | None = None) -> None:
        """Write the last manifest; the record is complete from then on."""
        if not finished:
            self.manifest["finished"] = False
            self.manifest["reason"] = reason
        self.record.finish(self.manifest, self.gaps)

    def _workload(self) -> Workload:
        return Workload(
            WorkloadPlan.read(self.plan.workload),
            self.rig.bed,
            cluster_of(self.plan.seed),
            self.bed.names,
            self.plan.seed,
            pace=self.bed.pace,
            clock=self.bed.now_ns,
            protocols=self.plan.protocols,
            on_invoke=self.record.append_operation_invoke,
            on_complete=self._complete,
        )

    def _complete(self, operation: Operation) -> None:
        self._done += operation.outcome is Outcome.OK
        self.record.append_operation_complete(operation)

    # The course of a run.

    def _pass_time(self, start_ns: int) -> None:
        """Let the campaign's time pass, and say how far it is."""
        duration_s = self.plan.duration_s
        while (passed_s := (self.bed.now_ns() - start_ns) / 1e9) < duration_s:
            self.progress(f"campaign {self.plan.campaign}", int(passed_s * 10), int(duration_s * 10))
            self.bed.pace.sleep(min(0.2, duration_s - passed_s))
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

    def _heal_after(self, error: BaseException) -> None:
        """Leave nothing cut off or without power; what cannot be reached is said, beside what went wrong first."""
        if isinstance(error, Unhealed):
            return
        try:
            self.bed.heal()
        except RigError as left:
            if isinstance(left, Unhealed):
                self.manifest["unhealed"] = str(left)
            if isinstance(error, RigError) and str(left) != str(error):
                raise RigError(f"{error}. {left}", definite=False) from error

    def _afterwards(self) -> None:
        """Progress and convergence after the last heal, waited for no longer than the campaign's bounds."""
        within_s = float(self.plan.checks["progress_within_s"])
        watch = self.bed.watch
        self.progress("waiting for progress", 0, 1)
        if {"vote", "stake"} & set(self.plan.protocols):
            height = watch.decided_height
            watch.wait(lambda: watch.decided_height > height, within_s)
        else:
            done, until_ns = self._done, self.bed.now_ns() + int(within_s * 1e9)
            while self._done == done and self.bed.now_ns() < until_ns:
                self.bed.pace.sleep(LOOK_S)
        self.bed.pace.sleep(AFTERWARDS_S)
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
        until_ns = bed.now_ns() + int(COLLECT_WITHIN_S * 1e9)
        while bed.telemetry.gaps() and bed.now_ns() < until_ns:
            bed.pace.sleep(LOOK_S)
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
        return {"boards": boards, **self.bed.facts()}

    def _last_facts(self) -> dict[str, Any]:
        return {"ended_ns": self.bed.now_ns(), **self.bed.last_facts()}
