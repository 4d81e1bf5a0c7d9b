"""The pytest plugin in a project of its own, which knows brownout by nothing but its entry point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

CAMPAIGN = """
[campaign]
name = "small"
duration_s = 3.0
"""
TESTS = """
from pathlib import Path

SMALL = Path(__file__).parent / "small.toml"


def test_stays_valid(campaign, boards):
    result = campaign(SMALL, seed=3)
    assert result.verdict == "valid"
    assert (result.folder / "report.html").exists()
    taken = {row[1] for row in __import__("json").loads((result.folder / "manifest.json").read_text())["roster"]}
    assert taken and taken <= set(boards)


def test_expects_too_much(campaign, rig):
    assert rig.rung == "sim"
    assert campaign(SMALL).verdict == "invalid"


def test_fails_by_itself():
    assert False
"""


@pytest.fixture
def project(tmp_path: Path, root: Path) -> Path:
    """A folder with tests, and beside it the entry point as an installation would leave it."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "small.toml").write_text(CAMPAIGN)
    (folder / "test_it.py").write_text(TESTS)
    points = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = tmp_path / "site" / "brownout_plugin-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: brownout-plugin\nVersion: 0\n")
    lines = "".join(f"{name} = {module}\n" for name, module in points.items())
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{lines}")
    return folder


def run_pytest(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment = {**kept, "PYTHONPATH": str(project.parent / "site")}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)


def test_campaigns_are_tests_and_failures_name_their_report(project: Path) -> None:
    done = run_pytest(project, "--rig", "sim", "--junit-xml", "junit.xml", "--runs", "kept")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 1 passed" in done.stdout
    (told,) = re.findall(r"^report: (.*)$", done.stdout, re.MULTILINE)  # of the campaign that failed, and no other
    assert (project / told).read_text().lower().startswith("<!doctype html>")
    assert re.search(r"brownout: \S+-small-1 is valid", done.stdout)
    properties = {
        case.get("name"): [entry.get("value") for entry in case.iter("property")]
        for case in ElementTree.parse(project / "junit.xml").iter("testcase")
    }
    assert properties == {"test_stays_valid": [], "test_expects_too_much": [told], "test_fails_by_itself": []}


def test_an_unknown_rig_is_said(project: Path) -> None:
    done = run_pytest(project, "--rig", "nowhere", "-k", "stays_valid")
    assert done.returncode == 1
    assert "--rig: " in done.stdout and "nowhere" in done.stdout
