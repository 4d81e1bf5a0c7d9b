"""A run's folder that a test writes while somebody looks on, and the merging that a page does of what it is told."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from brownout.history import BoardEvent
from brownout.store import RunFolder
from history_builder import World


class LiveRun:
    """The folder of a run of this process, on the host's monotonic clock."""

    def __init__(self, base: Path, world: World, campaign: str = "written", plan: dict[str, Any] | None = None) -> None:
        self.began_ns = time.monotonic_ns()
        self.folder = RunFolder.create(base, campaign, 1)
        self.path = self.folder.path
        self.world = world
        self.folder.write_plan(plan or {"faults": []})
        history = world.history()
        self.manifest = {
            **history.manifest,
            "campaign": campaign,
            "seed": 1,
            "rung": "virtual",
            "host_pid": os.getpid(),
            "finished": False,
            "boards": [],
            "clock": {"monotonic_began_ns": self.began_ns},
        }
        self.folder.write_manifest(self.manifest)

    def now_ns(self) -> int:
        return time.monotonic_ns() - self.began_ns

    def receive(self, events: Sequence[BoardEvent]) -> list[BoardEvent]:
        """As a host does with what has just come."""
        now_ns = self.now_ns()
        stamped = [replace(event, received_ns=now_ns) for event in events]
        self.folder.append_events(stamped)
        return stamped

    def end(self, verdict: str = "valid") -> None:
        """As a run does: the record, then the verdict, then the report."""
        self.manifest |= {"finished": True, "ended_ns": self.now_ns()}
        self.folder.finish(self.manifest)
        self.folder.write_verdict({"verdict": verdict, "checks": [], "metrics": {}})
        (self.path / "report.html").write_text("<!doctype html><title>the report</title><p>report")


def merge(picture: dict[str, Any], change: dict[str, Any]) -> None:
    """What live.js does with an update."""
    for name, value in change.items():
        if name == "curves":
            points = {point["second"]: point for point in (*picture["curves"], *value)}
            picture["curves"] = [points[second] for second in sorted(points)]
        elif name in ("boards", "faults"):
            picture[name].update(value)
        elif name == "lines":
            picture["lines"] = (picture["lines"] + value)[-200:]
        else:
            picture[name] = value
