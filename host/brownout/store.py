"""A run's folder: written live, so that a host that is killed leaves a folder that still reads.

While a run lasts, operations, faults, events and gaps are appended line by line, each line flushed to the system;
faults are also forced to the disk before they are applied, because healing after a crash reads them. At the end the
events become `events.parquet`. Reading takes complete and interrupted folders alike; a torn last line is dropped and
said so in the manifest's `damage`. Must not judge anything, and must not change what it was given.

    manifest.json  plan.json  verdict.json      documents, replaced as a whole by rename
    faults.jsonl   history.jsonl   gaps.jsonl   appended
    events.jsonl   ->   events.parquet          appended, then converted
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import duckdb

from .contracts import UsageError
from .history import BoardEvent, FaultRecord, FaultStage, Gap, History, Operation, Outcome

MANIFEST = "manifest.json"
PLAN = "plan.json"
VERDICT = "verdict.json"
FAULTS = "faults.jsonl"
OPERATIONS = "history.jsonl"
GAPS = "gaps.jsonl"
EVENTS_LIVE = "events.jsonl"
EVENTS = "events.parquet"
REPORT = "report.html"

# The columns of the events, in the file that is appended and in Parquet. `fields` is a JSON object.
EVENT_COLUMNS = {
    "board": "VARCHAR",
    "boot": "BIGINT",
    "sequence": "BIGINT",
    "now_ms": "BIGINT",
    "stamp": "BIGINT",
    "kind": "VARCHAR",
    "fields": "JSON",
    "received_ns": "BIGINT",
    "channel": "VARCHAR",
}
SAME_COUNT = 64  # boots closer than that are of one count
UNCOUNTED_BOOTS_FROM = 0x10000000  # a board without a journal starts its count of boots up here (core/node.py)


def _compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


class _Appender:
    """One file of JSON lines; every append is one write, handed to the system before it returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None

    def append(self, documents: Iterable[Any], *, force: bool = False) -> None:
        data = b"".join(_compact(document) + b"\n" for document in documents)
        if not data:
            return
        with self._lock:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            self._file.write(data)
            if force:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def _first_free(base: Path, stem: str) -> Path:
    """Make the folder of the first name that nobody has, of two runs that begin in the same second too."""
    for attempt in range(1, 1000):
        path = base / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise UsageError(f"{base / stem}: there are a thousand runs of this name already; take another --out")


