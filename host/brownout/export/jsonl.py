"""A run's history of registers in JSON Lines, one event a line, as `brownout check` reads it. Must not judge a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..store import load
from .operations import Event, register_events

SUFFIX = ".jsonl"


def export(run: Path, out: Path) -> Path:
    lines = (json.dumps(_document(event), ensure_ascii=False) + "\n" for event in register_events(load(run)))
    out.write_text("".join(lines), encoding="utf-8")
    return out


def _document(event: Event) -> dict[str, Any]:
    document = {
        "index": event.index,
        "time": event.time_ns,
        "process": event.process,
        "type": event.type,
        "f": event.function,
        "key": event.key,
        "value": event.value,
    }
    if event.error is not None:
        document["error"] = event.error
    if event.found is not None:
        document["found"] = event.found
    return document
