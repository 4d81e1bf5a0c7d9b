"""The tutorial's files, as they stand in the page: under 80 lines, valid, and found out once they are broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from brownout.campaign_file import read_campaign
from brownout.checkers import checks_of
from brownout.faults import plan
from brownout.rig import load_rig
from brownout.sim.runs import simulate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
FILES = dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S))
RIG = load_rig("sim")
PERSIST = "            self.node.persist(_JOURNAL, codec.pack(_COUNTS, (self._rows(),)))\n"


def verdicts(folder: Path, seed: int) -> dict[str, str]:
    """Check -> verdict of one run of the tutorial's files."""
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    run = simulate(plan(read_campaign(folder / "bell.toml"), RIG, seed), RIG)
    return {check["name"]: check["verdict"] for check in run.document["checks"]}


def test_it_is_under_eighty_lines() -> None:
    assert sorted(FILES) == ["bell.py", "bell.toml", "check_bell.py"]
    written = [line for text in FILES.values() for line in text.splitlines() if line.strip()]
    assert len(written) < 80


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_the_page_says_works(tmp_path: Path, seed: int) -> None:
    found = verdicts(tmp_path, seed)
    assert len(found) == len(checks_of(["membership", "bell"])) + 1
    assert set(found.values()) == {"valid"}, found


def test_what_the_page_breaks_is_found(tmp_path: Path) -> None:
    assert FILES["bell.py"].count(PERSIST) == 1
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.replace(PERSIST, ""), encoding="utf-8")
    command = [
        sys.executable,
        "-c",
        "import sys; from brownout.cli import main; sys.exit(main())",
        "run",
        str(tmp_path / "bell.toml"),
        "--rig",
        "sim",
        "--seed",
        "1",
    ]
    done = subprocess.run(
        [*command, "--json", "--out", str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1, done.stderr
    found = {check["name"]: check["verdict"] for check in json.loads(done.stdout)["checks"]}
    assert found.pop("bell") == "invalid"
    assert set(found.values()) == {"valid"}, found
