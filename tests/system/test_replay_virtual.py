"""Virtual boards are recorded and replayed: a power cycle and all; and a bit that flips in one board's RAM is found.

The bit is flipped by a changed shell, which is no part of what is replayed: to the core it comes from nowhere.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from brownout import campaign
from brownout.campaign_file import load_campaign
from brownout.cli import main
from brownout.rig import load_rig

CAMPAIGN = """
[campaign]
name = "short"
duration_s = 4.0
voters = 3
serial_only = 1

[workload]
clients = 2
operations_per_s = 10.0

[[fault]]
kind = "cycle"
at_s = 1.0
for_s = 0.3
select = ["b1"]
"""
TICK = "            self._work(True)\n"
FLIP = """            if self.config.board == 2 and self.now() >= 3000 and not hasattr(self, "_flipped"):
                self._flipped = True
                self.node.protocol("gossip")._mix ^= 1 << 37
"""


@pytest.mark.system
@pytest.mark.timeout(120)
def test_a_bit_that_flips_on_a_board_is_found_and_the_others_are_faithful(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    firmware = tmp_path / "firmware"
    shutil.copytree(root / "firmware", firmware, ignore=shutil.ignore_patterns("__pycache__"))
    shell = firmware / "brownout_node" / "shell.py"
    text = shell.read_text(encoding="utf-8")
    assert text.count(TICK) == 1
    shell.write_text(text.replace(TICK, FLIP + TICK), encoding="utf-8")
    (tmp_path / "short.toml").write_text(CAMPAIGN, encoding="utf-8")
    plan = load_campaign(str(tmp_path / "short.toml"))
    run = campaign.run(plan, load_rig("virtual"), 1, tmp_path / "runs", firmware=firmware).folder
    assert main(["replay", str(run), "--own-firmware", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["replay"] == "differs" and document["first"].endswith(" of b2")
    for boot in document["boots"]:
        assert boot["why"] is None and boot["replayed"] == boot["steps"] > 20
    assert {boot["board"] for boot in document["boots"]} == {"b1", "b2", "b3"}
    assert [boot["boot"] for boot in document["boots"] if boot["board"] == "b1"] == [1, 2]
    assert {difference["board"] for difference in document["differences"]} == {"b2"}
    first = document["differences"][0]
    assert first["what"] in ("the state of gossip", "what was stored and sent") or first["what"].startswith("event ")
    assert 3000 <= first["now_ms"] < 3000 + 1600 + 400
    assert first["since"] < first["step"]
    assert isinstance(first["state"]["gossip"]["_mix"], int)