class RunFolder:
    """The folder of one run, while it is written. All methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._document_lock = threading.Lock()
        self._index_lock = threading.Lock()
        self._operations = _Appender(path / OPERATIONS)
        self._faults = _Appender(path / FAULTS)
        self._events = _Appender(path / EVENTS_LIVE)
        self._gaps = _Appender(path / GAPS)
        self._indexes: dict[tuple[int, int], int] = {}

    @classmethod
    def create(cls, base: Path, campaign: str, seed: int, *, at: time.struct_time | None = None) -> RunFolder:
        """Make a new folder below `base`, named after the time (UTC), the campaign and the seed."""
        stem = f"{time.strftime('%Y%m%dT%H%M%SZ', at or time.gmtime())}-{campaign}-{seed}"
        try:
            base.mkdir(parents=True, exist_ok=True)
            path = _first_free(base, stem)
            (path / "serial").mkdir()
        except OSError as error:
            raise UsageError(f"{base}: no runs can be kept there ({error.strerror}); take another --out") from error
        return cls(path)

    # Documents.

    def write_document(self, name: str, document: Mapping[str, Any]) -> Path:
        """Replace one JSON document as a whole: a reader sees the old or the new one."""
        path = self.path / name
        draft = path.with_suffix(".draft")
        with self._document_lock:
            draft.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
            draft.replace(path)
        return path

    def write_manifest(self, manifest: Mapping[str, Any]) -> Path:
        return self.write_document(MANIFEST, manifest)

    def write_plan(self, plan: Mapping[str, Any]) -> Path:
        return self.write_document(PLAN, plan)

    def write_verdict(self, verdict: Mapping[str, Any]) -> Path:
        return self.write_document(VERDICT, verdict)

    def serial_log(self, board: str) -> Path:
        """Where the console text of one board goes."""
        return self.path / "serial" / f"{board}.log"

    # Appended live.

    def append_operation_invoke(self, operation: Operation) -> int:
        """Note that an operation is about to be sent. Returns its index in this run."""
        with self._index_lock:
            index = len(self._indexes)
            self._indexes[(operation.client, operation.request)] = index
        self._operations.append(
            [
                {
                    "type": "invoke",
                    "index": index,
                    "time_ns": operation.invoked_ns,
                    "process": operation.process,
                    "client": operation.client,
                    "request": operation.request,
                    "operation": operation.operation,
                    "key": operation.key,
                    "value": operation.value,
                    "expected": operation.expected,
                    "board": operation.board,
                }
            ]
        )
        return index

    def append_operation_complete(self, operation: Operation) -> None:
        """Note how an operation ended; it must have been invoked. `board` may have changed (the one asked last)."""
        with self._index_lock:
            index = self._indexes[(operation.client, operation.request)]
        self._operations.append(
            [
                {
                    "type": str(operation.outcome),
                    "index": index,
                    "time_ns": operation.finished_ns,
                    "board": operation.board,
                    "result": operation.result,
                    "status": operation.status,
                    "height": operation.height,
                }
            ]
        )

    def append_fault(self, record: FaultRecord) -> None:
        """Journal one stage of a fault; on return it is on the disk."""
        self._faults.append([asdict(record)], force=True)

    def append_events(self, events: Sequence[BoardEvent]) -> None:
        """Append a batch of decoded events. The same event may come twice; the reader keeps one."""
        self._events.append(_event_document(event) for event in events)

    def append_gap(self, gap: Gap) -> None:
        self._gaps.append([asdict(gap)])

    def finish(self, manifest: Mapping[str, Any], gaps: Iterable[Gap] = ()) -> None:
        """Close the run: note the gaps, convert the events to Parquet, and write the final manifest last."""
        for gap in gaps:
            self.append_gap(gap)
        self.close()
        convert_events(self.path)
        self.write_manifest(manifest)

    def close(self) -> None:
        """Close the files; what was appended stays readable."""
        for appender in (self._operations, self._faults, self._events, self._gaps):
            appender.close()


def _event_document(event: BoardEvent) -> dict[str, Any]:
    document = {name: getattr(event, name) for name in EVENT_COLUMNS}
    document["fields"] = dict(event.fields)
    return document


# Reading.


def load(folder: Path, kinds: Sequence[str] | None = None) -> History:
    """The history of a run, complete or interrupted. UsageError where the folder is not one of a run.

    kinds: only the events of these kinds, for what does not need the others and has millions of them.
    """
    damage: list[str] = []
    manifest = read_document(folder, MANIFEST)
    plan = read_document(folder, PLAN) if (folder / PLAN).exists() else {"faults": []}
    operations = _operations(_lines(folder / OPERATIONS, damage), damage)
    faults = [_fault(line) for line in _lines(folder / FAULTS, damage)]
    gaps = [Gap(**line) for line in _lines(folder / GAPS, damage)]
    events = _read_events(folder, damage, kinds)
    if damage:
        manifest = {**manifest, "damage": damage}
    return History(operations, order_events(events), faults, gaps, manifest, plan)


def read_document(folder: Path, name: str) -> dict[str, Any]:
    """One JSON document of a run's folder."""
    path = folder / name
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"{folder}: not the folder of a run, it has no {name}") from None
    except NotADirectoryError:
        raise UsageError(f"{folder}: not a folder; give the folder of a run") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: must hold a JSON object, not {type(document).__name__}")
    return document


def read_faults(folder: Path) -> list[FaultRecord]:
    """The journal of faults alone: what healing after a crash needs."""
    return [_fault(line) for line in _lines(folder / FAULTS, [])]


def _lines(path: Path, damage: list[str]) -> list[dict[str, Any]]:
    """The lines of a file that was appended. A line that a killed host left half written is dropped, and said so."""
    if not path.exists():
        return []
    documents = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        try:
            document = json.loads(line)
        except ValueError:
            damage.append(f"{path.name} line {number} is torn: {len(line)} bytes dropped")
            continue
        documents.append(document)
    return documents


def _operations(lines: list[dict[str, Any]], damage: list[str]) -> list[Operation]:
    operations: dict[int, Operation] = {}
    for line in lines:
        if line["type"] == "invoke":
            operations[line["index"]] = Operation(
                process=line["process"],
                client=line["client"],
                request=line["request"],
                operation=line["operation"],
                key=line["key"],
                value=line["value"],
                expected=line["expected"],
                board=line["board"],
                invoked_ns=line["time_ns"],
            )
            continue
        operation = operations.get(line["index"])
        if operation is None:
            damage.append(f"{OPERATIONS}: operation {line['index']} completes without an invoke")
            continue
        operation.outcome = Outcome(line["type"])
        operation.finished_ns = line["time_ns"]
        operation.board = line["board"]
        operation.result = line["result"]
        operation.status = line["status"]
        operation.height = line["height"]
    return list(operations.values())


