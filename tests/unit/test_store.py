"""The folder of a run: what was appended reads back, finished or killed, and a torn line costs only itself."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import duckdb
import pytest
from brownout.contracts import UsageError
from brownout.history import BoardEvent, FaultRecord, FaultStage, Gap, Operation, Outcome
from brownout.store import RunFolder, connect_events, load, order_events, read_faults


def event(board: str = "b1", boot: int = 1, sequence: int = 1, received_ns: int = 10, **fields: object) -> BoardEvent:
    kind = str(fields.pop("kind", "decided"))
    return BoardEvent(board, boot, sequence, 5, 77, kind, fields, received_ns, "serial")


def operation(client: int = 1000, request: int = 1) -> Operation:
    return Operation(1, client, request, "put", "k", "v", None, "b1", 100)


def test_a_finished_run_reads_back_as_it_was(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "blackout", 7)
    folder.write_manifest({"seed": 7, "finished": False})
    folder.write_plan({"faults": []})
    first, second = operation(), operation(request=2)
    folder.append_operation_invoke(first)
    folder.append_operation_invoke(second)
    first.finished_ns, first.outcome, first.result, first.height = 250, Outcome.OK, "x", 3
    folder.append_operation_complete(first)
    record = FaultRecord("f01", "cut", FaultStage.APPLIED, 5, 4, ("b1",), "injected", {"pid": None})
    folder.append_fault(record)
    folder.append_events([event(sequence=2, value_id="ab"), event(kind="boot", version="1.24 'x'")])
    folder.append_events([event(sequence=2, value_id="ab")])  # twice: telemetry is sent again
    gap = Gap("b1", 1, 3, 4, "ring overflow")
    folder.finish({"seed": 7, "finished": True}, [gap])

    history = load(folder.path)
    assert history.operations == [first, second]
    assert history.operations[1].outcome is Outcome.INFO and history.operations[1].finished_ns is None
    assert history.faults == [record] == read_faults(folder.path)
    assert history.gaps == [gap]
    assert history.events == [event(kind="boot", version="1.24 'x'"), event(sequence=2, value_id="ab")]
    assert history.manifest == {"seed": 7, "finished": True}
    assert not (folder.path / "events.jsonl").exists()


def test_a_killed_run_reads_up_to_the_torn_line(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "blackout", 7)
    folder.write_manifest({"seed": 7, "finished": False})
    folder.append_operation_invoke(operation())
    folder.append_events([event(), event(sequence=2)])
    for name in ("history.jsonl", "events.jsonl", "faults.jsonl"):
        with (folder.path / name).open("ab") as file:
            file.write(b'{"type":"ok","ind')
    history = load(folder.path)
    assert len(history.operations) == 1 and len(history.events) == 2 and history.faults == []
    assert [line.split(" ")[0] for line in history.manifest["damage"]] == [
        "history.jsonl",
        "faults.jsonl",
        "events.jsonl",
    ]
    with duckdb.connect() as connection:
        connect_events(connection, folder.path)
        assert connection.execute("SELECT count(*) FROM events").fetchall() == [(2,)]


def test_a_run_without_events_finishes(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x", 1)
    folder.finish({"finished": True})
    folder.finish({"finished": True})
    assert load(folder.path).events == []


def test_two_runs_in_the_same_second_get_two_folders(tmp_path: Path) -> None:
    import time

    at = time.gmtime(0)
    paths = [RunFolder.create(tmp_path, "x", 1, at=at).path.name for _ in range(2)]
    assert paths == ["19700101T000000Z-x-1", "19700101T000000Z-x-1-2"]


def test_appending_from_many_threads_keeps_lines_whole(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x", 1)
    folder.write_manifest({})

    def write(board: str) -> None:
        for sequence in range(1, 51):
            folder.append_events([event(board=board, sequence=sequence, text="é" * 50)])

    threads = [threading.Thread(target=write, args=(f"b{number}",)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = load(folder.path)
    assert len(history.events) == 200 and "damage" not in history.manifest


def test_boots_are_ordered_by_count_and_after_a_lost_journal_by_arrival() -> None:
    late = event(boot=1, sequence=9, received_ns=900)  # held up in the broker
    wiped = event(boot=0x10000100, received_ns=500, kind="boot", journal=1)
    after = event(boot=0x10000101, received_ns=600, kind="boot", journal=0)
    wiped_again = event(boot=0x10000010, received_ns=700, kind="boot", journal=1)
    events = [wiped_again, after, event(boot=2, received_ns=100), late, wiped]
    assert [item.boot for item in order_events(events)] == [1, 2, 0x10000100, 0x10000101, 0x10000010]
    assert [item.board for item in order_events([event(board="b10"), event(board="b2")])] == ["b2", "b10"]


@pytest.mark.parametrize("content", [None, "[]", "{", "\x00"])
def test_what_is_not_a_run_is_refused_with_its_name(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UsageError, match=r"manifest\.json"):
        load(tmp_path)


def test_documents_are_readable_json(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x", 1)
    path = folder.write_verdict({"verdict": "valid"})
    assert json.loads(path.read_text()) == {"verdict": "valid"}
    assert folder.serial_log("b1").parent.is_dir()
