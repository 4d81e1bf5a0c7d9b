"""The swarm: what it draws stays within a campaign, and what is wrong with a firmware comes out, with its seed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from brownout import resources
from brownout.campaign_file import load_campaign, parse_campaign
from brownout.checkers import majority
from brownout.checkers.run import Run
from brownout.contracts import UsageError
from brownout.document import Table, parse_document
from brownout.faults import plan
from brownout.history import Verdict
from brownout.rig import load_rig
from brownout.sim.explore import Found, explore, planned, try_seed
from brownout.sim.network import Weather
from brownout.sim.runs import simulate
from brownout.sim.swarm import LONGEST_S, MOST_LEARNERS, PROGRESS_WITHIN_S, draw
from distributed import LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st

CAMPAIGNS = resources.shipped(resources.campaigns_directory())
RIG = load_rig("sim")


@settings(max_examples=200)
@given(st.sampled_from(CAMPAIGNS), st.integers(0, 10**6))
def test_what_a_seed_draws_stays_within_the_campaigns_limits(name: str, seed: int) -> None:
    campaign = load_campaign(name)
    drawn = draw(campaign, seed)
    assert drawn == draw(campaign, seed)
    small = drawn.campaign
    assert 3 <= small.voters <= campaign.voters
    assert small.learners <= min(campaign.learners, MOST_LEARNERS)
    assert small.serial_only <= campaign.serial_only
    core = [fault for fault in small.faults if fault.place == "core"]
    assert drawn.weather.calm or all(fault.at_s >= drawn.weather.until_s for fault in core)
    assert set(small.kinds) - {fault.kind for fault in core} <= set(campaign.kinds)
    patience_s = PROGRESS_WITHIN_S * (2 if "work" in campaign.protocols else 1)
    assert small.duration_s <= LONGEST_S + len(core) * (patience_s + 1.001)
    if "work" in campaign.protocols:  # who mines alone for so long is beyond what the protocol promises
        assert {fault.kind for fault in core} <= {"cut"}
    assert small.workload.operations_per_s <= campaign.workload.operations_per_s
    assert small.workload.clients <= campaign.workload.clients
    wiped = [fault for fault in small.faults if fault.kind == "wipe"]
    assert 2 * len(wiped) < small.voters
    the_plan, weather = planned(campaign, RIG, seed)
    assert weather == drawn.weather
    assert all(fault.at_s + fault.for_s <= small.duration_s + 0.001 for fault in the_plan.faults)


def test_seeds_differ_in_every_respect() -> None:
    drawn = [draw(load_campaign("proposer-kill"), seed) for seed in range(60)]
    assert {one.campaign.voters for one in drawn} == {3, 4, 5}
    assert {one.weather.calm for one in drawn} == {True, False}
    assert {fault.kind for one in drawn for fault in one.campaign.faults} >= {"cut", "cycle", "hold", "isolate", "trap"}
    assert any(not one.campaign.faults for one in drawn) or min(len(one.campaign.faults) for one in drawn) <= 2
    assert len({one.campaign.workload.operations_per_s for one in drawn}) > 50
    assert len({tuple(one.campaign.timing.items()) for one in drawn}) > 30


def totals(found: Found) -> tuple[int, int, list[int], list[int]]:
    violations = [tried.seed for tried in found.violations]
    return found.tried, found.calls, violations, sorted(tried.seed for tried in found.unknown)


def test_processes_and_a_dask_cluster_find_what_one_process_finds() -> None:
    campaign = load_campaign("split-brain")
    alone = explore(campaign, range(1, 9), RIG, jobs=1, stop_at_first=False)
    assert totals(alone)[0] == 8
    assert not alone.violations, alone.violations
    assert alone.ended == "all seeds"
    two = explore(campaign, range(1, 9), RIG, jobs=2, stop_at_first=False)
    assert totals(two) == totals(alone)
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        spread = explore(campaign, range(1, 9), RIG, dask=cluster.scheduler_address, stop_at_first=False)
    assert totals(spread) == totals(alone)


def test_the_time_limit_ends_a_swarm() -> None:
    found = explore(load_campaign("demo"), range(10**6), RIG, jobs=1, time_limit_s=1.0)
    assert found.ended == "time limit"
    assert 1 <= found.tried < 1000


def test_a_trap_that_did_not_spring_is_disarmed(tmp_path: Path) -> None:
    """It once cut a board's power after everything had been healed, and nobody switched it on again."""
    path = tmp_path / "trap.toml"
    path.write_text(
        "[campaign]\nname = 'trap'\nduration_s = 2.0\nvoters = 3\n[workload]\noperations_per_s = 0\n"
        "[[fault]]\nkind = 'trap'\nselect = ['b2']\nat_s = 0.1\nfor_s = 0.1\ncount = 40\n"
        "[[fault]]\nkind = 'isolate'\nselect = ['b2']\nat_s = 0.1\nfor_s = 1.8\n"
    )
    simulated = simulate(plan(parse_campaign(Table.read(path)), RIG, 1), RIG)
    assert not [event for event in simulated.history.events if event.kind == "trapped"]


def test_a_death_that_is_told_late_was_found_out_all_the_same() -> None:
    """An isolated board's events came after the outage; by its own clock it had found its peers dead in time."""
    assert try_seed(load_campaign("split-brain"), RIG, 3).violated == ()


