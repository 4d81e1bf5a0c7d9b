"""Malicious boards in whole simulated runs: faults that turn them, what is seen of them, what too many of them do."""

from __future__ import annotations

import pytest
from brownout.campaign_file import Campaign, load_campaign, parse_campaign
from brownout.contracts import UsageError
from brownout.document import Table, parse_document
from brownout.fault_kinds import MALICE
from brownout.faults import plan
from brownout.history import FaultStage
from brownout.rig import load_rig
from brownout.sim.network import Weather
from brownout.sim.runs import Simulated, simulate

RIG = load_rig("sim")
HEAD = """
[campaign]
name = "malice"
duration_s = 4.0
voters = {voters}
protocols = ["adversary", "byzantine"]
[workload]
clients = 3
operations_per_s = 12.0
mix = {{ bput = 3, bget = 1 }}
"""


def parse(text: str) -> Campaign:
    return parse_campaign(Table(parse_document(text.encode(), "test.toml"), "test.toml"))


def run(text: str, seed: int = 1, weather: Weather | None = None) -> Simulated:
    return simulate(plan(parse(text), RIG, seed), RIG, weather=weather)


def check_of(simulated: Simulated, name: str) -> dict:
    return next(check for check in simulated.document["checks"] if check["name"] == name)


@pytest.mark.parametrize("voters", [4, 5, 7])
def test_malicious_boards_are_as_many_as_are_borne_and_the_same_in_a_whole_plan(voters: int) -> None:
    faults = "".join(f'[[fault]]\nkind = "{kind}"\nat_s = 1.0\n' for kind in MALICE)
    drawn = set()
    for seed in range(10):
        planned = plan(parse(HEAD.format(voters=voters) + faults), RIG, seed)
        assert [fault.kind for fault in planned.faults] == list(MALICE)
        assert len({fault.boards for fault in planned.faults}) == 1
        drawn.add(planned.faults[0].boards)
    assert {len(boards) for boards in drawn} == {(voters - 1) // 3}
    assert len(drawn) > 2


def test_malice_needs_boards_that_can_turn() -> None:
    text = HEAD.format(voters=4).replace('"adversary", ', "") + '[[fault]]\nkind = "lie"\nat_s = 1.0\n'
    with pytest.raises(UsageError, match="protocols that begin with adversary"):
        plan(parse(text), RIG, 1)


def test_a_turned_board_says_so_and_turns_back() -> None:
    simulated = run(HEAD.format(voters=4) + '[[fault]]\nkind = "lie"\nat_s = 1.0\nfor_s = 1.0\n')
    stages = [record.stage for record in simulated.history.faults]
    assert stages == [FaultStage.PLANNED, FaultStage.APPLIED, FaultStage.PROVEN, FaultStage.HEALED]
    (board,) = simulated.history.faults[0].boards
    told = [event for event in simulated.history.events if event.kind == "adversary"]
    assert [(event.board, event.fields["behaviour"]) for event in told] == [(board, 3), (board, 0)]
    assert simulated.verdict == "valid"


def test_what_is_corrupt_may_be_struck_by_the_weather_too() -> None:
    weather = Weather(loss_percent=10, duplicate_percent=10, late_percent=10)
    simulated = run(HEAD.format(voters=4) + '[[fault]]\nkind = "corrupt"\nat_s = 0.5\nfor_s = 3.0\n', weather=weather)
    assert check_of(simulated, "crashes")["verdict"] == "valid"
    assert check_of(simulated, "byzantine")["verdict"] == "valid"


def test_contradictions_of_a_malicious_board_are_evidence() -> None:
    simulated = simulate(plan(load_campaign("byzantine"), RIG, 1), RIG)
    found = check_of(simulated, "byzantine")
    (malicious,) = found["metrics"]["malicious_boards"]
    assert found["verdict"] == "valid"
    assert found["metrics"]["contradictions"] > 5
    assert all(entry["contradiction"].startswith(f"{malicious} said two things") for entry in found["evidence"])


def test_two_malicious_boards_of_four_are_found_to_split_the_log() -> None:
    fault = '[[fault]]\nkind = "equivocate"\nselect = ["b2", "b3"]\nto = ["b4"]\nat_s = 0.5\nfor_s = 3.0\n'
    found = [check_of(run(HEAD.format(voters=4) + fault, seed), "byzantine") for seed in (1, 2)]
    assert [check["verdict"] for check in found] == ["invalid", "invalid"]
    assert all("was decided differently by honest boards" in check["detail"] for check in found)
