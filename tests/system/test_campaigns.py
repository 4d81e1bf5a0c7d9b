"""Every shipped campaign on sound firmware, one seed each: `valid`. And the same seed gives the same plan, anywhere.

`IN_THE_SIMULATOR` are those that bring no fault and no part of a board that another campaign here does not bring too;
`make campaigns` runs these on virtual boards as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from brownout import campaign, campaign_file, faults, resources, rig, store
from brownout.sim.runs import simulate

SHIPPED = resources.shipped(resources.campaigns_directory())
IN_THE_SIMULATOR = {
    "byzantine-coalition",
    "commit-non-blocking",
    "fail-over",
    "flapping-power",
    "lifeguard",
    "mirror",
    "proposer-kill",
    "sampling",
    "stake",
    "wiped-voter",
    "work",
}
SEED = 1
PLANS = """
import sys
from brownout import campaign_file, faults, rig, store
from pathlib import Path
for name in sys.argv[2:]:
    plan = faults.plan(campaign_file.load_campaign(name), rig.load_rig("virtual"), 7)
    folder = Path(sys.argv[1]) / name
    folder.mkdir(parents=True)
    store.RunFolder(folder).write_plan(plan.to_document())
"""


@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(set(SHIPPED) - IN_THE_SIMULATOR))
def test_a_shipped_campaign_ends_valid(name: str, tmp_path: Path) -> None:
    result = campaign.run(campaign_file.load_campaign(name), rig.load_rig("virtual"), SEED, tmp_path)
    wrong = [check for check in result.document["checks"] if check["verdict"] != "valid"]
    assert result.verdict == "valid", "\n".join(
        f"{check['name']} {check['verdict']}: {check['detail']} {check['evidence'][:3]}" for check in wrong
    )
    assert (result.folder / "report.html").stat().st_size > 0
    manifest = store.read_document(result.folder, "manifest.json")
    flashed = manifest["firmware_flashed"]["files"]
    assert flashed
    for board in manifest["boards"]:
        assert "micropython" in board["implementation"].lower(), board
        assert {path: board["files"].get(path) for path in flashed} == flashed, board["name"]


@pytest.mark.parametrize("name", sorted(IN_THE_SIMULATOR))
def test_a_shipped_campaign_ends_valid_in_the_simulator(name: str) -> None:
    sim = rig.load_rig("sim")
    document = simulate(faults.plan(campaign_file.load_campaign(name), sim, SEED), sim).document
    assert document["verdict"] == "valid", [check for check in document["checks"] if check["verdict"] != "valid"]


def test_the_same_seed_gives_the_same_plan_in_every_process(tmp_path: Path) -> None:
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-c", PLANS, str(tmp_path / hash_seed), *SHIPPED]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}, timeout=120)
    for name in SHIPPED:
        one, other = (tmp_path / hash_seed / name / "plan.json" for hash_seed in ("1", "2"))
        assert one.read_bytes() == other.read_bytes(), name
