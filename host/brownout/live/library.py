"""The runs of a folder: which there are, which go on, and a follower for each that somebody looks at.

A run that goes on is followed without anybody looking, for the metrics; of ended ones a few are kept. Must not write.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from .. import store
from ..contracts import UsageError
from .follow import Document, Follower, runs_now

LOOK_S = 0.25
MOST_ENDED = 4  # followers of ended runs that are kept
MOST_RUNS = 500  # in the table, the newest


class Library:
    """only: the process whose runs alone are of interest, for `run --live`."""

    def __init__(self, base: Path, only: int | None = None) -> None:
        self.base = base
        self.only = only
        self._manifests: dict[str, dict[str, Any]] = {}
        self._ended: set[str] = set()
        self._followers: dict[str, Follower] = {}
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Follow what goes on, from now on."""
        self._thread = threading.Thread(target=self._watch, name="library", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(LOOK_S)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5)
        with self._lock:
            for follower in self._followers.values():
                follower.close()
            self._followers.clear()

    def look(self) -> None:
        """See which runs there are, and follow those that go on."""
        for name in self._names():
            with self._lock:
                if name in self._ended:
                    continue
                document = Document(self.base / name / store.MANIFEST).changed()
                if document is None:
                    continue
                self._manifests[name] = document
                ours = self.only in (None, document.get("host_pid"))
                if ours and runs_now(document):
                    self._follow(name)
                elif document.get("finished") or "reason" in document or not runs_now(document):
                    self._ended.add(name)
        self._thin_out()

    def _names(self) -> list[str]:
        try:
            return sorted((entry.name for entry in self.base.iterdir() if entry.is_dir()), reverse=True)
        except FileNotFoundError:
            return []

    def _follow(self, name: str) -> Follower:
        follower = self._followers.get(name)
        if follower is None:
            follower = self._followers[name] = Follower(self.base / name)
            follower.start()
        return follower

    def _thin_out(self) -> None:
        """Forget ended runs that nobody looks at, the oldest first."""
        with self._lock:
            idle = [n for n, follower in self._followers.items() if follower.ended and not follower.looked_at()]
            for name in sorted(idle)[: max(0, len(idle) - MOST_ENDED)]:
                self._followers.pop(name).close()

    def follower(self, name: str) -> Follower:
        """Of one run, by its folder's name; UsageError where there is none."""
        if name not in self._names() or not (self.base / name / store.MANIFEST).exists():
            raise UsageError(f"{self.base}: no run {name}")
        with self._lock:
            return self._follow(name)

    def live(self) -> Follower | None:
        """The run that began last and goes on; else the last one that was followed."""
        with self._lock:
            followers = [self._followers[name] for name in sorted(self._followers, reverse=True)]
        going = [follower for follower in followers if not follower.ended]
        return next(iter(going or followers), None)

    def followed(self) -> list[Follower]:
        with self._lock:
            return list(self._followers.values())

    def table(self) -> list[dict[str, Any]]:
        """The newest runs, each with what its manifest and its verdict say."""
        self.look()
        rows = []
        for name in self._names():
            manifest = self._manifests.get(name)
            if manifest is None:
                continue
            rows.append(_row(self.base / name, manifest))
            if len(rows) == MOST_RUNS:
                break
        return rows


def _row(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    verdict = Document(folder / store.VERDICT).changed() or {}
    going = runs_now(manifest)
    duration_ns = manifest.get("ended_ns")
    return {
        "name": folder.name,
        "campaign": manifest.get("campaign"),
        "seed": manifest.get("seed"),
        "rung": manifest.get("rung"),
        "rig": manifest.get("rig"),
        "started": manifest.get("started_utc"),
        "boards": len(manifest.get("roster", ())),
        "duration_s": None if duration_ns is None else round(duration_ns / 1e9, 1),
        "going": going,
        "verdict": "running" if going else verdict.get("verdict") or "none",
        "report": (folder / store.REPORT).exists(),
        "broken": [check["name"] for check in verdict.get("checks", ()) if check["verdict"] == "invalid"],
    }
