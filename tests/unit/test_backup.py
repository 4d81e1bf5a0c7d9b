"""Backups on disk: whole or refused, whatever was damaged; and boards that contradict each other are not saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from brownout import backup
from brownout.contracts import UsageError
from brownout.saved_state import SavedState
from brownout_node.core import codec
from brownout_node.core.register import PAGE

FACTS = {
    "made_utc": "2026-11-23T21:00:00Z",
    "rig": "lab",
    "bed": "bed",
    "cluster": 3,
    "roster": [[1, "b1", 1], [2, "b2", 1], [3, "b3", 1]],
    "protocols": ["membership", "gossip", "vote"],
    "missing": {"b3": "no answer"},
}


def state(height: int, **registers: str) -> SavedState:
    rows = sorted(registers.items())
    pages = [codec.pack(PAGE, (0, rows[at : at + 2], [])) for at in range(0, len(rows), 2)]
    return SavedState(height, tuple(pages))


def saved(folder: Path) -> Path:
    states = {"b1": state(9, k="v", l="w", m="x"), "b2": state(8, k="v", l="w")}
    backup.write(folder, backup.make(FACTS, states, {"b1": {"main.py": "00" * 8}}))
    return folder


def test_a_backup_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = backup.read(saved(tmp_path / "b"))
    assert found.cluster == 3
    assert found.newest[0] == "b1"
    assert found.newest[1].registers == {"k": "v", "l": "w", "m": "x"}
    assert found.agreed_height == 8
    assert found.manifest["boards"]["b1"]["firmware"] == {"main.py": "00" * 8}
    assert found.manifest["boards"]["b2"]["height"] == 8


@pytest.mark.parametrize("at", [0, 3, -1])
def test_a_damaged_state_is_refused(tmp_path: Path, at: int) -> None:
    file = saved(tmp_path / "b") / "b1.state"
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"b1\.state is damaged"):
        backup.read(tmp_path / "b")


def test_a_state_cut_short_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "b") / "b2.state"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UsageError, match="damaged"):
        backup.read(tmp_path / "b")
    file.unlink()
    with pytest.raises(UsageError, match="incomplete"):
        backup.read(tmp_path / "b")


def test_a_manifest_that_was_changed_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "b") / backup.MANIFEST
    document = json.loads(file.read_text())
    document["boards"]["b1"]["height"] = 10
    file.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="its sha256 is another one"):
        backup.read(tmp_path / "b")
    file.write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        backup.read(tmp_path / "b")
    file.unlink()
    with pytest.raises(UsageError, match="no backup"):
        backup.read(tmp_path / "b")


def test_a_backup_goes_into_no_folder_that_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        saved(tmp_path)


def test_boards_that_have_diverged_are_not_saved() -> None:
    with pytest.raises(UsageError, match="b1 and b2 hold different states at height 9"):
        backup.make(FACTS, {"b1": state(9, k="v"), "b2": state(9, k="w")}, {})