def _fault(line: Mapping[str, Any]) -> FaultRecord:
    return FaultRecord(**{**line, "stage": FaultStage(line["stage"]), "boards": tuple(line["boards"])})


def _read_events(folder: Path, damage: list[str], kinds: Sequence[str] | None) -> list[BoardEvent]:
    if (folder / EVENTS).exists():
        wanted = "" if kinds is None else " WHERE list_contains(?, kind)"
        with duckdb.connect() as connection:
            rows = connection.execute(
                f"SELECT {', '.join(EVENT_COLUMNS)} FROM read_parquet(?){wanted}",
                [str(folder / EVENTS), *([] if kinds is None else [list(kinds)])],
            ).fetchall()
        return [_event(row) for row in rows]
    seen: set[tuple[str, int, int]] = set()
    events = []
    for line in _lines(folder / EVENTS_LIVE, damage):
        name = (line["board"], line["boot"], line["sequence"])
        if name not in seen and (kinds is None or line["kind"] in kinds):
            seen.add(name)
            events.append(BoardEvent(**line))
    return events


def _event(row: tuple[Any, ...]) -> BoardEvent:
    board, boot, sequence, now_ms, stamp, kind, fields, received_ns, channel = row
    return BoardEvent(board, boot, sequence, now_ms, stamp, kind, json.loads(fields), received_ns, channel)


def order_events(events: Iterable[BoardEvent]) -> list[BoardEvent]:
    """Events by board, then by order of boots, then by sequence."""
    by_board: dict[str, dict[int, list[BoardEvent]]] = {}
    for event in events:
        by_board.setdefault(event.board, {}).setdefault(event.boot, []).append(event)
    ordered: list[BoardEvent] = []
    for board in sorted(by_board, key=_natural):
        boots = by_board[board]
        for boot in _order_boots(boots):
            ordered.extend(sorted(boots[boot], key=lambda event: event.sequence))
    return ordered


def _order_boots(boots: Mapping[int, list[BoardEvent]]) -> list[int]:
    """Boots count up from 1, and from a number far above each time that the board lost its journal.

    Arrival alone would mislead: an event of an earlier boot may have been held up by a fault.
    """
    counts: list[list[int]] = []
    for boot in sorted(boots):
        if not counts or boot - counts[-1][-1] >= SAME_COUNT:
            counts.append([])
        counts[-1].append(boot)

    def heard(count: list[int]) -> int:
        return min(event.received_ns for boot in count for event in boots[boot])

    return [boot for count in sorted(counts, key=heard) for boot in count]


def _natural(name: str) -> tuple[str, int]:
    """b2 before b10."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0)


# Events as a table.


def convert_events(folder: Path) -> None:
    """Turn events.jsonl into events.parquet, each event once. A crash half way leaves the former in place."""
    live = folder / EVENTS_LIVE
    if (folder / EVENTS).exists() and not live.exists():
        return
    draft = folder / (EVENTS + ".draft")
    with duckdb.connect() as connection:
        connect_events(connection, folder)
        columns = ", ".join(EVENT_COLUMNS)
        connection.execute(
            f"COPY (SELECT {columns} FROM events ORDER BY board, received_ns, sequence)"
            f" TO '{_quoted(draft)}' (FORMAT parquet, COMPRESSION zstd)"
        )
    draft.replace(folder / EVENTS)
    live.unlink(missing_ok=True)


def connect_events(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Give `connection` a view `events` over the events of a folder, in whichever form they are."""
    if (folder / EVENTS).exists():
        connection.execute(f"CREATE VIEW events AS SELECT * FROM read_parquet('{_quoted(folder / EVENTS)}')")
        return
    if not (folder / EVENTS_LIVE).exists():
        empty = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in EVENT_COLUMNS.items())
        connection.execute(f"CREATE VIEW events AS SELECT {empty} WHERE false")
        return
    columns = ", ".join(f"{name}: '{kind}'" for name, kind in EVENT_COLUMNS.items())
    connection.execute(
        "CREATE VIEW events AS SELECT DISTINCT ON (board, boot, sequence) * FROM read_json("
        f"'{_quoted(folder / EVENTS_LIVE)}', format = 'newline_delimited', ignore_errors = true,"
        f" columns = {{{columns}}}) WHERE sequence IS NOT NULL"
    )


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
