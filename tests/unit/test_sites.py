"""Sites: what a campaign may say, which way a board chooses, runs in the simulator, and histories that have to fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from brownout.analysis.reroutes import reroute_figures
from brownout.campaign_file import load_campaign, parse_campaign
from brownout.campaign_text import campaign_text
from brownout.checkers import judge
from brownout.checkers import sites as checker
from brownout.checkers.run import Run
from brownout.contracts import UsageError
from brownout.document import Table, parse_document
from brownout.faults import plan
from brownout.history import BoardEvent, Check, History, Verdict
from brownout.report import write_report
from brownout.report.formats import render
from brownout.rig import Rig, SimSpec, load_rig, parse_rig
from brownout.sim.engine import Engine
from brownout.sim.explicit import read_plan
from brownout.sim.network import Network
from brownout.sim.runs import Simulated, simulate
from brownout.sim.swarm import draw
from brownout.sites import Sites, routes_of
from brownout_node.core.config import Config
from brownout_node.core.errors import ConfigError
from brownout_node.transport.routes import STEADY, Routes
from eventful_runs import save
from history_builder import World

THREE = Sites({"north": ("b1",), "middle": ("b2",), "south": ("b3", "b4")}, (10.0, 30.0), None, ("b3",))


# The place of everything.


def test_boards_have_a_home_and_routes() -> None:
    assert THREE.home("b3") == "south" and THREE.home("b9") == "north"
    assert THREE.routes("b1") == ("north", "middle")
    assert THREE.routes("b2") == ("middle", "north"), "10 ms are nearer than 30"
    assert THREE.routes("b3") == ("south", "middle", "serial")
    assert replace(THREE, second=("b1",)).routes("b4") == ("south",)


def test_bridges_form_a_line() -> None:
    assert THREE.bridges == (("north", "middle"), ("middle", "south"))
    assert THREE.path("south", "north") == ("south", "middle", "north")
    assert THREE.path("north", "north") == ("north",)
    assert THREE.between_ms(("south", "middle", "north")) == 40.0


def test_plain_data_and_back() -> None:
    assert Sites.from_document(THREE.to_document()) == THREE
    assert THREE.among(["b1", "b4"]).boards == {"north": ("b1",), "middle": (), "south": ("b4",)}


def parsed(text: str) -> Any:
    head = '[campaign]\nname = "c"\nduration_s = 9.0\nvoters = 3\n'
    return parse_campaign(Table(parse_document((head + text).encode(), "c.toml"), "c.toml"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[sites]\nboards = { north = ["b1"] }', "1 sites"),
        ('[sites]\nboards = { north = ["b1"], south = ["b1"] }', "two places"),
        ('[sites]\nboards = { north = ["b1"], serial = ["b2"] }', "route by cable"),
        ('[sites]\nboards = { north = ["b1"], south = ["b2"] }\nlatency_ms = [1, 2]', "a list of 1"),
        ('[sites]\nboards = { north = ["b1"], south = ["b2"] }\nlatency_ms = -1', "milliseconds"),
        ('[sites]\nboards = { north = ["b1"], south = ["b7"] }', "unknown board 'b7'"),
        ('[sites]\nboards = { north = ["b1"], south = ["b2"] }\nserial = ["x"]', "unknown board 'x'"),
        ('[[fault]]\nkind = "broker"\nsite = "north"\nat_s = 1\nfor_s = 1', "needs sites"),
        (
            '[sites]\nboards = { north = ["b1"], south = ["b2"] }\n'
            '[[fault]]\nkind = "broker"\nsite = "west"\nat_s = 1\nfor_s = 1',
            "north, south",
        ),
        (
            '[sites]\nboards = { north = ["b1"], south = ["b2"] }\n'
            '[[fault]]\nkind = "bridge"\nbetween = ["south", "west"]\nat_s = 1\nfor_s = 1',
            "no bridge",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        plan(parsed(text), load_rig("sim"), 1)


def test_a_campaign_with_sites_is_text_and_plan_and_back() -> None:
    campaign = load_campaign("sites")
    text = campaign_text(campaign).encode()
    assert replace(parse_campaign(Table(parse_document(text, "c.toml"), "c.toml")), source="") == replace(
        campaign, source=""
    )
    made = plan(campaign, load_rig("sim"), 3)
    assert read_plan(made.to_document()).to_document() == made.to_document()
    assert read_plan(made.to_document()).sites == campaign.sites
    assert "sites" not in plan(load_campaign("demo"), load_rig("sim"), 3).to_document()


def test_a_selector_names_the_boards_of_a_site() -> None:
    sites = '[sites]\nboards = { north = ["b1"], south = ["b2", "b3"] }\n'
    fault = '[[fault]]\nkind = "blackout"\nselect = "site:%s"\nat_s = 1\nfor_s = 1'
    assert plan(parsed(sites + fault % "south"), load_rig("sim"), 1).faults[0].boards == ("b2", "b3")
    with pytest.raises(UsageError, match="site:north, site:south"):
        plan(parsed(sites + fault % "west"), load_rig("sim"), 1)
    with pytest.raises(UsageError, match="a table"):
        plan(parsed(fault % "south"), load_rig("sim"), 1)


RIG = """
[rig]
name = "far"
rung = "sim"
[sim]
[sites]
boards = { here = ["b1", "b9"], there = ["b2"] }
latency_ms = 40
[faults]
broker = "injected"
"""


def rig_of(text: str) -> Rig:
    return parse_rig(Table(parse_document(text.encode(), "far.toml"), "far.toml"))


def test_a_rig_may_place_the_boards_of_campaigns_that_do_not() -> None:
    made = plan(parsed('[[fault]]\nkind = "broker"\nsite = "there"\nat_s = 1\nfor_s = 1'), rig_of(RIG), 1)
    assert made.sites is not None and made.sites.boards == {"here": ("b1",), "there": ("b2",)}, "b9 is not in the run"
    own = '[sites]\nboards = { north = ["b1"], south = ["b2"] }'
    kept = plan(parsed(own), rig_of(RIG), 1).sites
    assert kept is not None and kept.names == ("north", "south"), "a campaign's own come first"


def test_a_rig_with_a_broker_of_its_own_has_no_sites() -> None:
    text = RIG.replace("[sim]", '[lab]\ndirectory = "x"').replace('rung = "sim"', 'rung = "virtual"')
    with pytest.raises(UsageError, match="sites"):
        rig_of(text)
    with pytest.raises(UsageError, match="--rig virtual"):
        plan(load_campaign("sites"), replace(load_rig("sim"), simulated=None, support=load_rig("sim").support), 1)


def test_a_swarm_leaves_boards_out_of_their_sites() -> None:
    for seed in range(12):
        drawn = draw(load_campaign("sites"), seed).campaign
        assert drawn.sites is not None
        plan(drawn, load_rig("sim"), seed)  # names nobody who is not there


# The way that a board chooses.

ROW = {"cluster": 1, "board": 1, "bed": "bed", "seed": 0, "roster": [[1, "b1", 1]], "mqtt": {"host": "one"}}


def test_a_boards_configuration_names_its_routes() -> None:
    rows = routes_of(("north", "south", "serial"), {"south": ("two", 1884)})
    assert Config({**ROW, "routes": rows}).routes == (["north"], ["south", "two", 1884], ["serial"])
    assert Config(ROW).routes is None


@pytest.mark.parametrize(
    "rows",
    [
        [["north"]],
        [["north"], []],
        [["north"], ["north", "two", 1]],
        [["north"], ["south"]],
        [["north"], ["south", "two", 0]],
        [["serial"], ["south", "two", 1]],
        [["north"], ["serial"], ["south", "two", 1]],
        [["north", "one", 1], ["serial"]],
    ],
)
def test_routes_that_make_no_sense_are_refused(rows: list[Any]) -> None:
    with pytest.raises(ConfigError, match="routes"):
        Config({**ROW, "routes": rows})


def test_routes_need_a_broker() -> None:
    with pytest.raises(ConfigError, match="mesh mqtt"):
        Config({**{key: value for key, value in ROW.items() if key != "mqtt"}, "routes": [["north"], ["serial"]]})


def chosen(routes: Routes) -> str:
    return str(routes.names[routes.at])


def test_a_route_is_tried_again_before_it_is_given_up() -> None:
    routes = Routes(["north", "south", "serial"])
    routes.taken(100)
    assert routes.heard(110) is None
    routes.failed(1000)
    assert chosen(routes) == "north", "most ends of a connection are short"
    routes.failed(1080)
    assert chosen(routes) == "south"
    assert routes.heard(1100) is None, "a late message of the old route"
    routes.taken(1150)
    assert routes.heard(1200) == ("north", "south", 200)
    assert routes.heard(1210) is None, "told once"


def test_a_short_end_is_no_change_of_route() -> None:
    routes = Routes(["north", "south"])
    routes.taken(0)
    routes.heard(1)
    routes.failed(1000)
    routes.taken(1080)
    assert routes.heard(1090) is None and chosen(routes) == "north"


def test_a_board_goes_home_only_to_a_broker_that_answers_steadily() -> None:
    routes = Routes(["north", "south"])
    routes.failed(0)
    routes.failed(100)
    routes.taken(200)
    assert routes.heard(210) == ("north", "south", 210)
    looks = [routes.looked(answers, 1000) for answers in (True, True, False, True, True)]
    assert not any(looks) and chosen(routes) == "south"
    assert routes.looked(True, 5000) and STEADY == 3
    assert chosen(routes) == "north"
    routes.taken(5100)
    assert routes.heard(5120) == ("south", "north", 120)


def test_all_routes_are_tried_in_turn_and_more_slowly() -> None:
    routes = Routes(["north", "south"])
    pauses, tried = [], []
    for attempt in range(16):
        tried.append(chosen(routes))
        routes.failed(attempt * 100)
        pauses.append(routes.pause_ms(lambda bound: bound - 1))
    assert tried[:5] == ["north", "north", "south", "south", "north"]
    assert pauses == sorted(pauses) and pauses[0] < 100 and pauses[-1] < 2000
    routes.taken(2000)
    routes.failed(9000)
    assert routes.pause_ms(lambda bound: bound - 1) < 100, "what lasted was good"


def test_from_the_cable_the_brokers_are_looked_at_in_turn() -> None:
    routes = Routes(["north", "south", "serial"])
    for at_ms in range(4):
        routes.failed(at_ms)
    assert routes.by_cable
    routes.taken(10)
    assert routes.target == 0 and not routes.looked(False, 1000)
    assert routes.target == 1
    assert [routes.looked(True, at_ms) for at_ms in (2000, 3000, 4000)] == [False, False, True]
    assert chosen(routes) == "south"


# Runs.


def rerouted(run: Simulated) -> list[BoardEvent]:
    return [event for event in run.history.events if event.kind == "rerouted"]


@pytest.mark.parametrize("seed", [1])
def test_the_campaign_is_valid_and_everybody_comes_back(seed: int) -> None:
    made = plan(load_campaign("sites"), load_rig("sim"), seed)
    run = simulate(made, load_rig("sim"))
    assert run.verdict == "valid", [check for check in run.document["checks"] if check["verdict"] != "valid"]
    found = next(check for check in run.document["checks"] if check["name"] == "sites")
    assert found["metrics"]["boards_judged"] >= 3, "the bound was held to somebody"
    moves = {(event.board, event.fields["from"], event.fields["to"]) for event in rerouted(run)}
    assert {("b1", "north", "south"), ("b3", "north", "serial"), ("b4", "south", "north")} <= moves
    assert {("b1", "south", "north"), ("b3", "serial", "north"), ("b4", "north", "south")} <= moves, "and home again"
    assert not any(board == "b5" for board, _, _ in moves), "it knows no other way"
    assert all(event.fields["gap_ms"] < 2000 for event in rerouted(run))


# Histories that must fail.


def north_dies(for_s: float, *back: str, within_s: float = 0.4, told: str = "rerouted") -> World:
    """Everybody is at home; the broker of the north dies, and these boards say that they are back."""
    world = World(3)
    world.boot()
    for name in world.names():
        world.tell(name, "connected", transport="mqtt")
    world.wait(5.0)
    world.fault("f01", "broker", "planned")
    world.fault("f01", "broker", "applied", site="north")
    world.fault("f01", "broker", "proven", site="north")
    world.wait(min(within_s, for_s))
    for name in back:
        fields: dict[str, Any] = {"from": "north", "to": "south", "gap_ms": 400}
        world.tell(name, told, **(fields if told == "rerouted" else {"transport": "mqtt"}))
    world.wait(max(0.0, for_s - within_s))
    world.fault("f01", "broker", "healed", site="north")
    world.wait(6.0)
    world.digests()
    return world


SITED = Sites({"north": ("b1", "b2"), "south": ("b3",)}, (5.0,))


def judged(world: World, sites: Sites = SITED) -> Check:
    return checker.check(Run(sited(world, sites)))


def sited(world: World, sites: Sites = SITED) -> History:
    history = world.history()
    more = {"sites": sites.to_document(), "checks": {"reroute_within_s": 2.0}}
    return replace(history, plan={**history.plan, **more})


def test_boards_that_are_back_in_time_are_valid() -> None:
    found = judged(north_dies(5.0, "b1", "b2"))
    assert found.verdict is Verdict.VALID and found.metrics["boards_judged"] == 2


def test_a_board_that_never_takes_its_second_route_fails() -> None:
    found = judged(north_dies(5.0, "b1"))
    assert found.verdict is Verdict.INVALID and "b2 knows a second route" in found.detail


def test_a_board_that_comes_back_too_late_fails() -> None:
    assert judged(north_dies(5.0, "b1", "b2", within_s=2.5)).verdict is Verdict.INVALID


def test_a_board_that_is_connected_and_hears_nobody_has_not_come_back() -> None:
    assert judged(north_dies(5.0, "b1", "b2", told="connected")).verdict is Verdict.INVALID


def test_being_home_again_will_do_where_the_broker_was_back_so_soon() -> None:
    assert judged(north_dies(0.5, "b1", "b2", told="connected", within_s=0.4)).verdict is Verdict.VALID
    assert judged(north_dies(0.5)).verdict is Verdict.INVALID


def test_a_link_that_dies_is_judged_as_a_broker_is_for_the_boards_that_it_meets() -> None:
    world = north_dies(5.0)
    world.faults = [replace(record, kind="uplink", boards=("b2",)) for record in world.faults]
    found = judged(world)
    assert found.verdict is Verdict.INVALID and "b2" in found.detail and found.metrics["boards_judged"] == 1
    world = north_dies(5.0, "b2")
    world.faults = [replace(record, kind="uplink", boards=("b2",)) for record in world.faults]
    assert judged(world).verdict is Verdict.VALID
    assert [row["fault"] for row in reroute_figures(sited(world))["changes"]] == ["f01"]


def test_a_board_without_a_second_route_owes_nothing() -> None:
    found = judged(north_dies(5.0, "b1"), replace(SITED, second=("b1", "b3")))
    assert found.verdict is Verdict.VALID and found.metrics["boards_judged"] == 1


def test_a_board_that_another_fault_met_is_not_judged() -> None:
    world = north_dies(5.0, "b1")
    at_ns = world.faults[-1].at_ns
    for stage, when in (("applied", at_ns - 4_500_000_000), ("proven", at_ns - 4_400_000_000), ("healed", at_ns)):
        record = world.fault("f02", "isolate", stage, "b2")
        world.faults[-1] = replace(record, at_ns=when)
    found = judged(world)
    assert found.verdict is Verdict.VALID and found.metrics["boards_judged"] == 1


def test_the_verdict_has_the_check_only_where_there_are_sites() -> None:
    world = north_dies(5.0, "b1")
    assert "sites" not in [check["name"] for check in judge(world.history())["checks"]]
    named = {check["name"]: check["verdict"] for check in judge(sited(world))["checks"]}
    assert named["sites"] == "invalid"


# Figures.


def test_each_change_of_route_has_its_gap_and_its_fault() -> None:
    world = north_dies(5.0, "b1")
    world.tell("b1", "rerouted", **{"from": "south", "to": "north", "gap_ms": 90})
    figures = reroute_figures(sited(world))
    away, home = figures["changes"]
    assert (away["board"], away["to"], away["fault"], away["gap_ms"]) == ("b1", "south", "f01", 400)
    assert away["heard_ms"] == pytest.approx(402, abs=3), "from the fault until it was heard of, by the host's clock"
    assert (home["home"], home["fault"], home["heard_ms"]) == (True, None, None)
    assert figures["gap_ms"]["max"] == 400 and figures["home_gap_ms"]["max"] == 90
    (outage,) = figures["outages"]
    assert (outage["where"], outage["rerouted"], outage["longest_gap_ms"]) == ("north", 1, 400)
    assert outage["decision_gap_ms"] is None, "nothing was ever decided"


def test_the_time_without_a_decision_stands_beside_the_gap() -> None:
    world = World(3)
    world.boot()
    world.operate("put", "k", "before")
    world.fault("f01", "bridge", "applied", between=["north", "south"])
    world.wait(2.0)
    world.fault("f01", "bridge", "healed", between=["north", "south"])
    world.operate("put", "k", "after")
    (outage,) = reroute_figures(sited(world))["outages"]
    assert outage["where"] == "north - south" and outage["rerouted"] == 0
    assert 2000 < outage["decision_gap_ms"] < 2100 and 2000 < outage["answer_gap_ms"] < 2100


def test_the_reports_show_them(tmp_path: Path) -> None:
    run = save(sited(north_dies(5.0, "b1")), tmp_path)
    page = write_report(run).read_text(encoding="utf-8")
    assert "Sites and routes" in page and "402" in page
    text = render(run, "md")
    assert (
        "| board | at_s | from | to | gap_ms | fault | heard_ms |" in text and "| north | south | 400 | f01 |" in text
    )
    assert json.loads(render(run, "json"))["metrics"]["reroutes"]["gap_ms"]["count"] == 1


# The simulated network.


def arrivals(*steps: tuple[str, tuple[str, ...]], via: tuple[str, ...] = ("north", "middle", "south")) -> list[float]:
    """When one message a second arrives, in ms since it was sent; -1: not. steps: what is done before each."""
    engine = Engine()
    spec = SimSpec(latency="constant", latency_ms=(1.0, 1.0))
    network = Network(engine, spec, ["b1", "b2"], 1, None, THREE)
    took: list[float] = []
    for second, (what, where) in enumerate(steps):
        if what:
            getattr(network, what)(*where)
        sent_ns = second * 1_000_000_000
        came: list[int] = []
        network.send("b1", "b2", b"x", lambda _data, came=came: came.append(engine.now_ns), sent_ns, via=via)
        engine.run(sent_ns + 999_999_999)
        took.append((came[0] - sent_ns) / 1e6 if came else -1)
    return took


def test_a_message_takes_a_hop_to_each_broker_and_what_the_bridges_take() -> None:
    assert arrivals(("", ())) == [pytest.approx(4 + 40)], "four hops of 1 ms, and bridges of 10 and 30"
    assert arrivals(("", ()), via=("south",)) == [pytest.approx(2)]


def test_a_dead_broker_or_a_cut_bridge_lets_nothing_through_and_only_on_its_way() -> None:
    assert arrivals(("kill", ("middle",)), ("start", ("middle",)))[0] == -1
    assert arrivals(("kill", ("middle",)), ("start", ("middle",)))[1] == pytest.approx(44)
    assert arrivals(("kill", ("middle",)), via=("north",)) == [pytest.approx(2)]
    bridge = (("south", "middle"),)
    assert [took > 0 for took in arrivals(("cut", bridge), ("", ()), ("join", bridge))] == [False, False, True]
    assert arrivals(("cut", bridge), via=("north", "middle"))[0] > 0
