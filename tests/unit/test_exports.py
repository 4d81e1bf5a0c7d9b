"""A run in the formats of others, read back by readers that are not ours."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import edn_format
import pytest
from brownout.cli import main
from brownout.export import bundle, shiviz
from brownout.export.operations import register_events
from brownout.history import History, Operation, Outcome
from brownout.store import load
from eventful_runs import eventful, save

FORMS = ("jepsen-edn", "jsonl", "csv", "parquet", "shiviz", "perfetto")
AWKWARD = 'q"\\b\b\f\n\té😀'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(eventful().history(), tmp_path_factory.mktemp("runs"))


def exported(run: Path, form: str, out: Path) -> Path:
    assert main(["export", str(run), "--as", form, "--out", str(out)]) == 0
    return out


def operations(*items: tuple[int, str, str | None, str | None, int, int | None, Outcome, str | None]) -> History:
    made = []
    for request, (process, name, value, expected, began, ended, outcome, result) in enumerate(items):
        status = "mismatch" if outcome is Outcome.FAIL else None
        made.append(
            Operation(
                process, process, request, name, "k", value, expected, "b1", began, ended, outcome, result, status, None
            )
        )
    return History(made, [], [], [], {"campaign": "made", "seed": 1, "roster": [[1, "b1", 1]]}, {"faults": []})


OK, FAIL, INFO = Outcome.OK, Outcome.FAIL, Outcome.INFO
SOUND = operations(
    (1, "put", AWKWARD, None, 10, 20, OK, None),
    (1, "cas", "b", AWKWARD, 20, 30, OK, None),  # begins in the very instant in which the last one ended
    (2, "cas", "c", "z", 15, 40, FAIL, "b"),
    (3, "put", "d", None, 35, None, INFO, None),  # nobody knows; it may happen later
    (1, "get", None, None, 40, 50, OK, "d"),
)
STALE = operations(
    (1, "put", "a", None, 10, 20, OK, None),
    (1, "put", "b", None, 30, 40, OK, None),
    (2, "get", None, None, 50, 60, OK, "a"),
)


@pytest.mark.parametrize(("history", "code"), [(SOUND, 0), (STALE, 1)])
@pytest.mark.parametrize("form", ["jepsen-edn", "jsonl"])
def test_an_exported_history_has_the_verdict_of_the_run(tmp_path: Path, history: History, code: int, form: str) -> None:
    folder = save(history, tmp_path)
    (own,) = (check for check in _checks(folder) if check["name"] == "linearizability")
    assert own["verdict"] == ("valid", "invalid")[code]
    out = exported(folder, form, tmp_path / "history.of")
    reader = "edn" if form == "jepsen-edn" else form
    assert main(["check", str(out), "--model", "cas-register", "--format", reader]) == code


def _checks(folder: Path) -> list[dict[str, Any]]:
    from brownout.checkers import judge

    return list(judge(load(folder))["checks"])


def test_a_whole_run_exports_and_checks(run: Path, tmp_path: Path) -> None:
    out = exported(run, "jepsen-edn", tmp_path / "run.edn")
    assert main(["check", str(out), "--model", "cas-register"]) == 0
    maps = [edn_format.loads(line) for line in out.read_text().splitlines()]
    events = register_events(load(run))
    keyword = edn_format.Keyword
    assert len(maps) == len(events) > 100
    for read, event in zip(maps, events, strict=True):
        assert (read[keyword("process")], read[keyword("time")]) == (event.process, event.time_ns)
        assert (read[keyword("type")].name, read[keyword("f")].name) == (event.type, event.function)


def test_edn_of_awkward_texts_is_read_by_another_reader(tmp_path: Path) -> None:
    out = exported(save(SOUND, tmp_path), "jepsen-edn", tmp_path / "run.edn")
    first = edn_format.loads(out.read_text().split("\n")[0])
    assert first[edn_format.Keyword("value")] == AWKWARD


def test_tables_have_every_event_in_the_order_of_time(run: Path, tmp_path: Path) -> None:
    expected = len(load(run).events)
    for form in ("csv", "parquet"):
        out = exported(run, form, tmp_path / f"it's.{form}")
        rows = duckdb.execute(f"SELECT at_ns, received_ns, kind FROM read_{form}($1)", [str(out)]).fetchall()
        assert len(rows) == expected
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)
        assert all(at_ns <= received_ns for at_ns, received_ns, _ in rows)


def test_the_trace_is_of_the_trace_event_format(run: Path, tmp_path: Path) -> None:
    trace = json.loads(exported(run, "perfetto", tmp_path / "trace.json").read_text())
    assert trace["displayTimeUnit"] in ("ms", "ns")
    history = load(run)
    needed = {"M": {"args"}, "X": {"dur"}, "i": {"s"}}
    for event in trace["traceEvents"]:
        assert {"name", "ph", "ts", "pid", "tid"} | needed[event["ph"]] <= set(event)
        assert isinstance(event["name"], str) and isinstance(event["pid"], int) and isinstance(event["tid"], int)
        assert isinstance(event["ts"], int | float) and event.get("dur", 0) >= 0 and event.get("s", "t") in "gpt"
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert sum(event["pid"] == 2 for event in slices) == len(history.operations)
    assert {event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"} >= {"b1", "faults"}
    assert sum(event["pid"] == 3 for event in slices) == len({fault.id for fault in history.faults})


def test_shiviz_reads_clocks_that_never_fall(run: Path, tmp_path: Path) -> None:
    text = exported(run, "shiviz", tmp_path / "run.log").read_text()
    found = re.findall(shiviz.PARSER.replace("?<", "?P<"), text)
    assert 2 * len(found) == text.count("\n")
    last: dict[str, dict[str, int]] = {}
    heard = 0
    for host, clock_text, _ in found:
        clock = json.loads(clock_text)
        before = last.get(host, {})
        assert clock[host] == before.get(host, 0) + 1  # as ShiViz demands: each host counts its own by one
        assert all(clock.get(other, 0) >= count for other, count in before.items())
        assert all(count <= last[other][other] for other, count in clock.items() if other != host)
        heard += len(clock) > max(1, len(before))
        last[host] = clock
    assert heard >= 5


def test_steps_that_wait_for_each_other_go_on_without(tmp_path: Path) -> None:
    step = shiviz.Step
    hosts = {
        "a": [step("a", "1", 1, ["second"], "first")],
        "b": [step("b", "2", 2, ["first"], "second")],
    }
    assert [clock for _, clock in shiviz.clocked(hosts)] == [{"a": 1}, {"a": 1, "b": 1}]


def test_a_bundle_checks_elsewhere_and_is_the_same_bytes(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.tar.gz"
    assert main(["bundle", str(run), "--out", str(out)]) == 0
    assert bundle.export(run, tmp_path / "again.tar.gz").read_bytes() == out.read_bytes()
    elsewhere = tmp_path / "elsewhere"
    with tarfile.open(out) as archive:
        archive.extractall(elsewhere, filter="data")
    command = [sys.executable, "-c", "from brownout.cli import main; raise SystemExit(main())", "check", run.name]
    expected = main(["check", str(run)])
    assert subprocess.run(command, cwd=elsewhere, capture_output=True).returncode == expected


def test_what_cannot_be_written_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["export", str(run), "--as", "csv", "--out", str(tmp_path / "no" / "x")], "not the path of a file"),
        (["export", str(run), "--as", "csv", "--check", "gossip"], "is for --as test alone"),
        (["export", str(tmp_path), "--as", "perfetto", "--out", str(tmp_path / "x")], "it has no manifest.json"),
        (["bundle", str(run), "--out", str(run / "x.tar.gz")], "inside the run itself"),
        (["bundle", str(tmp_path), "--out", str(tmp_path / "x")], "it has no manifest.json"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