def test_an_error_of_the_simulator_is_a_finding_too() -> None:
    broken = replace(RIG, simulated=replace(RIG.simulated, latency_ms=(None, None)))
    tried = try_seed(load_campaign("demo"), broken, 1)
    assert tried.violates
    assert tried.violated == ("simulator",)
    assert "TypeError" in tried.detail


def test_a_rig_of_boards_cannot_be_explored() -> None:
    with pytest.raises(UsageError, match=r"has no \[sim\]"):
        try_seed(load_campaign("demo"), load_rig("virtual"), 1)


@pytest.mark.parametrize("kind", ["cut", "isolate"])
def test_a_majority_that_stands_still_while_a_minority_is_away_is_found(kind: str) -> None:
    """The checker on a run whose decisions during the outage are left out of the record."""
    text = "[campaign]\nname = 'core'\nduration_s = 8.0\nvoters = 3\n[[fault]]\nselect = ['b3']\n"
    text += f"kind = '{kind}'\nat_s = 1.0\nfor_s = 6.0\n[checks]\nprogress_within_s = 5.0\n"
    campaign = parse_campaign(Table(parse_document(text.encode(), "core"), "core"))
    history = simulate(plan(campaign, RIG, 1), RIG).history
    check = majority.check(Run(history))
    assert check.verdict is Verdict.VALID
    assert check.metrics["outages_of_a_minority_checked"] == 1
    until_ns = 7_500_000_000
    history.events = [
        event for event in history.events if event.kind != "decided" or not 1e9 < event.received_ns < until_ns
    ]
    check = majority.check(Run(history))
    assert check.verdict is Verdict.INVALID
    assert "while b3 alone, a minority, was away" in check.detail


# The command.

BROWNOUT = [sys.executable, "-c", "from brownout.cli import main; raise SystemExit(main())"]


def firmware_with(root: Path, target: Path, file: str, old: str, new: str) -> Path:
    """A copy of the firmware with a change."""
    shutil.copytree(root / "firmware", target, ignore=shutil.ignore_patterns("__pycache__"))
    path = target / "brownout_node" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    return target


def command(*arguments: str, firmware: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(firmware or "")}
    return subprocess.run([*BROWNOUT, *arguments], env=environment, capture_output=True, text=True, timeout=120)


def test_a_crash_of_the_firmware_is_found_and_replayed_from_its_seed(root: Path, tmp_path: Path) -> None:
    crashing = "        if self.register.next_height == 9:\n            raise IndexError('nine')\n"
    old = "    def on_tick(self):\n"
    firmware = firmware_with(root, tmp_path / "firmware", "core/vote.py", old, old + crashing)
    found = command("explore", "demo", "--seeds", "1..20", "--jobs", "2", "--json", firmware=firmware)
    assert found.returncode == 1, found.stderr
    document = json.loads(found.stdout)
    assert document["ended"] == "first violation"
    (first, *_) = document["violations"]
    assert "crashes" in first["violated"]
    assert first["replay"] == f"brownout explore demo --seed {first['seed']}"
    replay = command(
        "explore", "demo", "--seed", str(first["seed"]), "--out", str(tmp_path / "runs"), firmware=firmware
    )
    assert replay.returncode == 1, replay.stderr
    assert "IndexError: nine" in replay.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    verdict = json.loads((folder / "verdict.json").read_text())
    assert [check["name"] for check in verdict["checks"] if check["verdict"] == "invalid"] == first["violated"]
    assert (folder / "report.html").exists()


def test_an_interrupt_gives_what_was_found_so_far() -> None:
    process = subprocess.Popen(
        [*BROWNOUT, "explore", "demo", "--seeds", "1..1000000", "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert "explore demo" in process.stderr.readline()  # the first results are in
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "ended by: interrupted" in output


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("demo", "--seeds", "9..1"), "--seeds"),
        (("demo", "--seeds", "a..b"), "--seeds"),
        (("demo", "--time-limit", "soon"), "--time-limit"),
        (("no-such", "--seeds", "1..2"), "no-such"),
        (("demo", "--rig", "virtual", "--jobs", "1"), "[sim]"),
        (("demo", "--dask", "nowhere"), "--dask"),
    ],
)
def test_what_explore_cannot_take_is_said(
    arguments: tuple[str, ...], word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from brownout.cli import main

    assert main(["explore", *arguments]) == 2
    assert word in capfd.readouterr().err


def test_weather_that_is_calm_changes_nothing() -> None:
    the_plan = plan(load_campaign("demo"), RIG, 5)
    assert simulate(the_plan, RIG, weather=Weather()).trace_hash == simulate(the_plan, RIG).trace_hash


def test_a_turn_of_proposers_takes_longer_with_longer_time_outs() -> None:
    """Two of five boards are wiped and the rest holds a lock: rounds of twice the time took 6.3 s to find its owner."""
    tried = try_seed(load_campaign("wiped-voter"), load_rig("sim"), 100015)
    assert not tried.violates, tried
    drawn = draw(load_campaign("wiped-voter"), 100015).campaign
    assert drawn.timing["propose_timeout_ms"] == 800
    assert drawn.checks.progress_within_s > PROGRESS_WITHIN_S
