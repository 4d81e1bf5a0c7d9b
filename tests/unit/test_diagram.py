"""The diagram's data: every event, what followed from what, evidence kept where stories are left out, small pages."""

from __future__ import annotations

import base64
import json
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any

from brownout.analysis.record import Record
from brownout.report import write_report
from brownout.report.diagram import document, packed
from eventful_runs import eventful, save

PROOF = {"step": "decided", "board": "b1", "boot": 1, "sequence": 40, "at_s": 1.0}


def told(folder: Path, evidence: list[dict[str, Any]], **limits: int) -> dict[str, Any]:
    with Record(folder) as record:
        return document(record, evidence, **limits)


def test_every_event_is_there_in_order_and_links_go_from_a_cause_to_another_board(tmp_path: Path) -> None:
    drawn = told(save(eventful(operations=60).history(), tmp_path), [PROOF])
    assert drawn["one_in"] == 1 and len(drawn["at_us"]) == drawn["count"] > 300
    assert min(drawn["at_us"]) >= 0, "not in order"
    assert list(accumulate(drawn["at_us"]))[-1] <= drawn["ended_us"]
    kinds = [drawn["kinds"][kind] for kind in drawn["kind"]]
    pairs = list(zip(drawn["links"][::2], drawn["links"][1::2], strict=True))
    assert {(kinds[cause], kinds[effect]) for cause, effect in pairs} == {
        ("written", "merged"),
        ("proposed", "prevoted"),
        ("proposed", "precommitted"),
    }
    assert all(drawn["board"][cause] != drawn["board"][effect] for cause, effect in pairs)
    assert len(drawn["evidence"]) == 1 and drawn["sequence"][drawn["evidence"][0]] == 40
    assert {fault["kind"] for fault in drawn["faults"]} >= {"cut", "blackout"}
    assert json.loads(zlib.decompress(base64.b64decode(packed(drawn)))) == drawn


def test_where_stories_are_left_out_boots_and_evidence_stay(tmp_path: Path) -> None:
    folder = save(eventful(operations=60).history(), tmp_path)
    whole, thin = told(folder, [PROOF]), told(folder, [PROOF], most=100)
    boots = [sum(one["kinds"][kind] == "boot" for kind in one["kind"]) for one in (whole, thin)]
    assert thin["one_in"] == -(-whole["count"] // 100) and boots[0] == boots[1] > 0
    assert len(thin["at_us"]) < len(whole["at_us"]) / 2
    assert len(thin["evidence"]) == 1 and len(told(folder, [], most=100)["evidence"]) == 0


def test_a_report_of_a_hundred_boards_stays_under_five_megabytes(tmp_path: Path) -> None:
    history = eventful(voters=7, learners=93, operations=120).history()
    report = write_report(save(history, tmp_path))
    assert len(history.events) > 5_000
    assert report.stat().st_size < 5_000_000
