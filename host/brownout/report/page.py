"""What the report says in tables, as plain rows. Only gathers and words; `figures.py` draws, `page.html` lays out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..analysis.record import Record
from ..analysis.tables import board_metrics, events_by_board
from ..checkers.run import Run

ORDER = {"invalid": 0, "unknown": 1, "valid": 2}
WORDS = {
    "valid": "Every check passed, and the record is whole enough to say so.",
    "invalid": "A promise was broken. The counter-example is below.",
    "unknown": "Nothing was found broken, but the record does not allow to say that nothing was.",
}
# The next height of each life, as checkers.run.height_told has it of an event.
HEIGHTS = """
SELECT board, boot, max(CASE kind WHEN 'boot' THEN CAST(fields->>'next_height' AS BIGINT)
    WHEN 'decided' THEN CAST(fields->>'height' AS BIGINT) + 1 WHEN 'caught_up' THEN CAST(fields->>'next' AS BIGINT)
    ELSE CAST(fields->>'height' AS BIGINT) END)
FROM events WHERE kind IN ('boot', 'decided', 'caught_up', 'prevoted', 'precommitted') GROUP BY ALL
"""
HASH_CHARACTERS = 16
EVIDENCE_ROWS = 24


def brief(value: Any) -> str:
    """A value in a table of evidence: short, and JSON's words for what has none."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e15 else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {brief(part)}" for name, part in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(brief(part) for part in value) or "–"
    return str(value)


def summary(verdict: Mapping[str, Any]) -> str:
    return WORDS.get(str(verdict.get("verdict")), "")


