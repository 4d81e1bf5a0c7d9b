"""What the documentation says holds: examples run, campaigns parse, links lead somewhere, lists are whole.

Fenced blocks are examples: ```toml is a campaign file, ```python runs; ```python file=PATH is a file of firmware
for the blocks after it in the same page. Everything else (```text) is shown only.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from brownout import fault_kinds
from brownout.campaign_file import read_campaign
from brownout.rig import read_rig

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```([a-z]+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
INTERPRETERS = ("python", "micropython")
# Written in pieces, so that this file does not hold what it looks for.
UNWANTED = re.compile(
    "|".join(("pypi" + r"\.org/simple", "index" + "-url", re.escape(f"{ROOT}/"), re.escape(f"{Path.home()}/")))
)
TEXT = {".cfg", ".html", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yml", ""}
NOT_OURS = {".git", ".venv", "runs", "build", "dist", "__pycache__"}
RUN_WITHIN_S = 60


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(file or "", text) of each block of that language."""
    return [(file, text) for found, file, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def tracked_text_files() -> list[Path]:
    """The tree's own text files, wherever git is and is not."""
    found = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        hidden = any(part in NOT_OURS or (part.startswith(".") and part not in (".ci", ".gitignore")) for part in parts)
        if not hidden and path.is_file() and path.suffix in TEXT:
            found.append(path)
    return found


PYTHON_PAGES = [page for page in PAGES if blocks(page, "python")]
TOML_PAGES = [page for page in PAGES if blocks(page, "toml")]


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name_of)
def test_python_examples_run(page: Path, interpreter: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "firmware" / "brownout_node", tmp_path / "brownout_node")
    program = sys.executable if interpreter == "python" else str(Path(sys.executable).parent / "micropython")
    for file, text in blocks(page, "python"):
        path = tmp_path / (file or "example.py")
        path.write_text(text, encoding="utf-8")
        if file:
            continue
        result = subprocess.run(
            [program, path.name], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=RUN_WITHIN_S
        )
        assert result.returncode == 0, f"{name_of(page)} under {interpreter}:\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("page", TOML_PAGES, ids=name_of)
def test_campaigns_and_rigs_in_pages_parse(page: Path, tmp_path: Path) -> None:
    for file, text in blocks(page, "toml"):
        if file:
            continue  # it names files beside it: test_tutorial.py runs it with them
        path = tmp_path / "campaign.toml"
        path.write_text(text, encoding="utf-8")
        if text.startswith("[rig]"):
            assert read_rig(path).bench is not None
        else:
            assert read_campaign(path).faults


def test_there_are_examples_to_run() -> None:
    assert PYTHON_PAGES and TOML_PAGES


def test_every_shipped_campaign_is_listed() -> None:
    page = (ROOT / "docs" / "campaigns.md").read_text(encoding="utf-8")
    for path in (ROOT / "testbed" / "campaigns").glob("*.toml"):
        assert f"| `{path.stem}` |" in page, f"docs/campaigns.md does not list {path.stem}"


def test_every_kind_of_fault_is_explained() -> None:
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    for kind in fault_kinds.KINDS:
        assert f"| `{kind}` |" in page, f"docs/faults.md does not explain {kind}"


def test_every_check_is_explained() -> None:
    page = (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8")
    for path in (ROOT / "host" / "brownout" / "checkers").glob("*.py"):
        for name in re.findall(r'Findings\("([a-z]+)"\)', path.read_text(encoding="utf-8")):
            assert f"| `{name}` |" in page, f"docs/verdicts.md does not explain the check {name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("#"):
            continue
        path = page.parent / target.split("#")[0]
        assert path.exists(), f"{name_of(page)} links to {target}, which is not there"


def test_no_address_or_path_of_one_machine_is_in_the_tree() -> None:
    for path in tracked_text_files():
        found = UNWANTED.search(path.read_text(encoding="utf-8", errors="replace"))
        assert found is None, f"{path.relative_to(ROOT)} holds {found.group(0)!r}"
