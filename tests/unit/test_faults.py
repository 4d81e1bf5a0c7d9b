"""The planner: deterministic, within bounds, and it refuses what a rig cannot do before anything starts."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from random import Random
from typing import Any

import pytest
from brownout import partitions, resources
from brownout.campaign_file import Campaign, load_campaign, parse_campaign
from brownout.contracts import Support, UsageError
from brownout.document import Table, parse_document
from brownout.fault_kinds import KINDS, NEMESIS_KINDS
from brownout.faults import Plan, PlannedFault, link_rules, plan
from brownout.link_rules import expand, parse_rule
from brownout.rig import load_rig
from hypothesis import given
from hypothesis import strategies as st

VIRTUAL = load_rig("virtual")
NAMES = resources.shipped(resources.campaigns_directory())
HEAD = '[campaign]\nname = "x"\nduration_s = 10.0\n'
BOARDS = [f"b{number}" for number in range(1, 6)]


def campaign(text: str) -> Campaign:
    return parse_campaign(Table(parse_document((HEAD + text).encode(), "x.toml"), "x.toml"))


def one_fault(text: str, seed: int = 1) -> PlannedFault:
    faults = plan(campaign("[[fault]]\nat_s = 1.0\nfor_s = 1.0\n" + text), VIRTUAL, seed).faults
    assert len(faults) == 1
    return faults[0]


def blocked(fault: PlannedFault, names: list[str]) -> set[tuple[str, str]]:
    """The directed pairs that the rules of a fault drop, as the proxy of the virtual lab reads them."""
    pairs = set()
    for rule in link_rules(fault, fault.boards, names):
        assert rule.action == "drop"
        assert parse_rule({**dataclasses.asdict(rule)}, names) == rule
        pairs |= set(expand(rule, names))
    return pairs


def hears(pairs: set[tuple[str, str]], board: str, names: list[str]) -> set[str]:
    return {other for other in names if (other, board) not in pairs}


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_is_the_same_for_the_same_seed_only(name: str) -> None:
    shipped = load_campaign(name)
    texts = [json.dumps(plan(shipped, VIRTUAL, seed).to_document()) for seed in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    json.loads(texts[0])


def test_a_plan_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "import json; from brownout.campaign_file import load_campaign; from brownout.faults import plan;"
        "from brownout.rig import load_rig; rig = load_rig('virtual');"
        f"print(json.dumps([plan(load_campaign(name), rig, 7).to_document() for name in {NAMES}]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for hash_seed in ("0", "4242")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("name", NAMES)
def test_shipped_plans_stay_within_the_campaign(name: str) -> None:
    shipped = load_campaign(name)
    for seed in range(1, 6):
        planned = plan(shipped, VIRTUAL, seed)
        names = [board.name for board in planned.boards]
        assert [fault.id for fault in planned.faults] == [f"f{at:02}" for at in range(1, len(planned.faults) + 1)]
        assert [fault.at_s for fault in planned.faults] == sorted(fault.at_s for fault in planned.faults)
        for fault in planned.faults:
            assert 0 <= fault.at_s <= fault.at_s + fault.for_s <= shipped.duration_s
            assert set(fault.boards) <= set(names)
            assert bool(fault.boards) != (
                fault.select == "proposer" or KINDS[fault.kind].group in ("broker", "message")
            )


def test_rigs_that_lack_boards_or_faults_are_named() -> None:
    poor = dataclasses.replace(VIRTUAL, support={**VIRTUAL.support, "wipe": Support.ABSENT, "cut": Support.ABSENT})
    with pytest.raises(
        UsageError, match=r"virtual\.toml: campaign 'wiped-voter' needs the faults cut, wipe, which rig"
    ):
        plan(load_campaign("wiped-voter"), poor, 1)
    small = dataclasses.replace(VIRTUAL, virtual=dataclasses.replace(VIRTUAL.virtual, most_boards=9))
    with pytest.raises(UsageError, match=r"campaign 'fifty-boards' needs 50 boards \(7 voters, 43 learners\)"):
        plan(load_campaign("fifty-boards"), small, 1)
    with pytest.raises(UsageError, match="needs the faults power_flap"):
        nemesis = campaign("[nemesis]\nkinds = ['power_flap']\nevery_s = [1, 2]\nfor_s = [1, 2]")
        plan(nemesis, dataclasses.replace(VIRTUAL, support={**VIRTUAL.support, "power_flap": Support.ABSENT}), 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = 'cut'\nselect = ['b9']", "x.toml: fault[0].select: unknown board 'b9'"),
        ("kind = 'cut'\nselect = 'random:6'", "x.toml: fault[0].select: 6 of 5 boards; allowed: up to random:5"),
        ("kind = 'cut'\nselect = 'learners'", "x.toml: fault[0].select: 'learners' comes to no board; allowed: a sel"),
        ("kind = 'split'\ngroups = [['b1'], ['b7']]", "x.toml: fault[0].groups[1]: unknown board 'b7'"),
        ("kind = 'one_way'\nfrom = ['b1']\nto = ['gateway']", "x.toml: fault[0].to: unknown board 'gateway'"),
    ],
)
def test_boards_that_a_campaign_names_must_exist(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        one_fault(text)
    assert message in str(caught.value)


def test_shapes_need_voters() -> None:
    text = "voters = 3\n[[fault]]\nkind = 'split'\nat_s = 1\nfor_s = 1\nshape = 'ring'"
    with pytest.raises(UsageError, match="'ring' needs 4 voters; there are 3"):
        plan(campaign(text), VIRTUAL, 1)
    text = "voters = 1\n[nemesis]\nkinds = ['split']\nevery_s = [1, 2]\nfor_s = [1, 2]"
    with pytest.raises(UsageError, match="x.toml: nemesis.kinds: 'split' needs 2 boards; there are 1"):
        plan(campaign(text), VIRTUAL, 1)


@pytest.mark.parametrize(
    ("select", "count"), [("one", 1), ("minority", 2), ("majority", 3), ("all", 5), ("random:4", 4), ("voters", 5)]
)
def test_selectors_come_to_so_many_boards(select: str, count: int) -> None:
    chosen = {one_fault(f"kind = 'cut'\nselect = '{select}'", seed).boards for seed in range(30)}
    assert {len(boards) for boards in chosen} == {count}
    assert len(chosen) == 1 if count == 5 else len(chosen) > 3


def test_the_proposer_is_left_to_the_run() -> None:
    fault = one_fault("kind = 'cut'\nselect = 'proposer'\nwhen = 'proposal in flight'")
    assert (fault.boards, fault.select, fault.when) == ((), "proposer", "proposal in flight")


# Partitions.


def test_halves_and_majorities_hear_only_their_own() -> None:
    for shape, sizes in (("halves", {2, 3}), ("majority-minority", {2, 3})):
        for seed in range(20):
            fault = one_fault(f"kind = 'split'\nshape = '{shape}'", seed)
            groups = fault.parameters["groups"]
            assert {len(group) for group in groups} == sizes
            pairs = blocked(fault, BOARDS)
            for group in groups:
                for board in group:
                    assert hears(pairs, board, BOARDS) == set(group)
            assert not any("host" in pair for pair in pairs)


@given(st.integers(4, 7), st.integers(0, 2**32))
def test_in_a_ring_everybody_hears_another_majority(voters: int, seed: int) -> None:
    names = [f"b{number}" for number in range(1, voters + 1)]
    pairs = {(a, b) for sources, targets in partitions.ring(names, Random(seed)) for a in sources for b in targets}
    assert pairs == {(b, a) for a, b in pairs}
    heard = [frozenset(hears(pairs, board, names)) for board in names]
    assert len(set(heard)) == voters
    assert all(2 * len(group) > voters for group in heard)
    assert pairs


@given(st.integers(3, 7), st.integers(0, 6), st.integers(0, 2**32))
def test_a_bridge_hears_everybody_and_joins_two_halves(voters: int, others: int, seed: int) -> None:
    names = [f"b{number}" for number in range(1, voters + 1)]
    rest = [f"l{number}" for number in range(others)]
    cuts, middle = partitions.bridge(names, rest, Random(seed))
    pairs = {(a, b) for sources, targets in cuts for a in sources for b in targets}
    assert hears(pairs, middle, names + rest) == set(names + rest)
    groups = {frozenset(hears(pairs, board, names + rest)) for board in names + rest if board != middle}
    assert len(groups) == 2
    assert frozenset.intersection(*groups) == {middle}


def test_an_isolated_board_hears_nobody_and_isolated_boards_do_not_hear_each_other() -> None:
    fault = one_fault("kind = 'isolate'\nselect = ['b1', 'b2']")
    pairs = blocked(fault, BOARDS)
    everybody = {*BOARDS, "host"}
    assert pairs == {
        pair for board in ("b1", "b2") for other in everybody - {board} for pair in ((board, other), (other, board))
    }


def test_one_way_is_one_way() -> None:
    fault = one_fault("kind = 'one_way'\nfrom = ['b1']\nto = ['b2', 'host']")
    assert blocked(fault, BOARDS) == {("b1", "b2"), ("b1", "host")}
    assert fault.boards == ("b1", "b2")


def test_bent_links_are_those_of_the_boards_and_never_the_host_s() -> None:
    for kind, parameter, amount in (
        ("loss", "percent", 20.0),
        ("delay", "ms", 50.0),
        ("bandwidth", "bytes_per_s", 4e3),
    ):
        fault = one_fault(f"kind = '{kind}'\n{parameter} = {amount}\nselect = ['b2']")
        pairs: set[Any] = set()
        for rule in link_rules(fault, fault.boards, BOARDS):
            assert (rule.action, rule.amount) == (kind, amount)
            pairs |= set(expand(rule, BOARDS))
        others = set(BOARDS) - {"b2"}
        assert pairs == {("b2", other) for other in others} | {(other, "b2") for other in others}


def test_message_faults_carry_what_they_match() -> None:
    fault = one_fault("kind = 'duplicate'\nkinds = ['prevote']\nheight = 3\nnth = 2\nfrom = ['b1']\ncopies = 4")
    (rule,) = link_rules(fault, (), BOARDS)
    assert (rule.kinds, rule.height, rule.nth, rule.amount) == (("prevote",), 3, 2, 4.0)
    assert (rule.sources, rule.targets) == (("b1",), tuple(BOARDS))
    assert rule.id == "f01.1"
    with pytest.raises(ValueError, match="nothing that a link can do"):
        link_rules(one_fault("kind = 'cut'"), (), BOARDS)


# The nemesis.


@given(
    st.lists(st.sampled_from(NEMESIS_KINDS), min_size=1, max_size=5, unique=True),
    st.integers(1, 7),
    st.integers(0, 2**63 - 1),
)
def test_a_nemesis_draws_faults_that_can_be_planned(kinds: list[str], voters: int, seed: int) -> None:
    text = f"voters = {voters}\n[nemesis]\nkinds = {kinds}\nevery_s = [0.5, 1.0]\nfor_s = [0.1, 2.0]"
    if voters == 1 and "split" in kinds:
        return  # nothing to split: refused, see below
    planned: Plan = plan(campaign(text), VIRTUAL, seed)
    names = [board.name for board in planned.boards]
    assert planned.faults
    for fault in planned.faults:
        assert fault.kind in kinds
        assert fault.at_s + fault.for_s <= 10.0
        if KINDS[fault.kind].group == "link":
            assert link_rules(fault, fault.boards or ("b1",), names) or voters == 1
