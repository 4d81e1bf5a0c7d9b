"""A bed of simulated boards that is recorded as a real one is, and runs as it would without.

Recordings go straight into the run's folder instead of by telemetry: a run has the same course whether it is recorded
or not, so a seed that a search found violates in a folder too. Must not be used by searches; it costs time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ..faults import Plan
from ..replay.tap import FlightRecord, RecordedSimNode
from ..rig import Rig, SimSpec
from .bed import SimBed
from .network import Weather
from .transcript import Parts


class RecordedSimBed(SimBed):
    """directory: the run's folder."""

    def __init__(self, spec: SimSpec, plan: Plan, rig: Rig, directory: Path, weather: Weather | None = None) -> None:
        self.flight = FlightRecord(directory, lambda: self.engine.now_ns, by_events=False)
        super().__init__(spec, plan, rig, weather=weather, parts=self._parts)

    def _parts(self, document: Mapping[str, Any]) -> Parts:
        self.flight.board(document)
        flight = self.flight
        return Parts(
            node=lambda config, journal, about, entropy: RecordedSimNode(flight, config, journal, about, entropy)
        )

    def __enter__(self) -> Self:
        try:
            return super().__enter__()
        except BaseException:
            self.flight.close()
            raise

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.flight.close()
