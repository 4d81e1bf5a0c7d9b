"""Rung sim, whole: every shipped campaign, the same course in any process, faults that meet what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from brownout import campaign, resources
from brownout.campaign_file import load_campaign, parse_campaign
from brownout.contracts import UsageError
from brownout.document import Table
from brownout.faults import plan
from brownout.history import FaultStage
from brownout.rig import load_rig
from brownout.session import Session
from brownout.sim.bed import SimBed
from brownout.sim.network import Weather
from brownout.sim.runs import MemoryRecord, Simulated, simulate
from brownout.store import load

CAMPAIGNS = resources.shipped(resources.campaigns_directory())
RIG = load_rig("sim")
HASHES = """
import json, sys
from brownout.campaign_file import load_campaign
from brownout.faults import plan
from brownout.rig import load_rig
from brownout.sim.runs import simulate
rig = load_rig("sim")
print(json.dumps({name: simulate(plan(load_campaign(name), rig, 3), rig).trace_hash for name in sys.argv[1:]}))
"""


def run(name: str, seed: int = 1, **settings: Weather) -> Simulated:
    return simulate(plan(load_campaign(name), RIG, seed), RIG, **settings)


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_every_shipped_campaign_runs_unchanged_and_is_valid(name: str) -> None:
    simulated = run(name, seed=2)
    wrong = [check for check in simulated.document["checks"] if check["verdict"] != "valid"]
    assert simulated.verdict == "valid", wrong
    assert simulated.document["trace_hash"] == simulated.trace_hash
    assert simulated.document["rung"] == "sim"
    stages = {record.stage for record in simulated.history.faults}
    assert FaultStage.UNPROVEN not in stages
    assert stages >= {FaultStage.PLANNED, FaultStage.APPLIED, FaultStage.PROVEN, FaultStage.HEALED}


def test_the_same_seed_is_the_same_run_under_any_hash_seed() -> None:
    names = ["demo", "torn-write", "mixed-serial"]
    found = []
    for hash_seed in ("0", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", HASHES, *names]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    assert found[0] == {name: run(name, seed=3).trace_hash for name in names}
    assert run("demo", seed=4).trace_hash != found[0]["demo"]


def test_a_run_in_memory_and_one_in_a_folder_are_the_same(tmp_path: Path) -> None:
    result = campaign.run(load_campaign("demo"), RIG, 1, tmp_path)
    simulated = run("demo")
    assert result.document["trace_hash"] == simulated.trace_hash
    assert (result.folder / "report.html").exists()
    loaded = load(result.folder)
    assert loaded.events == simulated.history.events
    assert loaded.operations == simulated.history.operations
    assert loaded.faults == simulated.history.faults
    assert campaign.heal(tmp_path) == []  # there is nothing to heal


def test_bad_weather_changes_the_course_and_breaks_nothing() -> None:
    weather = Weather(loss_percent=5, duplicate_percent=5, late_percent=5)
    simulated = run("split-brain", weather=weather)
    assert simulated.verdict == "valid", simulated.document["checks"]
    assert simulated.trace_hash != run("split-brain").trace_hash


def test_a_crash_of_the_firmware_is_recorded_and_its_board_starts_again() -> None:
    the_plan = plan(load_campaign("demo"), RIG, 1)
    assert RIG.simulated is not None
    bed = SimBed(RIG.simulated, the_plan, RIG)
    board = bed.world.boards["b2"]

    def break_it() -> None:
        assert board.node is not None
        board.node.protocols[0].on_tick = lambda: 1 // 0

    bed.engine.at(4_000_000_000, break_it)
    record = MemoryRecord(the_plan)
    Session(the_plan, RIG, record, bed).run()
    crashes = record.history().manifest["crashes"]
    assert [crash["board"] for crash in crashes] == ["b2"]
    assert crashes[0]["error"].startswith("ZeroDivisionError")
    assert board.exit == "switched off"  # as the run ended: it had been started again
    assert board.starts >= 2


def test_an_interrupted_run_is_healed_kept_and_unknown(tmp_path: Path) -> None:
    def interrupt(what: str, done: int, _total: int) -> None:
        if what.startswith("campaign") and done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaign.run(load_campaign("demo"), RIG, 1, tmp_path, progress=interrupt)
    (folder,) = tmp_path.iterdir()
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["verdict"] == "unknown"
    faults = load(folder).faults
    assert {fault.id for fault in faults if fault.stage is FaultStage.APPLIED} <= {
        fault.id for fault in faults if fault.stage is FaultStage.HEALED
    }


def test_only_a_simulated_rig_can_be_simulated() -> None:
    virtual = load_rig("virtual")
    with pytest.raises(UsageError, match=r"has no \[sim\]"):
        simulate(plan(load_campaign("demo"), virtual, 1), virtual)


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ("kind = 'trap'\nselect = ['b2']\nat_s = 1.0\npoint = 'after send'\ncount = 5\naction = 'halt'", "valid"),
        ("kind = 'broker_stall'\nat_s = 1.0\nfor_s = 1.0", "valid"),
        ("kind = 'bandwidth'\nat_s = 1.0\nfor_s = 2.0\nbytes_per_s = 4000", "valid"),
        ("kind = 'duplicate'\nat_s = 1.0\nfor_s = 2.0\nkinds = ['prevote']\ncopies = 3", "valid"),
        ("kind = 'hold'\nat_s = 1.0\nfor_s = 1.0\nkinds = ['precommit']\nfrom = ['b1']\nto = ['b2', 'b3']", "valid"),
        ("kind = 'delay'\nat_s = 1.0\nfor_s = 2.0\nms = 60", "valid"),
        ("kind = 'link_flap'\nat_s = 1.0\nfor_s = 2.0\nselect = 'minority'", "valid"),
    ],
)
def test_faults_that_no_shipped_campaign_has(tmp_path: Path, fault: str, verdict: str) -> None:
    path = tmp_path / "one.toml"
    path.write_text(f"[campaign]\nname = 'one'\nduration_s = 4.0\n[[fault]]\n{fault}\n")
    the_plan = plan(parse_campaign(Table.read(path)), RIG, 5)
    simulated = simulate(the_plan, RIG)
    assert simulated.verdict == verdict, simulated.document["checks"]
