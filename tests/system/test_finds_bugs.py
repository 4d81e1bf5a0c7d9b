"""The testbed finds bugs: firmware with one of five, and a shipped campaign that ends `invalid` within three runs.

The counter-example has to come from a check that such a bug breaks, and to name the boards and their steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from brownout import campaign, campaign_file, rig
from bugs import BUGS, Bug, patched_firmware

SEEDS = (1, 2, 3)
BOARDS = {"b1", "b2", "b3", "b4", "b5"}


def counter_examples(document: dict[str, Any], bug: Bug) -> list[dict[str, Any]]:
    """The checks that found that bug."""
    return [check for check in document["checks"] if check["name"] in bug.checks and check["verdict"] == "invalid"]


@pytest.mark.system
@pytest.mark.timeout(400)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_campaign_finds_the_bug_within_three_runs(bug: Bug, tmp_path: Path, root: Path) -> None:
    firmware = patched_firmware(bug, root / "firmware", tmp_path / "firmware")
    plan = campaign_file.load_campaign(bug.campaign)
    found: list[dict[str, Any]] = []
    verdicts = []
    for seed in SEEDS:
        result = campaign.run(plan, rig.load_rig("virtual"), seed, tmp_path / "runs", firmware=firmware)
        verdicts.append(result.verdict)
        found = counter_examples(result.document, bug)
        if found:
            break
    assert found, f"{bug.campaign} ended {verdicts} with firmware that {bug.name}"
    assert verdicts[-1] == "invalid"
    for check in found:
        named = [step for step in check["evidence"] if step.get("board") in BOARDS]
        assert named, f"{check['name']} names no board: {check['evidence']}"
        assert any("step" in step for step in named), f"{check['name']} names no step: {named}"
        assert any(board in check["detail"] for board in BOARDS), check["detail"]
