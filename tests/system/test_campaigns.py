"""Every shipped campaign on sound firmware, one seed each: `valid`. And the same seed gives the same plan, anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from brownout import campaign, campaign_file, resources, rig, store

SHIPPED = resources.shipped(resources.campaigns_directory())
SEED = 1
PLAN = """
import sys
from brownout import campaign_file, faults, rig, store
from pathlib import Path
plan = faults.plan(campaign_file.load_campaign(sys.argv[1]), rig.load_rig("virtual"), int(sys.argv[2]))
store.RunFolder(Path(sys.argv[3])).write_plan(plan.to_document())
"""


@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SHIPPED)
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


@pytest.mark.parametrize("name", SHIPPED)
def test_the_same_seed_gives_the_same_plan_in_every_process(name: str, tmp_path: Path) -> None:
    plans = []
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        folder.mkdir()
        command = [sys.executable, "-c", PLAN, name, "7", str(folder)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}, timeout=60)
        plans.append((folder / "plan.json").read_bytes())
    assert plans[0] == plans[1]
