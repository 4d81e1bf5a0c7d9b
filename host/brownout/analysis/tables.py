"""A run's folder as tables for SQL (DuckDB): `events`, `operations`, `faults`; and counts that are easiest told in SQL.

Works on finished and on interrupted folders. For questions that no report answers:

    with connect(Path("runs/...")) as tables:
        tables.sql("SELECT board, count(*) FROM events WHERE kind = 'prevoted' GROUP BY board")
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb

from ..history import Operation
from ..store import connect_events, load, read_faults

METRICS_SUMMED = ("received", "sent", "persists", "programs", "erases")


def connect(folder: Path) -> duckdb.DuckDBPyConnection:
    """A connection in memory with one view or table for each part of the record."""
    connection = duckdb.connect()
    connect_events(connection, folder)
    connection.execute(
        "CREATE TABLE operations (process BIGINT, client BIGINT, request BIGINT, operation VARCHAR, key VARCHAR,"
        " value VARCHAR, expected VARCHAR, board VARCHAR, invoked_ns BIGINT, finished_ns BIGINT, outcome VARCHAR,"
        " result VARCHAR, status VARCHAR, height BIGINT)"
    )
    _insert(connection, "operations", (_row(operation) for operation in load(folder).operations))
    connection.execute(
        "CREATE TABLE faults (id VARCHAR, kind VARCHAR, stage VARCHAR, at_ns BIGINT, planned_ns BIGINT,"
        " boards VARCHAR[], support VARCHAR, evidence JSON)"
    )
    rows = (
        (f.id, f.kind, str(f.stage), f.at_ns, f.planned_ns, list(f.boards), f.support, json.dumps(f.evidence))
        for f in read_faults(folder)
    )
    _insert(connection, "faults", rows)
    return connection


def _row(operation: Operation) -> tuple[Any, ...]:
    return (
        operation.process,
        operation.client,
        operation.request,
        operation.operation,
        operation.key,
        operation.value,
        operation.expected,
        operation.board,
        operation.invoked_ns,
        operation.finished_ns,
        str(operation.outcome),
        operation.result,
        operation.status,
        operation.height,
    )


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    values = list(rows)
    if values:
        marks = ", ".join("?" for _ in values[0])
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", values)


def events_by_board(folder: Path) -> list[tuple[str, str, int]]:
    """(board, kind, how many), by board and kind."""
    with duckdb.connect() as connection:
        connect_events(connection, folder)
        rows = connection.execute(
            "SELECT board, kind, count(*) FROM events GROUP BY board, kind ORDER BY board, kind"
        ).fetchall()
    return [(board, kind, count) for board, kind, count in rows]


def board_metrics(folder: Path) -> dict[str, dict[str, int]]:
    """Board -> counters of all its lives together (the last of each life), the least heap free, the worst tick."""
    sums = ", ".join(f"sum(CAST(json_extract(fields, '$.{name}') AS BIGINT)) AS {name}" for name in METRICS_SUMMED)
    with duckdb.connect() as connection:
        connect_events(connection, folder)
        connection.execute("CREATE TEMP TABLE metrics AS SELECT * FROM events WHERE kind = 'metrics'")
        cursor = connection.execute(
            f"SELECT last.board, {', '.join(METRICS_SUMMED)}, least_heap_free, late_worst_ms FROM"
            f" (SELECT board, {sums} FROM (SELECT board, arg_max(fields, sequence) AS fields FROM metrics"
            " GROUP BY board, boot) GROUP BY board) AS last JOIN"
            " (SELECT board, min(CAST(json_extract(fields, '$.heap_free') AS BIGINT)) AS least_heap_free,"
            " max(CAST(json_extract(fields, '$.late_worst_ms') AS BIGINT)) AS late_worst_ms"
            " FROM metrics GROUP BY board) AS extremes ON last.board = extremes.board ORDER BY last.board"
        )
        names = [*METRICS_SUMMED, "least_heap_free", "late_worst_ms"]
        return {row[0]: dict(zip(names, (int(value) for value in row[1:]), strict=True)) for row in cursor.fetchall()}
