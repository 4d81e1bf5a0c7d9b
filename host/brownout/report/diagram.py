"""The data of the space-time diagram: every event of every board as columns, and which followed from which.

`diagram.js` draws it. Times are the host's, by each board's own clock, in microseconds. Where a run has more events
than a page can hold, whole stories are left out (all events of one update, of one height), never evidence or boots,
and `one_in` says how many. Must not judge: what is evidence the verdict says.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from ..analysis.causality import cause_of, name_of
from ..analysis.record import Record
from .figures import fault_lives, shade_of

MOST_EVENTS = 40_000
TEXT_CHARACTERS = 160
# What a reader filters by. A kind in no group is of "other".
GROUPS = {
    "rumours": ("written", "merged"),
    "votes": ("proposed", "prevoted", "precommitted", "byzantine_proposed", "byzantine_voted"),
    "decisions": ("decided", "byzantine_decided"),
    "clients": ("submitted", "applied", "refused"),
    "members": ("member",),
    "digests": ("digest",),
    "life": ("boot", "file", "described", "safe_mode", "lost_events", "degraded"),
}
ROUTINE = sum((GROUPS[name] for name in ("rumours", "votes", "decisions", "clients", "members", "digests")), ())
EVENTS = """
SELECT board, boot, sequence, kind, at_ns, CAST(fields AS VARCHAR) FROM timed
WHERE {one_in} = 1 OR kind NOT IN ({routine}) OR (board, boot, sequence) IN ({evidence})
    OR hash(coalesce(fields->>'stamp', fields->>'height', fields->>'request', CAST(sequence AS VARCHAR))) % {one_in} = 0
ORDER BY at_ns, board, sequence LIMIT {most}
"""


def packed(document: Mapping[str, Any]) -> str:
    """A `document` as base64 of its deflated JSON: what the page carries."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def document(record: Record, evidence: Sequence[Mapping[str, Any]], most: int = MOST_EVENTS) -> dict[str, Any]:
    """boards, kinds and groups by name; columns of events (at_us as differences); links as pairs of events; faults.

    evidence: entries of the verdict; the events among them are in `evidence` by their places.
    """
    run = record.run
    boards = {name: place for place, name in enumerate(run.boards)}
    proofs = {(e["board"], e["boot"], e["sequence"]) for e in evidence if "step" in e and e["sequence"] is not None}
    one_in = max(1, -(-record.count // most))
    rows = [row for row in _rows(record, one_in, proofs, 2 * most) if row[0] in boards]
    kinds = {kind: place for place, kind in enumerate(sorted({row[3] for row in rows}))}
    fields = [json.loads(row[5] or "{}") for row in rows]
    at_us = [max(0, row[4] // 1000) for row in rows]  # what a clock is unsure of may reach before the start
    return {
        "boards": list(boards),
        "kinds": list(kinds),
        "groups": [_group(kind) for kind in kinds],
        "ended_us": run.ended_ns // 1000,
        "one_in": one_in,
        "count": record.count,
        "at_us": [now - before for before, now in zip([0, *at_us], at_us, strict=False)],
        "board": [boards[row[0]] for row in rows],
        "boot": [row[1] for row in rows],
        "sequence": [row[2] for row in rows],
        "kind": [kinds[row[3]] for row in rows],
        "text": [_text(found) for found in fields],
        "links": _links(rows, fields, record),
        "evidence": [place for place, row in enumerate(rows) if row[:3] in proofs],
        "faults": [_fault(row, boards) for row in fault_lives(run)],
    }


def _rows(record: Record, one_in: int, proofs: set[tuple[Any, ...]], most: int) -> list[tuple[Any, ...]]:
    held = [part for proof in sorted(proofs) for part in proof]
    places = ", ".join(["(?, ?, ?)"] * len(proofs)) or "('', -1, -1)"
    routine = ", ".join(f"'{kind}'" for kind in ROUTINE)
    return record.rows(EVENTS.format(one_in=one_in, routine=routine, evidence=places, most=most), *held)


def _group(kind: str) -> str:
    return next((name for name, kinds in GROUPS.items() if kind in kinds), "other")


def _text(fields: Mapping[str, Any]) -> str:
    told = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
    return told if len(told) <= TEXT_CHARACTERS else told[: TEXT_CHARACTERS - 1] + "…"


def _links(rows: Iterable[tuple[Any, ...]], fields: Sequence[Mapping[str, Any]], record: Record) -> list[int]:
    """Pairs of places, one after the other: the cause and what followed from it on another board."""
    names = {number: name for number, name, _ in record.history.manifest.get("roster", ())}
    told: dict[Hashable, tuple[int, str]] = {}
    links: list[int] = []
    for place, row in enumerate(rows):
        name = name_of(row[0], row[3], fields[place])
        if name is not None:
            told.setdefault(name, (place, row[0]))
    for place, row in enumerate(rows):
        cause = told.get(cause_of(row[3], fields[place], names))
        if cause is not None and cause[1] != row[0]:
            links += [cause[0], place]
    return links


def _fault(row: Mapping[str, Any], boards: Mapping[str, int]) -> dict[str, Any]:
    times = {stage: row[f"{stage}_ns"] for stage in ("planned", "applied", "proven", "healed")}
    return {
        "id": row["id"],
        "kind": row["kind"],
        "shade": shade_of(row["kind"]),
        "boards": [boards[name] for name in row["boards"] if name in boards],
        **{stage: None if at is None else at // 1000 for stage, at in times.items()},
    }
