"""One simulated run without a folder: plan in, history and verdict out. What searches call thousands of times.

    simulate(plan, rig)  ->  Simulated

Must not write anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import checkers
from ..contracts import UsageError
from ..faults import Plan
from ..history import BoardEvent, FaultRecord, Gap, History, Operation
from ..rig import Rig
from ..session import Session
from ..store import order_events
from .bed import SimBed
from .network import Struck, Weather
from .transcript import Parts


class MemoryRecord:
    """Satisfies session.Record, and keeps it all in memory."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._operations: list[Operation] = []
        self._events: dict[tuple[str, int, int], BoardEvent] = {}
        self._faults: list[FaultRecord] = []
        self._gaps: list[Gap] = []
        self._manifest: dict[str, Any] = {}

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        self._manifest = dict(manifest)

    def append_events(self, events: Sequence[BoardEvent]) -> None:
        for event in events:
            self._events.setdefault((event.board, event.boot, event.sequence), event)

    def append_fault(self, record: FaultRecord) -> None:
        self._faults.append(record)

    def append_operation_invoke(self, operation: Operation) -> None:
        self._operations.append(operation)

    def append_operation_complete(self, operation: Operation) -> None:
        """The operation noted when it was invoked is the very same object."""

    def finish(self, manifest: Mapping[str, Any], gaps: Iterable[Gap] = ()) -> None:
        self._manifest = dict(manifest)
        self._gaps.extend(gaps)

    def history(self) -> History:
        return History(
            self._operations,
            order_events(self._events.values()),
            self._faults,
            self._gaps,
            self._manifest,
            self._plan.to_document(),
        )


@dataclass(frozen=True)
class Simulated:
    """document: that of verdict.json. calls: what the engine carried out. struck: messages that the weather met."""

    history: History
    document: dict[str, Any]
    trace_hash: str
    calls: int
    struck: tuple[Struck, ...] = ()

    @property
    def verdict(self) -> str:
        return str(self.document["verdict"])


def simulate(
    plan: Plan,
    rig: Rig,
    *,
    weather: Weather | None = None,
    parts: Callable[[Mapping[str, Any]], Parts] | None = None,
) -> Simulated:
    """Carry a plan out on simulated boards and judge it. UsageError where the rig is not a simulated one."""
    if rig.simulated is None:
        raise UsageError(f"{rig.source}: rig {rig.name!r} has no [sim]; only simulated boards can be searched")
    record = MemoryRecord(plan)
    bed = SimBed(rig.simulated, plan, rig, weather=weather, parts=parts)
    Session(plan, rig, record, bed).run()
    history = record.history()
    return Simulated(
        history, checkers.judge(history), bed.world.trace_hash, bed.engine.calls, tuple(bed.world.network.struck)
    )
