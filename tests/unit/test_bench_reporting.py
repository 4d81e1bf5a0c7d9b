"""The long run that analysis and report are measured on is a run that they take for one: nothing in it collapses."""

from __future__ import annotations

from pathlib import Path

import pytest
from brownout.analysis.measures import measure
from brownout.analysis.record import Record
from brownout.bench.reporting import told_again
from brownout.campaign import run
from brownout.campaign_file import load_campaign
from brownout.rig import load_rig


def test_a_run_told_three_times_has_three_times_of_everything(tmp_path: Path) -> None:
    once = run(load_campaign("demo"), load_rig("sim"), 1, tmp_path / "runs").folder
    with Record(once) as record:
        before = measure(record)
    thrice = told_again(once, tmp_path / "thrice", 3 * before["events"])
    with Record(thrice) as record:
        after = measure(record)
    assert after["events"] == 3 * before["events"]
    assert len(after["faults"]) == 3 * len(before["faults"])
    for name in ("precommit_to_decision_ms", "operation_put_ms", "rumour_to_all_ms"):
        assert after["metrics"][name]["count"] == 3 * before["metrics"][name]["count"]
        assert after["metrics"][name]["median"] == pytest.approx(before["metrics"][name]["median"])