def checks(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The checks, the worst first; evidence as a headline and the rest of its fields."""
    rows = []
    for check in verdict.get("checks", ()):
        evidence = list(check.get("evidence", ()))
        rows.append(
            {
                **check,
                "evidence": evidence,
                "shown": [_evidence_row(entry) for entry in evidence[:EVIDENCE_ROWS]],
                "more": max(0, len(evidence) - EVIDENCE_ROWS),
            }
        )
    return sorted(rows, key=lambda row: ORDER.get(row["verdict"], 3))


def _evidence_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """who, what, when and the rest: of a step, an operation or a fault."""
    rest = dict(entry)
    note = rest.pop("note", None)
    if "step" in entry:
        where = f"boot {rest.pop('boot')}, event {rest.pop('sequence')}"
        return {
            "who": rest.pop("board"),
            "what": rest.pop("step"),
            "at": f"{rest.pop('at_s'):.3f} s",
            "where": where,
            "rest": rest,
            "note": note,
        }
    if "request" in entry:
        invoked, finished = rest.pop("invoked_s"), rest.pop("finished_s")
        until = "no answer" if finished is None else f"{finished:.3f} s"
        return {
            "who": rest.pop("board"),
            "what": rest.pop("operation"),
            "at": f"{invoked:.3f} s to {until}",
            "where": f"client {rest.pop('client')}, request {rest.pop('request')}",
            "rest": rest,
            "note": note,
        }
    if "fault" in entry:
        return {
            "who": ", ".join(rest.pop("boards")) or "broker",
            "what": f"{rest.pop('kind')}, {rest.pop('stage')}",
            "at": f"{rest.pop('at_s'):.3f} s",
            "where": rest.pop("fault"),
            "rest": rest.pop("evidence"),
            "note": note,
        }
    return {"who": rest.pop("board", ""), "what": "", "at": "", "where": "", "rest": rest, "note": note}


def facts(run: Run) -> list[tuple[str, str]]:
    """What identifies the run."""
    manifest = run.history.manifest
    broker = manifest.get("broker") or {}
    gateway_facts = manifest.get("gateway") or {}
    rows = [
        ("Campaign", manifest.get("campaign")),
        ("Seed", manifest.get("seed")),
        ("Rung", manifest.get("rung")),
        ("Rig", manifest.get("rig")),
        ("Started", manifest.get("started_utc")),
        ("Duration", f"{run.ended_ns / 1e9:.1f} s, last fault healed at {run.healed_ns / 1e9:.1f} s"),
        ("Boards", f"{len(run.voters)} voters, {len(run.boards) - len(run.voters)} learners"),
        ("Broker", " ".join(str(part) for part in (broker.get("kind"), broker.get("version")) if part)),
        ("Gateway", _transport(gateway_facts.get("transport"))),
        ("Brownout", manifest.get("brownout_version")),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _transport(transport: Any) -> str:
    if transport == "ssh":
        return "Fabric, over SSH"
    return "invoke, on this machine" if transport == "local" else str(transport or "")


def boards(record: Record) -> list[dict[str, Any]]:
    """Each board from its own mouth: what its last boot event said, beside what was flashed."""
    run = record.run
    heights = {(board, boot): height for board, boot, height in record.rows(HEIGHTS)}
    described = {entry["name"]: entry for entry in run.history.manifest.get("boards", ()) if "name" in entry}
    flashed = (run.history.manifest.get("firmware_flashed") or {}).get("files") or {}
    rows = []
    for name in run.boards:
        boots = run.boots.get(name, [])
        start = next((boot.start for boot in reversed(boots) if boot.start is not None), None)
        entry = described.get(name, {})
        said = dict(entry.get("files") or {})
        for boot in boots:
            said.update({e.fields["name"]: e.fields["hash"] for e in boot.events if e.kind == "file"})
        rows.append(
            {
                "name": name,
                "role": f"voter, weight {run.weights[name]}" if run.weights[name] else "learner",
                "mesh": entry.get("mesh", ""),
                "implementation": start.fields["implementation"] if start else entry.get("implementation", "–"),
                "version": start.fields["version"] if start else entry.get("version", "–"),
                "firmware": (start.fields["firmware"] if start else entry.get("firmware")) or "–",
                "files": _files(said, flashed),
                "boots": len(boots),
                "next_height": heights.get((name, boots[-1].number), 0) if boots else 0,
                "live": not run.is_dark_at_end(name) and bool(boots),
            }
        )
    return rows


def _files(said: Mapping[str, Any], flashed: Mapping[str, Any]) -> str:
    """Whether the files that the board says it runs are those that were flashed."""
    if not said:
        return "not told"
    if not flashed:
        return f"{len(said)} files"
    same = [
        name
        for name, value in flashed.items()
        if str(said.get(name, ""))[:HASH_CHARACTERS] == str(value)[:HASH_CHARACTERS]
    ]
    if len(same) == len(flashed):
        return f"all {len(flashed)} as flashed"
    return f"{len(same)} of {len(flashed)} as flashed"


def gateway(run: Run) -> dict[str, Any]:
    """What ran on the gateway: counts by command, and the commands themselves."""
    document = run.history.manifest.get("gateway") or {}
    rows = []
    counts: Counter[str] = Counter()
    for command in document.get("commands", ()):
        argv = [str(part) for part in command.get("argv", ())]
        short = [Path(argv[0]).name, *argv[1:]] if argv else []
        counts[" ".join(short[1:3] or short)] += 1
        rows.append({"command": " ".join(short), "ms": command.get("ms"), "exit_code": command.get("exit_code")})
    return {
        "transport": _transport(document.get("transport")),
        "fabric": document.get("transport") == "ssh",
        "counts": counts.most_common(),
        "commands": rows,
    }


def operations(run: Run) -> list[dict[str, Any]]:
    """Operation -> how many ended how."""
    table: dict[str, Counter[str]] = {}
    for operation in run.history.operations:
        ended = "mismatch" if operation.status == "mismatch" else str(operation.outcome)
        table.setdefault(operation.operation, Counter())[ended] += 1
    return [
        {"name": name, "ok": c["ok"], "mismatch": c["mismatch"], "fail": c["fail"], "info": c["info"]}
        for name, c in sorted(table.items())
    ]


def spreads(verdict: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    metrics = verdict.get("metrics", {})
    rows = (
        ("half of the boards", "gossip_ms_to_half"),
        ("nine tenths", "gossip_ms_to_nine_tenths"),
        ("all boards", "gossip_ms_to_all"),
    )
    return [(name, metrics[key]) for name, key in rows if metrics.get(key, {}).get("count")]


def latencies(verdict: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    metrics = verdict.get("metrics", {})
    rows = [
        ("proposal to decision, on the proposer's own clock", metrics.get("decision_ms_on_the_proposers_clock", {})),
        ("proposal until all voters had decided", metrics.get("decision_ms_until_all_voters", {})),
        *((f"client's {name}", figures) for name, figures in metrics.get("operation_ms", {}).items()),
    ]
    return [(name, figures) for name, figures in rows if figures.get("count")]


def counters(folder: Path) -> list[dict[str, Any]]:
    """Board by board: what its own counters and the record's count say."""
    measured = board_metrics(folder)
    told: dict[str, int] = {}
    for board, _, count in events_by_board(folder):
        told[board] = told.get(board, 0) + count
    empty = dict.fromkeys(("received", "sent", "persists", "programs", "erases", "least_heap_free", "late_worst_ms"))
    return [{"board": board, "events": told[board], **empty, **measured.get(board, {})} for board in told]
