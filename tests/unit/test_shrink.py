"""Shrinking: delta debugging itself, campaigns as text, listed operations, and a violating run down to its events."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from brownout import campaign as runner
from brownout import resources
from brownout.campaign_file import Campaign, load_campaign, parse_campaign
from brownout.campaign_text import campaign_text
from brownout.contracts import UsageError
from brownout.document import Table, parse_document
from brownout.faults import plan
from brownout.history import Outcome
from brownout.rig import load_rig
from brownout.sim.ddmin import minimise
from brownout.sim.explicit import Recorded, explicit, message_faults, read_plan, read_run
from brownout.sim.network import Struck, Weather
from brownout.sim.runs import simulate
from brownout.sim.shrink import size
from brownout.sim.smaller import unhurried
from brownout.sim.swarm import draw
from hypothesis import given, settings
from hypothesis import strategies as st

CAMPAIGNS = resources.shipped(resources.campaigns_directory())
RIG = load_rig("sim")
BROWNOUT = [sys.executable, "-c", "from brownout.cli import main; raise SystemExit(main())"]


def parse(text: str) -> Campaign:
    return parse_campaign(Table(parse_document(text.encode(), "test.toml"), "test.toml"))


def plain(campaign: Campaign) -> Campaign:
    """Without where it was read from."""
    faults = tuple(replace(fault, place="") for fault in campaign.faults)
    return replace(campaign, source="", faults=faults)


# Delta debugging.


@given(st.integers(1, 60), st.data())
def test_what_is_needed_is_what_is_left(count: int, data: st.DataObject) -> None:
    needed = data.draw(st.sets(st.integers(0, count - 1)))
    assert minimise(range(count), lambda part: needed <= set(part)) == sorted(needed)


@given(st.integers(1, 20), st.randoms(use_true_random=False))
def test_nothing_can_be_left_out_of_what_is_left(count: int, random) -> None:  # noqa: ANN001
    verdicts: dict[tuple[int, ...], bool] = {tuple(range(count)): True}

    def fails(part: list[int]) -> bool:
        return verdicts.setdefault(tuple(part), random.random() < 0.4)

    left = minimise(range(count), fails)
    assert verdicts[tuple(left)]
    if len(left) > 1:
        assert not any(fails([*left[:at], *left[at + 1 :]]) for at in range(len(left)))


# Campaigns as text.


@settings(max_examples=100)
@given(st.sampled_from(CAMPAIGNS), st.integers(0, 10**6))
def test_a_campaign_as_text_reads_back_to_itself(name: str, seed: int) -> None:
    campaign = load_campaign(name)
    assert plain(parse(campaign_text(campaign, "a comment"))) == plain(campaign)
    drawn = draw(campaign, seed).campaign
    read = parse(campaign_text(drawn))
    assert plain(read) == plain(replace(drawn, workload=replace(drawn.workload, mix=dict(read.workload.mix))))


# Listed operations.

LISTED = """
[campaign]
name = "listed"
duration_s = 2.0
voters = 3
[[operation]]
at_s = 0.5
operation = "put"
key = "k7"
value = "first"
boards = ["b2"]
[[operation]]
at_s = 0.5
operation = "cas"
key = "k7"
expected = "first"
[[operation]]
at_s = 1.0
client = 2
operation = "cas"
key = "k7"
expected = "never"
[[operation]]
at_s = 1.5
client = 2
operation = "delete"
key = "g1"
boards = ["b3"]
"""


def test_listed_operations_are_done_and_nothing_else() -> None:
    simulated = simulate(plan(parse(LISTED), RIG, 1), RIG)
    began_ns = simulated.history.manifest["began_ns"]
    done = simulated.history.operations
    listed = [entry for entry in done if entry.invoked_ns - began_ns < 2_000_000_000]
    assert [(entry.operation, entry.key, entry.board) for entry in listed if entry.client == listed[0].client] == [
        ("put", "k7", "b2"),
        ("cas", "k7", listed[1].board),
    ]
    put, cas, mismatch, delete = listed
    assert (put.value, put.outcome) == ("first", Outcome.OK)
    assert put.finished_ns is not None
    assert cas.invoked_ns >= put.finished_ns  # one operation of a client at a time
    assert cas.outcome is Outcome.OK
    assert (mismatch.outcome, mismatch.status) == (Outcome.FAIL, "mismatch")
    assert (delete.operation, delete.board, delete.outcome) == ("delete", "b3", Outcome.OK)
    assert [round((entry.invoked_ns - began_ns) / 1e9, 3) for entry in (put, mismatch, delete)] == [0.5, 1.0, 1.5]
    assert [entry.key for entry in done[4:]] == ["k7"]  # the final read


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('operation = "put"', 'operation = "putt"', ("operation[0].operation", "did you mean", "put")),
        ("at_s = 1.5", "at_s = 2.5", ("operation[3].at_s", "0 to 2")),
        ('operation = "delete"', 'operation = "delete"\nvalue = "x"', ("operation[3].value", "unknown key")),
        ("client = 2", "client = 32", ("operation[2].client", "1 to 31")),
        ("voters = 3", "voters = 3\n[workload]\nclients = 2", ("workload.clients", "operation_timeout_s")),
        ('["b2"]', '["b2", "b2"]', ("operation[0].boards", "twice")),
    ],
)
def test_what_is_wrong_with_an_operation_is_named(old: str, new: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as error:
        parse(LISTED.replace(old, new, 1))
    for word in words:
        assert word in str(error.value)


def test_an_operation_at_a_board_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"operation\[3\]\.boards: unknown board 'b3'"):
        plan(parse(LISTED.replace("voters = 3", "voters = 2")), RIG, 1)


# From a run to explicit events.


def test_a_run_is_told_again_by_its_plan_and_its_operations(tmp_path: Path) -> None:
    result = runner.run(load_campaign("proposer-kill"), RIG, 4, tmp_path)
    with pytest.raises(UsageError, match="violated nothing"):
        read_run(result.folder)
    history = simulate(plan(load_campaign("proposer-kill"), RIG, 4), RIG).history
    document = dict(history.plan)
    the_plan = read_plan(document)
    assert the_plan.to_document() == document
    campaign = explicit(Recorded(document, Weather(), history, ("voting",)), the_plan)
    assert size(campaign)["faults"] == len(the_plan.faults)
    assert size(campaign)["operations"] > 200
    again = parse(campaign_text(campaign))
    assert simulate(plan(again, RIG, 4), RIG).verdict in ("valid", "unknown")
    assert [fault.when for fault in again.faults] == [fault.when for fault in the_plan.faults]


def test_what_the_weather_did_to_a_message_is_done_to_it_again() -> None:
    """The second copy of a vote that a drop names is the one that does not arrive."""
    calm = parse(LISTED)
    struck = Struck("drop", "prevote", 1, "b1", "b2", 1, 0.4)
    late = Struck("hold", "rumour", None, "b2", "b1", 3, 1.5, 0.2)
    drop, hold = message_faults([struck, late], 0, 2.0)
    assert (drop.parameters["height"], drop.parameters["nth"], drop.at_s) == (1, 1, 0.0)
    assert "nth" not in hold.parameters
    assert 1.4 < hold.at_s < 1.5 < hold.at_s + hold.for_s <= 1.7
    simulated = simulate(plan(replace(calm, faults=(drop,)), RIG, 1), RIG)
    (proof,) = [record for record in simulated.history.faults if record.stage == "proven"]
    assert proof.evidence == {"b1 -> b2": {"matched": 1, "passed": proof.evidence["b1 -> b2"]["passed"]}}


def test_the_weather_notes_whom_it_met() -> None:
    simulated = simulate(plan(load_campaign("demo"), RIG, 1), RIG, weather=Weather(5.0, 5.0, 5.0))
    assert {entry.action for entry in simulated.struck} == {"drop", "duplicate", "hold"}
    assert {entry.kind for entry in simulated.struck} >= {"prevote", "precommit"}
    votes = [entry for entry in simulated.struck if entry.kind == "prevote"]
    assert all(entry.height and entry.nth >= 1 for entry in votes)


def test_weather_ends_when_it_is_said_to() -> None:
    weather = Weather(5.0, 5.0, 5.0, until_s=3.0)
    times = [entry.at_s for entry in simulate(plan(load_campaign("demo"), RIG, 1), RIG, weather=weather).struck]
    assert 2.0 < max(times) < 3.0


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_an_unhurried_campaign_has_the_same_events_further_apart(name: str) -> None:
    campaign = replace(load_campaign(name), nemesis=None)
    slow = unhurried(campaign, 4.0)
    assert [fault.kind for fault in slow.faults] == [fault.kind for fault in campaign.faults]
    assert slow.duration_s == pytest.approx(4 * campaign.duration_s)
    for before, after in zip(campaign.faults, slow.faults, strict=True):
        assert after.at_s == pytest.approx(4 * before.at_s)
        assert after.at_s + after.for_s <= slow.duration_s
    assert plain(parse(campaign_text(slow, "slow"))) == plain(slow)


# The whole way.


def test_a_violating_run_is_shrunk_to_a_campaign_that_violates_the_same(root: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(root / "tests" / "system"))
    try:
        from bugs import BUGS, patched_firmware
    finally:
        sys.path.pop(0)
    bug = next(bug for bug in BUGS if bug.name == "forgets its lock after a reboot")
    environment = {**os.environ, "PYTHONPATH": str(patched_firmware(bug, root / "firmware", tmp_path / "firmware"))}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*BROWNOUT, *arguments], env=environment, capture_output=True, text=True, timeout=150, cwd=tmp_path
        )

    # A short campaign with what the bug needs, and more than that.
    (tmp_path / "lock.toml").write_text(
        "[campaign]\nname = 'lock'\nduration_s = 3.0\nvoters = 4\n[workload]\noperations_per_s = 15\n"
        "[[fault]]\nkind = 'isolate'\nselect = ['b4']\nat_s = 0.3\nfor_s = 0.5\n"
        "[[fault]]\nkind = 'hold'\nkinds = ['precommit']\nat_s = 1.2\nfor_s = 1.0\n"
        "[[fault]]\nkind = 'cycle'\nselect = ['b2']\nat_s = 1.6\nfor_s = 0.2\n"
        "[[fault]]\nkind = 'cut'\nselect = ['b3']\nat_s = 2.5\nfor_s = 0.3\n"
        "[checks]\nprogress_within_s = 4.0\nconverge_within_s = 4.0\n"
    )
    run = command("run", "lock.toml", "--rig", "sim", "--seed", "1", "--out", "runs")
    assert run.returncode == 1, run.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    shrunk = command("shrink", str(folder), "--check", "promises", "--time-limit", "20s")
    assert shrunk.returncode == 1, shrunk.stderr + shrunk.stdout
    minimal = load_campaign(str(tmp_path / "minimal.toml"))
    assert minimal.boards <= 4
    assert len(minimal.faults) <= 2
    assert {fault.kind for fault in minimal.faults} <= {"hold", "cycle"}
    assert len(minimal.workload.operations) <= 4
    violates = command("run", "minimal.toml", "--rig", "sim", "--seed", "7", "--out", "again")
    assert violates.returncode == 1, violates.stdout
    assert "invalid  promises" in violates.stdout
    environment["PYTHONPATH"] = ""
    assert command("run", "minimal.toml", "--rig", "sim", "--seed", "7", "--out", "good").returncode != 1


def test_a_plan_from_before_campaigns_named_their_protocols_is_still_a_plan() -> None:
    document = plan(load_campaign("demo"), load_rig("sim"), 1).to_document()
    older = {key: value for key, value in document.items() if key not in ("protocols", "options", "checker", "sources")}
    assert read_plan(older).to_document() == document
