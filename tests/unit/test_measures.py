"""What is measured in a record is what was put into it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from brownout.analysis.measures import measure, samples
from brownout.analysis.record import Record
from brownout.campaign_file import load_campaign
from brownout.faults import plan
from brownout.rig import load_rig
from brownout.sim.runs import simulate
from eventful_runs import save
from history_builder import World


def test_the_delays_of_a_decision_add_up(tmp_path: Path) -> None:
    world = World(3)
    world.boot()
    world.decide([(1000, 1, "put", "k", "v", None)])
    with Record(save(world.history(), tmp_path)) as record:
        found = samples(record)
        end = {row[0]: row[1] for row in record.rows("SELECT board, now_ms FROM votes WHERE kind = 'decided'")}
        begin = {row[0]: row[1] for row in record.rows("SELECT board, now_ms FROM votes WHERE kind = 'prevoted'")}
    own = sum(found["prevote_to_precommit_ms"]) + sum(found["precommit_to_decision_ms"])
    assert own == sum(end[board] - begin[board] for board in end) > 0
    assert len(found["proposal_to_prevote_ms"]) == 3


def test_the_curve_residue_and_divergence_of_updates(tmp_path: Path) -> None:
    world = World(4)
    world.boot()
    for stamp, others in (("red", ["b2", "b3", "b4"]), ("blue", [])):
        written = world.write("b1", f"of {stamp}", stamp, merged_by=[])
        for board in others:
            world.wait(0.1)
            world.merge(board, written)
    with Record(save(world.history(), tmp_path)) as record:
        document = measure(record)
    assert document["rumours"]["updates"] == 2
    assert document["rumours"]["residue"] == 3 / 8  # three boards of four never got the second
    shares = [point["share"] for point in document["rumours"]["curve"]]
    expected = [point["expected"] for point in document["rumours"]["curve"]]
    assert shares[0] == expected[0] == 0.25 and shares[-1] == pytest.approx(5 / 8)
    assert shares == sorted(shares) and expected == sorted(expected)
    # Two others of three are told in a round: one board of four comes to three.
    assert expected[1] == pytest.approx(0.75)


@pytest.mark.parametrize("name", ["split-brain", "breaker"])
def test_a_simulated_run_is_measured_whole(tmp_path: Path, name: str) -> None:
    rig = load_rig("sim")
    history = simulate(plan(load_campaign(name), rig, 1), rig).history
    with Record(save(history, tmp_path)) as record:
        document = measure(record)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["events"] == len(history.events)
    for metric in ("proposal_to_prevote_ms", "prevote_to_precommit_ms", "operation_put_ms"):
        figures = document["metrics"][metric]
        assert figures["low"] <= figures["median"] <= figures["high"] and figures["count"] > 1
    assert {row["fault"] for row in document["faults"]} == {record.id for record in history.faults}
    for fault in document["faults"]:
        assert 0 <= fault["unavailable_ms"] <= fault["lasted_ms"]
    if name == "split-brain":
        assert document["rumours"]["residue"] == 0
        assert document["metrics"]["rumour_to_all_ms"]["count"] > 10
        assert document["divergence"][-1][1] == 1
        assert any(fault["converged_ms"] is not None for fault in document["faults"])
    else:  # boards without gossip; one of them is dark for longer than it takes to be suspected
        assert document["rumours"]["updates"] == 0 and document["divergence"] == []
        assert document["detection"]["first_ms"]["count"] >= 1
        assert document["detection"]["false_suspicions"] == 0


def test_long_queries_draw_nothing_into_documents(tmp_path: Path) -> None:
    world = World(3)
    world.boot()
    with Record(save(world.history(), tmp_path)) as record:
        assert record.rows("SELECT current_setting('enable_progress_bar')") == [(False,)]
