"""Calibration: the distance against values worked out by hand, and times that a fit finds again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from brownout import campaign
from brownout.campaign_file import load_campaign, parse_campaign
from brownout.cli import USAGE, main
from brownout.contracts import UsageError
from brownout.document import Table
from brownout.faults import Plan, plan
from brownout.history import History, Outcome
from brownout.rig import SimSpec, load_rig
from brownout.sim.calibrate import Times, calibrate, kolmogorov_smirnov, read_run, rig_text, samples
from brownout.sim.runs import simulate
from hypothesis import given
from hypothesis import strategies as st

RIG = load_rig("sim")
VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 0.0),
        ([1, 2], [3, 4], 1.0),
        ([1, 2, 3, 4], [3, 4, 5, 6], 0.5),
        ([1, 1, 1, 2], [1, 2, 2, 2], 0.5),  # ties: 3/4 and 1/4 of them are at most 1
        ([1, 2, 3], [2], 1 / 3),
        ([1, 3], [2, 2, 2, 2], 0.5),
        ([1], [], 1.0),
        ([], [], 0.0),
    ],
)
def test_the_distance_is_the_largest_difference_of_shares(
    one: list[float], other: list[float], distance: float
) -> None:
    assert kolmogorov_smirnov(one, other) == pytest.approx(distance)


@given(VALUES, VALUES)
def test_the_distance_is_symmetric_and_from_none_to_one(one: list[float], other: list[float]) -> None:
    distance = kolmogorov_smirnov(one, other)
    assert distance == kolmogorov_smirnov(other, one)
    assert 0 <= distance <= 1
    assert (distance == 0) == all(one.count(v) * len(other) == other.count(v) * len(one) for v in {*one, *other})


@given(VALUES, st.integers(1, 3))
def test_a_sample_is_at_no_distance_from_itself_however_often_it_is_taken(values: list[float], often: int) -> None:
    assert kolmogorov_smirnov(values, values * often) == 0


def small_plan(seed: int) -> Plan:
    document = {
        "campaign": {"name": "small", "duration_s": 2.0, "voters": 3},
        "workload": {"operations_per_s": 30.0, "rumours_per_s": 10.0},
    }
    return plan(parse_campaign(Table(document, "test")), RIG, seed)


def run_with(spec: SimSpec, seed: int = 1) -> History:
    return simulate(small_plan(seed), replace(RIG, simulated=spec)).history


def test_a_fit_finds_the_times_of_a_run_again() -> None:
    assert RIG.simulated is not None
    hidden = replace(RIG.simulated, latency_ms=(1.2, 3.0), work_ms=1.1)
    calibrated = calibrate(run_with(hidden, seed=7), small_plan(8), RIG)  # other requests, other draws
    fitted, true = Times.of(calibrated.after), Times.of(hidden)
    assert fitted.hop_ms == pytest.approx(true.hop_ms, rel=0.3)
    assert fitted.work_ms == pytest.approx(true.work_ms, rel=0.5)
    by_name = {entry.name: entry for entry in calibrated.comparisons}
    for name in ("log operations", "gossip operations", "decisions on the proposer's clock"):
        entry = by_name[name]
        assert entry.fitted_to
        assert entry.samples >= 10
        assert entry.distance_before > 0.9
        # Two samples of one distribution are farther apart than this once in a thousand times (Smirnov 1948).
        assert entry.distance_after < 1.95 * (1 / entry.samples + 1 / entry.samples_after) ** 0.5


def test_a_run_with_the_rigs_own_times_changes_nothing() -> None:
    assert RIG.simulated is not None
    calibrated = calibrate(run_with(RIG.simulated), small_plan(1), RIG)
    assert calibrated.after == calibrated.before == RIG.simulated
    assert {entry.distance_after for entry in calibrated.comparisons} == {0.0}


def test_too_few_samples_are_refused() -> None:
    assert RIG.simulated is not None
    history = run_with(RIG.simulated)
    history.events.clear()
    del history.operations[5:]
    with pytest.raises(UsageError, match="too few to fit"):
        calibrate(history, small_plan(1), RIG)
    with pytest.raises(UsageError, match=r"no \[sim\]"):
        calibrate(history, small_plan(1), load_rig("virtual"))


def test_operations_are_told_apart_by_what_carries_them_out() -> None:
    assert RIG.simulated is not None
    history = run_with(RIG.simulated)
    found = samples(history)
    done = [entry for entry in history.operations if entry.outcome is Outcome.OK]
    assert len(found["log operations"]) == sum(entry.operation in ("put", "get", "cas") for entry in done)
    assert len(found["gossip operations"]) == sum(entry.operation in ("write", "delete", "read") for entry in done)
    assert found["log operations"] == sorted(found["log operations"])


@pytest.mark.parametrize(
    "times", [Times("uniform", 0.5, 1.5, 0.7), Times("exponential", 0.5, 1.368, 0.7), Times("uniform", 2.0, 0.0, 0.1)]
)
def test_a_rig_file_has_the_times_that_were_fitted(tmp_path: Path, times: Times) -> None:
    assert RIG.simulated is not None
    spec = times.applied(RIG.simulated)
    file = tmp_path / "fitted.toml"
    file.write_text(rig_text(RIG, spec, 'a "comment"'), encoding="utf-8")
    read = load_rig(str(file))
    assert read.simulated == spec
    assert read.support == RIG.support
    assert Times.of(spec) == times


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return campaign.run(load_campaign("demo"), RIG, 1, tmp_path_factory.mktemp("runs")).folder


def as_if(folder: Path, to: Path, **manifest: object) -> Path:
    """The same run, with another manifest."""
    to.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (to / file.name).write_bytes(file.read_bytes())
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (to / "manifest.json").write_text(json.dumps({**document, **manifest}), encoding="utf-8")
    return to


def test_what_cannot_be_calibrated_is_refused(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {
        "no run": (tmp_path / "nothing", str(tmp_path / "nothing")),
        "simulated": (recorded, "this run was simulated"),
        "killed": (as_if(recorded, tmp_path / "killed", rung="virtual", finished=False), "did not come to its end"),
        "idle": (as_if(recorded, tmp_path / "idle", rung="virtual"), "no operation was done"),
    }
    (tmp_path / "idle" / "history.jsonl").write_text("", encoding="utf-8")
    for folder, message in refused.values():
        assert main(["calibrate", str(folder), "--out", str(tmp_path / "out.toml")]) == USAGE
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out.toml").exists()


def test_the_plan_of_a_run_is_read_as_it_was_carried_out(recorded: Path, tmp_path: Path) -> None:
    history, the_plan = read_run(as_if(recorded, tmp_path / "run", rung="virtual"))
    expected = plan(load_campaign("demo"), RIG, 1).to_document()
    assert the_plan.to_document() == json.loads(json.dumps(expected))
    assert history.operations
