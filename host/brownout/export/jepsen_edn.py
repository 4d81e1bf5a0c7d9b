"""A run's history of registers in EDN, one map a line, as Jepsen writes history.edn. Must not judge a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..store import load
from .operations import Event, register_events

SUFFIX = ".edn"


def export(run: Path, out: Path) -> Path:
    out.write_text("".join(_line(event) + "\n" for event in register_events(load(run))), encoding="utf-8")
    return out


def _line(event: Event) -> str:
    fields = {
        "index": str(event.index),
        "time": _value(event.time_ns),
        "process": str(event.process),
        "type": f":{event.type}",
        "f": f":{event.function}",
        "key": _value(event.key),
        "value": _value(event.value),
    }
    if event.error is not None:
        fields["error"] = _value(event.error)
    if event.found is not None:
        fields["found"] = _value(event.found)
    return "{" + ", ".join(f":{name} {text}" for name, text in fields.items()) + "}"


def _value(value: Any) -> str:
    if value is None:
        return "nil"
    if isinstance(value, tuple):
        return f"[{' '.join(_value(part) for part in value)}]"
    return str(value) if isinstance(value, int) else _text(value)


def _text(value: str) -> str:
    """As in JSON, but for two escapes that EDN does not have, and pairs of surrogates, which it does not join."""
    return (
        '"'
        + "".join(
            json.dumps(one, ensure_ascii=False)[1:-1] if one not in "\b\f" else f"\\u{ord(one):04x}" for one in value
        )
        + '"'
    )
