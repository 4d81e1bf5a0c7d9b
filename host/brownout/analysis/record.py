"""A run's folder opened for analysis: its events as DuckDB tables, its operations and faults beside them.

A Record never holds the events of a run in Python: a run may have millions. What is small (boots, faults, the plan) is
a History of the light kinds. Must not judge and must not word anything.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
from brownout_node.core.config import Config

from ..checkers.run import Run
from ..history import History
from ..store import OPERATIONS, connect_events, load
from . import clocks

LIGHT = ("boot", "file", "described", "safe_mode", "lost_events", "adversary", "byzantine_standing")
MEMORY = "500MB"
OPERATION_COLUMNS = (
    "{'type': 'VARCHAR', 'index': 'BIGINT', 'time_ns': 'BIGINT', 'process': 'BIGINT', 'client': 'BIGINT',"
    " 'request': 'BIGINT', 'operation': 'VARCHAR', 'key': 'VARCHAR', 'value': 'VARCHAR', 'expected': 'VARCHAR',"
    " 'board': 'VARCHAR', 'result': 'VARCHAR', 'status': 'VARCHAR', 'height': 'BIGINT'}"
)
# Votes of every protocol that has some, in one table: what they say, and in which step of the protocol.
VOTES = """
CREATE TEMP TABLE votes AS SELECT board, boot, sequence, now_ms, kind, at_ns,
    CAST(fields->>'height' AS BIGINT) AS height,
    CAST(coalesce(fields->>'round', fields->>'view') AS BIGINT) AS round,
    CASE kind WHEN 'proposed' THEN 0 WHEN 'byzantine_proposed' THEN 0 WHEN 'prevoted' THEN 1 WHEN 'precommitted' THEN 2
        WHEN 'byzantine_voted' THEN CAST(fields->>'phase' AS BIGINT) ELSE 99 END AS phase,
    fields->>'value_id' AS value_id,
    coalesce(CAST(fields->>'caught_up' AS BOOLEAN), false) AS caught_up
FROM timed WHERE kind IN ('proposed', 'prevoted', 'precommitted', 'decided', 'byzantine_proposed', 'byzantine_voted',
    'byzantine_decided')
"""
ITEMS = """
CREATE TEMP TABLE items AS SELECT board, boot, sequence, kind, at_ns, fields->>'key' AS key,
    CAST(fields->>'stamp' AS BIGINT) AS stamp, CAST(fields->>'writer' AS BIGINT) AS writer,
    coalesce(CAST(fields->>'repair' AS BOOLEAN), false) AS repair
FROM timed WHERE kind IN ('written', 'merged')
"""
DIGESTS = """
CREATE TEMP TABLE digests AS SELECT board, at_ns, fields->>'protocol' AS protocol,
    CAST(fields->>'height' AS BIGINT) AS height, fields->>'digest' AS digest
FROM timed WHERE kind = 'digest' AND fields->>'digest' IS NOT NULL
"""
MEMBERS = """
CREATE TEMP TABLE members AS SELECT board, boot, at_ns, CAST(fields->>'board' AS BIGINT) AS subject,
    CAST(fields->>'state' AS BIGINT) AS state FROM timed WHERE kind = 'member'
"""
# Both halves of an operation are lines of their own; the second may be missing.
JOINED = """
CREATE TEMP TABLE operations AS SELECT began."index" AS number, began.process, began.client, began.request,
    began.operation, began.key, began.value, began.expected, coalesce(ended.board, began.board) AS board,
    began.time_ns AS invoked_ns, ended.time_ns AS finished_ns, coalesce(ended.type, 'info') AS outcome, ended.result,
    ended.status, ended.height
FROM (SELECT * FROM lines WHERE type = 'invoke') AS began
LEFT JOIN (SELECT * FROM lines WHERE type <> 'invoke') AS ended ON began."index" = ended."index"
"""
EMPTY = """
CREATE TEMP TABLE operations (number BIGINT, process BIGINT, client BIGINT, request BIGINT, operation VARCHAR,
    key VARCHAR, value VARCHAR, expected VARCHAR, board VARCHAR, invoked_ns BIGINT, finished_ns BIGINT, outcome VARCHAR,
    result VARCHAR, status VARCHAR, height BIGINT)
"""


class Record:
    """One run. Use as a context manager.

    Tables: events, operations; timed (events with at_ns, the host's time of the event by the board's
    clock, and bound_ns, how far off that may be); votes,
    items, digests, members, made from it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history: History = load(folder, LIGHT)
        self.tables = duckdb.connect()
        self.tables.execute(f"SET memory_limit = '{MEMORY}'; SET threads = 2")
        self.tables.execute("SET enable_progress_bar = false")  # it would go to standard output, into a document
        connect_events(self.tables, folder)
        self._operations()
        self.count, last_ns = self._one("SELECT count(*), max(received_ns) FROM events")
        if self.history.manifest.get("ended_ns") is None:
            self.history.manifest = {**self.history.manifest, "ended_ns": last_ns or 0}
        self.run = Run(self.history)
        self.clocks = clocks.estimate(self.tables)
        for statement in (VOTES, ITEMS, DIGESTS, MEMBERS):
            self.tables.execute(statement)

    def _operations(self) -> None:
        path = self.folder / OPERATIONS
        if not path.exists() or not path.stat().st_size:
            self.tables.execute(EMPTY)
            return
        quoted = str(path).replace("'", "''")
        self.tables.execute(
            f"CREATE TEMP VIEW lines AS SELECT * FROM read_json('{quoted}', format = 'newline_delimited',"
            f" ignore_errors = true, columns = {OPERATION_COLUMNS}) WHERE type IS NOT NULL"
        )
        self.tables.execute(JOINED)

    def _one(self, query: str) -> tuple[Any, ...]:
        row = self.tables.execute(query).fetchone()
        assert row is not None, "an aggregate has one row"
        return row

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.tables.execute(query, list(parameters)).fetchall()

    @cached_property
    def timing(self) -> Config:
        """The boards' settings: the plan's over the defaults."""
        given = dict(self.history.plan.get("timing") or {})
        lone = {"cluster": 0, "board": 1, "bed": "bed", "seed": 0, "roster": [[1, "b1", 1]]}
        return Config({**lone, **given})

    def close(self) -> None:
        self.tables.close()

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()
