"""A run as a trace for Perfetto or chrome://tracing: boards, clients and faults as tracks. Must not judge a run.

The JSON of "Trace Event Format" (Google): microseconds; metadata (M), slices (X) and instants (i).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..analysis.record import Record
from ..history import FaultStage

SUFFIX = ".perfetto.json"
BOARDS, CLIENTS, FAULTS = 1, 2, 3
LEFT_OUT = ("metrics", "file", "flight")


def export(run: Path, out: Path) -> Path:
    with Record(run) as record, out.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        first = True
        for event in _events(record):
            file.write(("" if first else ",\n") + json.dumps(event, separators=(",", ":")))
            first = False
        file.write("\n]}\n")
    return out


def _events(record: Record) -> Iterator[dict[str, Any]]:
    for number, name in ((BOARDS, "boards"), (CLIENTS, "clients"), (FAULTS, "faults")):
        yield _named("process_name", number, 0, name)
    tracks = {name: number for number, name, _ in record.history.manifest.get("roster", ())}
    for name, number in tracks.items():
        yield _named("thread_name", BOARDS, number, name)
    left_out = ", ".join(f"'{kind}'" for kind in LEFT_OUT)
    rows = record.tables.execute(
        f"SELECT board, kind, fields, at_ns, boot, sequence FROM timed WHERE kind NOT IN ({left_out}) ORDER BY at_ns"
    )
    while part := rows.fetchmany(10_000):
        for board, kind, fields, at_ns, boot, sequence in part:
            about = {"boot": boot, "sequence": sequence, **json.loads(fields)}
            yield {
                "name": kind,
                "cat": "board",
                "ph": "i",
                "s": "t",
                "ts": at_ns / 1e3,
                "pid": BOARDS,
                "tid": tracks.get(board, 0),
                "args": about,
            }
    yield from _operations(record)
    yield from _faults(record)


def _named(what: str, process: int, track: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": process, "tid": track, "args": {"name": name}}


def _slice(name: str, process: int, track: int, from_ns: int, until_ns: int, about: dict[str, Any]) -> dict[str, Any]:
    duration_us = max(0, until_ns - from_ns) / 1e3
    return {
        "name": name,
        "cat": "host",
        "ph": "X",
        "ts": from_ns / 1e3,
        "dur": duration_us,
        "pid": process,
        "tid": track,
        "args": about,
    }


def _end_ns(record: Record) -> int:
    return int(record.history.manifest["ended_ns"])


def _operations(record: Record) -> Iterator[dict[str, Any]]:
    for item in record.history.operations:
        until_ns = _end_ns(record) if item.finished_ns is None else item.finished_ns
        about = {
            "key": item.key,
            "value": item.value,
            "result": item.result,
            "outcome": str(item.outcome),
            "status": item.status,
            "board": item.board,
        }
        yield _slice(f"{item.operation} {item.key}", CLIENTS, item.process, item.invoked_ns, until_ns, about)


def _faults(record: Record) -> Iterator[dict[str, Any]]:
    """A slice from its application to its healing, on a track of its own; planned and proven as instants."""
    applied: dict[str, Any] = {}
    tracks: dict[str, int] = {}
    for fault in record.history.faults:
        if fault.id not in tracks:
            tracks[fault.id] = len(tracks) + 1
            yield _named("thread_name", FAULTS, tracks[fault.id], f"{fault.id} {fault.kind}")
        about = {"boards": list(fault.boards), "support": fault.support}
        yield {
            "name": f"{fault.id} {fault.stage}",
            "cat": "host",
            "ph": "i",
            "s": "t",
            "ts": fault.at_ns / 1e3,
            "pid": FAULTS,
            "tid": tracks[fault.id],
            "args": about,
        }
        if fault.stage is FaultStage.APPLIED:
            applied[fault.id] = fault
        elif fault.stage is FaultStage.HEALED and (began := applied.pop(fault.id, None)) is not None:
            yield _slice(fault.kind, FAULTS, tracks[fault.id], began.at_ns, fault.at_ns, about)
    for fault in applied.values():
        yield _slice(fault.kind, FAULTS, tracks[fault.id], fault.at_ns, _end_ns(record), {"boards": list(fault.boards)})
