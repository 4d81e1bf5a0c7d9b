"""Campaign files: all that ship are valid, every mistake is named, and no mutation gives anything but an answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from brownout import resources
from brownout.campaign_file import TIMINGS, Campaign, load_campaign, parse_campaign, read_campaign
from brownout.contracts import UsageError
from brownout.document import Table, parse_document, read_document
from brownout.fault_kinds import KINDS, MOMENTS
from brownout.faults import plan
from brownout.rig import load_rig
from brownout.watch import MOMENTS as WATCHED_MOMENTS
from brownout_node.core import config
from documents import mutated
from hypothesis import given
from hypothesis import strategies as st

NAMES = resources.shipped(resources.campaigns_directory())
DOCUMENTS = [read_document(resources.campaigns_directory() / f"{name}.toml") for name in NAMES]
TEXTS = [(resources.campaigns_directory() / f"{name}.toml").read_bytes() for name in NAMES]
HEAD = '[campaign]\nname = "x"\nduration_s = 10.0\n'
FAULT = HEAD + "[[fault]]\nat_s = 1.0\n"


def parse(text: str) -> Campaign:
    return parse_campaign(Table(parse_document(text.encode(), "x.toml"), "x.toml"))


def test_the_shipped_campaigns_are_those_that_were_promised() -> None:
    assert set(NAMES) >= {
        "blackout",
        "split-brain",
        "proposer-kill",
        "flapping-power",
        "mixed-serial",
        "torn-write",
        "broker-loss",
        "bitrot",
        "pressure",
        "clocks",
        "full-flash",
        "wiped-voter",
        "fifty-boards",
        "demo",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_campaign_reads_under_its_own_name_and_is_short(name: str) -> None:
    campaign = load_campaign(name)
    assert campaign.name == name
    assert campaign.description
    assert campaign.duration_s <= 30
    assert campaign.faults


def test_shipped_campaigns_use_every_group_of_faults() -> None:
    used = {KINDS[kind].group for name in NAMES for kind in load_campaign(name).kinds}
    assert used == {kind.group for kind in KINDS.values()}


def test_timings_and_moments_are_those_of_the_code_that_serves_them() -> None:
    numbers = {row.split(":")[0] for row in config._NUMBERS.split()}
    assert set(TIMINGS) == numbers - {"cluster", "board", "seed", "watchdog_ms", "flight"}
    assert MOMENTS == WATCHED_MOMENTS


def test_defaults() -> None:
    campaign = parse(HEAD)
    assert (campaign.voters, campaign.learners, campaign.serial_only) == (5, 0, 0)
    assert campaign.workload.operations_per_s == 20.0
    assert campaign.checks.progress_within_s == 10.0
    assert campaign.kinds == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.toml: campaign: is missing"),
        ("[campaign]\nname = 'x'", "campaign.duration_s: is missing; allowed: a number of seconds from 0.5"),
        (HEAD + "voters = 17", "campaign.voters: 17; allowed: an integer from 1 to 16"),
        (HEAD + "serial_only = 6", "campaign.serial_only: 6; allowed: an integer from 0 to 5"),
        (HEAD + "[faults]\n", "x.toml: faults: unknown key (did you mean 'fault'?)"),
        (HEAD.replace('"x"', '"../x"'), "campaign.name: '../x'; allowed: lower-case letters"),
        (HEAD + "[timing]\nprobe_period_ms = 100", "x.toml: timing.probe_timeout_ms: 200; allowed: less than"),
        (HEAD + "[timing]\nprobe_period_s = 1", "timing.probe_period_s: unknown key (did you mean 'probe_period_ms'?)"),
        (HEAD + "[timing]\ntick_ms = 0", "x.toml: timing.tick_ms: 0; allowed: integer, 1 to 1000"),
        (HEAD + "[workload]\nmix = { put = 0 }", "workload.mix: every weight is 0; allowed: at least one above 0"),
        (HEAD + "[workload]\nmix = { pt = 1 }", "workload.mix.pt: unknown key (did you mean 'put'?)"),
        (HEAD + "[workload]\noperations_per_s = -1", "workload.operations_per_s: -1; allowed: a number from 0"),
        (FAULT, "fault[0].kind: is missing; allowed: cut, cycle"),
        (FAULT + "kind = 'cutt'", "fault[0].kind: unknown kind 'cutt' (did you mean 'cut'?)"),
        (FAULT + "kind = 'cut'", "fault[0].for_s: is missing"),
        (FAULT + "kind = 'cut'\nfor_s = -1.0", "fault[0].for_s: -1.0; allowed: a number of seconds from 0.01"),
        (FAULT + "kind = 'cut'\nfor_s = 9.5", "fault[0].at_s: the fault may last until 10.5 s"),
        (FAULT + "kind = 'cut'\nfor_s = 1\nselect = 'some'", "fault[0].select: unknown selector 'some'"),
        (FAULT + "kind = 'cut'\nfor_s = 1\nselect = 'random:0'", "allowed: one, minority, majority, all, proposer"),
        (FAULT + "kind = 'cut'\nfor_s = 1\nselect = 3", "fault[0].select: 3; allowed: one, minority"),
        (FAULT + "kind = 'cut'\nfor_s = 1\nwhen = 'noon'", "fault[0].when: unknown when 'noon'; allowed: proposal in"),
        (FAULT + "kind = 'reset'\nfor_s = 1", "fault[0].for_s: unknown key"),
        (FAULT + "kind = 'split'\nfor_s = 1", "fault[0].shape: needs either shape or groups"),
        (FAULT + "kind = 'split'\nfor_s = 1\nshape = 'half'", "unknown shape 'half' (did you mean 'halves'?)"),
        (FAULT + "kind = 'loss'\nfor_s = 1\npercent = 101", "fault[0].percent: 101; allowed: percent from 0.1 to 100"),
        (FAULT + "kind = 'drop'\nfor_s = 1\nkinds = ['vote']", "fault[0].kinds[0]: unknown 'vote'"),
        (FAULT + "kind = 'one_way'\nfor_s = 1\nfrom = ['b1']", "fault[0].to: is missing"),
        (HEAD + "[nemesis]\nkinds = ['wipe']", "nemesis.kinds[0]: unknown 'wipe'"),
        (HEAD + "[nemesis]\nkinds = ['cut']\nevery_s = [2.0, 1.0]", "nemesis.every_s: [2.0, 1.0] is the wrong way"),
        (HEAD + "[checks]\nprogress_within_s = 0", "checks.progress_within_s: 0; allowed: a number of seconds"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert str(caught.value).startswith("x.toml: ")
    assert message in str(caught.value)
    assert "allowed: " in str(caught.value)


def test_unknown_names_say_what_ships(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape("unknown campaign 'blackot' (did you mean 'blackout'?)")):
        load_campaign("blackot")
    with pytest.raises(UsageError, match="none.toml: no such file"):
        load_campaign(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="unknown campaign"):
        load_campaign("x" * 5000)


def test_a_file_may_lie_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD)
    assert load_campaign(str(path)) == read_campaign(path)


def is_answered(document: dict[str, Any]) -> None:
    try:
        campaign = parse_campaign(Table(document, "x.toml"))
    except UsageError as error:
        assert str(error).startswith("x.toml: ")
        return
    try:
        plan(campaign, load_rig("virtual"), 1)
    except UsageError as error:
        assert "x.toml" in str(error) or "virtual.toml" in str(error)


@given(mutated(DOCUMENTS))
def test_any_mutation_of_a_campaign_is_a_campaign_or_a_usage_error(document: dict[str, Any]) -> None:
    is_answered(document)


@given(st.sampled_from(TEXTS), st.data())
def test_any_damage_to_the_bytes_is_a_campaign_or_a_usage_error(text: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    until = data.draw(st.integers(at, min(len(text), at + 30)))
    damaged = text[:at] + data.draw(st.binary(max_size=8)) + text[until:]
    try:
        document = parse_document(damaged, "x.toml")
    except UsageError:
        return
    is_answered(document)


def test_sums_of_seconds_that_are_no_binary_fractions_fit() -> None:
    text = "[campaign]\nname = 'sum'\nduration_s = 10.731\n[[fault]]\nkind = 'cut'\nat_s = 5.331\nfor_s = 5.4\n"
    assert parse_campaign(Table(parse_document(text.encode(), "sum.toml"), "sum.toml")).faults[0].for_s == 5.4
