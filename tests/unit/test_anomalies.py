"""Histories in which the analysis must find each kind of anomaly, and ones in which it must find none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from brownout.analysis.anomalies import CLOCK, DIGEST, RANGE, VOTES, Anomaly, anomalies
from brownout.campaign_file import load_campaign, parse_campaign
from brownout.campaign_text import campaign_text
from brownout.checkers import judge
from brownout.cli import main
from brownout.cli.run import show_verdict
from brownout.contracts import UsageError
from brownout.document import Table, parse_document
from brownout.faults import plan
from brownout.history import BoardEvent
from brownout.rig import load_rig
from brownout.sim.runs import simulate
from eventful_runs import save
from history_builder import MILLISECOND, World, healthy

RIG = load_rig("sim")


def found(world: World, kind: str, **manifest: object) -> list[Anomaly]:
    """The anomalies of a world, which must all be of that kind."""
    every = anomalies(world.history(**manifest))
    assert {anomaly.kind for anomaly in every} <= {kind}
    return every


def ranged(**ranges: tuple[int, int]) -> dict[str, object]:
    return {"progress_within_s": 5.0, "converge_within_s": 5.0, "ranges": ranges}


def test_a_healthy_run_has_none() -> None:
    assert anomalies(healthy().history()) == []


# Digests.


def test_another_digest_at_the_same_height_is_one() -> None:
    world = healthy()
    world.tell("b1", "digest", protocol="vote", height=8, digest="a" * 16, count=2)
    world.tell("b2", "digest", protocol="vote", height=8, digest="a" * 16, count=2)
    assert found(world, DIGEST) == []
    odd = world.tell("b3", "digest", protocol="vote", height=8, digest="b" * 16, count=2)
    (anomaly,) = found(world, DIGEST)
    assert (anomaly.board, anomaly.at_ns) == ("b3", odd.received_ns)
    assert anomaly.evidence[-1] == odd and anomaly.evidence[0].board == "b1"


def test_gossip_that_has_not_arrived_yet_is_none() -> None:
    world = healthy()
    world.tell("b1", "digest", protocol="gossip", height=0, digest="a" * 16, count=2)
    world.tell("b2", "digest", protocol="gossip", height=0, digest="b" * 16, count=2)
    assert found(world, DIGEST) == []


def test_a_breaker_that_opened_for_divergence_is_one_and_for_lost_quorum_is_none() -> None:
    world = healthy()
    world.tell("b2", "breaker", state=1, cause=1, height=12)
    world.tell("b2", "breaker", state=0, cause=0, height=12)
    assert found(world, DIGEST) == []
    world.tell("b1", "breaker", state=1, cause=2, height=16)
    assert [anomaly.board for anomaly in found(world, DIGEST)] == ["b1"]


def test_a_board_that_flags_a_register_by_itself_is_one() -> None:
    world = healthy()
    world.tell("b1", "breaker", state=1, cause=5, height=16)
    assert [anomaly.board for anomaly in found(world, RANGE)] == ["b1"]


# Ranges.


@pytest.mark.parametrize(("value", "odd"), [("0", False), ("100", False), ("-1", True), ("101", True), ("²", True)])
def test_a_register_that_leaves_its_range_is_told_once(value: str, odd: bool) -> None:
    world = healthy()
    world.operate("put", "level", value)
    world.operate("put", "other", "anything")
    told = found(world, RANGE, checks=ranged(level=(0, 100)))
    assert len(told) == odd


def test_what_was_refused_or_only_read_leaves_no_range() -> None:
    world = healthy()
    world.operate("put", "level", "50")
    world.operate("cas", "level", "500", "nonsense")
    world.operate("get", "level")
    assert found(world, RANGE, checks=ranged(level=(0, 100))) == []


def test_ranges_survive_being_written_as_a_campaign() -> None:
    head = "[campaign]\nname = 'c'\nduration_s = 5\n"
    text = head + '[checks.ranges]\nlevel = [0, 100]\n"a key; of its own" = [-5, 5]\n'
    campaign = parse_campaign(Table(parse_document(text.encode(), "c.toml"), "c.toml"))
    again = parse_campaign(Table(parse_document(campaign_text(campaign).encode(), "c.toml"), "c.toml"))
    assert again.checks == campaign.checks
    assert campaign.checks.ranges == {"level": (0, 100), "a key; of its own": (-5, 5)}


@pytest.mark.parametrize("limits", ["[5, 1]", "[1]", "[0.5, 2]", "[true, 2]", "7"])
def test_a_range_that_is_none_is_named(limits: str) -> None:
    text = f"[campaign]\nname = 'c'\nduration_s = 5\n[checks.ranges]\nlevel = {limits}\n"
    with pytest.raises(UsageError, match=r"checks\.ranges\.level.*whole numbers"):
        parse_campaign(Table(parse_document(text.encode(), "c.toml"), "c.toml"))


# Votes.


def test_two_values_in_one_round_are_one_over_a_reboot_too() -> None:
    world = healthy()
    world.prevote("b1", "a" * 16)
    world.boot("b1")
    world.prevote("b1", "a" * 16)
    assert found(world, VOTES) == []
    world.prevote("b1", "b" * 16)
    world.prevote("b1", "c" * 16)
    (anomaly,) = found(world, VOTES)  # one place, told once
    assert anomaly.board == "b1" and "a" * 16 in anomaly.detail and "b" * 16 in anomaly.detail


def test_another_round_or_kind_of_vote_is_none() -> None:
    world = healthy()
    world.prevote("b1", "a" * 16)
    world.precommit("b1", None)
    world.prevote("b1", "b" * 16, round=1)
    assert found(world, VOTES) == []


def test_what_others_heard_counts_against_the_sender() -> None:
    world = healthy()
    world.tell("b1", "byzantine_heard", board=2, height=3, view=0, phase=1, value_id="a" * 16)
    world.tell("b3", "byzantine_heard", board=2, height=3, view=1, phase=1, value_id="b" * 16)
    assert found(world, VOTES) == []
    world.tell("b2", "byzantine_voted", height=3, view=0, phase=1, value_id="b" * 16)
    world.tell("b3", "contradiction", board=1, height=4, view=0, phase=0, first="a" * 16, second="b" * 16)
    assert [anomaly.board for anomaly in found(world, VOTES)] == ["b2", "b1"]


# Clocks.


def with_clock(world: World, board: str, rate: float, jump_ms: int = 0) -> World:
    """The same run, but that board's count runs at another rate, and jumps in the middle."""
    own = [event for event in world.events if event.board == board]
    middle = own[len(own) // 2].received_ns

    def told(event: BoardEvent) -> BoardEvent:
        if event.board != board:
            return event
        return replace(event, now_ms=int(event.now_ms * rate) + (jump_ms if event.received_ns >= middle else 0))

    world.events = [told(event) for event in world.events]
    return world


def busy() -> World:
    """Twenty seconds in which every board is asked something again and again, and answers at once."""
    world = World()
    world.boot()
    for number in range(40):
        world.wait(0.45)
        world.operate("put", "k", f"v{number}")
    return world


@pytest.mark.parametrize(("rate", "jump_ms", "way"), [(1.2, 0, "ahead"), (0.8, 0, "behind"), (1.0, 5000, "ahead")])
def test_a_clock_that_runs_away_is_one(rate: float, jump_ms: int, way: str) -> None:
    (anomaly,) = found(with_clock(busy(), "b2", rate, jump_ms), CLOCK)
    assert anomaly.board == "b2" and way in anomaly.detail and len(anomaly.evidence) == 2


@pytest.mark.parametrize("rate", [1 + 50e-6, 1 - 50e-6])
def test_a_crystal_is_none(rate: float) -> None:
    assert found(with_clock(busy(), "b2", rate), CLOCK) == []


def test_telemetry_that_comes_late_is_none() -> None:
    world = busy()
    world.events = [
        replace(event, received_ns=event.received_ns + 3000 * MILLISECOND)
        if event.board == "b2" and 5 < event.received_ns / 1e9 < 9
        else event
        for event in world.events
    ]
    assert found(world, CLOCK) == []


# Whole runs.


def test_a_campaign_of_clocks_shows_them_and_one_of_power_cuts_shows_nothing() -> None:
    told = {}
    for name in ("clocks", "flapping-power"):
        history = simulate(plan(load_campaign(name), RIG, 1), RIG).history
        told[name] = anomalies(history)
    assert told["flapping-power"] == []
    assert {anomaly.kind for anomaly in told["clocks"]} == {CLOCK}
    assert {anomaly.board for anomaly in told["clocks"]} >= {"b1", "b2", "b3"}


def test_they_are_in_the_verdict_and_in_every_report_but_change_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = healthy()
    world = healthy()
    world.operate("put", "level", "101")
    world.manifest["checks"] = ranged(level=(0, 100))
    verdict = judge(world.history())
    assert verdict["verdict"] == judge(plain.history())["verdict"]
    assert verdict["metrics"]["anomalies"]["kinds"] == {RANGE: 1}
    run = save(world.history(), tmp_path)
    assert main(["report", str(run), "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (shown,) = document["metrics"]["anomalies"]["found"]
    assert shown["kind"] == RANGE and shown["evidence"][0]["step"] == "applied"
    show_verdict(verdict)
    assert f"anomaly  {shown['board']:16} {RANGE}: level = 101" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    assert '<h2 id="anomalies">' in page and "level = 101" in page
    assert main(["report", str(run), "--format", "md"]) == 0
    assert f"| {RANGE} | {shown['board']} |" in capsys.readouterr().out
