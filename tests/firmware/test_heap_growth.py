"""The heap of boards in small: what code takes of it, and that it levels off; what grows would show."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path
from statistics import median

import pytest
from brownout.bench.workbench import ON_BOARD
from brownout.firmware_build import build
from brownout.rig import load_model

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
COUNT, EVERY = 6000, 250
MOST_CODE = 99_000  # bytes: what a board holds besides after boot is 60 KiB with seven voters, and 160 KiB is the bound
IMPORTS = """
import gc, sys
sys.path.insert(0, sys.argv[1])
import brownout_node.shell
for name in sys.argv[2:]:
    __import__("brownout_node.core." + name)
gc.collect()
print(gc.mem_alloc())
"""
LARGEST = [("adversary", "byzantine"), ("lifeguard", "gossip", "vote")]


@pytest.mark.parametrize("protocols", LARGEST, ids="-".join)
def test_the_code_of_the_largest_sets_leaves_room(protocols: tuple[str, ...], micropython: str, tmp_path: Path) -> None:
    for file in build(load_model("virtual"), protocols=protocols).files:
        target = tmp_path / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.data)
    (tmp_path / "imports.py").write_text(IMPORTS, encoding="utf-8")
    command = [micropython, "-X", "heapsize=900k", str(tmp_path / "imports.py"), str(tmp_path), *protocols]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert 60_000 < int(done.stdout) < MOST_CODE


def heap_of(micropython: str, name: str, folder: Path, firmware: Path = FIRMWARE) -> list[int]:
    script = str(ON_BOARD / "suite_messages.py")
    command = [micropython, "-X", "heapsize=4m", script, str(firmware), str(COUNT), str(EVERY), name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    heap, _commands, kinds, _took_ms = ast.literal_eval(done.stdout.splitlines()[-1])
    assert sum(count for _kind, count in kinds) >= COUNT
    return list(heap)


def growth(heap: list[int]) -> float:
    third = len(heap) // 3
    return median(heap[2 * third :]) / median(heap[third : 2 * third])


@pytest.mark.parametrize("name", ["mirror", "sampling"])
def test_the_heap_levels_off(name: str, micropython: str, tmp_path: Path) -> None:
    assert growth(heap_of(micropython, name, tmp_path)) < 1.02


def test_what_is_never_forgotten_would_show(micropython: str, tmp_path: Path) -> None:
    firmware = tmp_path / "firmware"
    shutil.copytree(FIRMWARE, firmware, ignore=shutil.ignore_patterns("__pycache__"))
    mirror = firmware / "brownout_node" / "core" / "mirror.py"
    text = mirror.read_text(encoding="utf-8")
    kept = "if other[0] != client][1 - _CLIENTS :]"
    assert kept in text
    mirror.write_text(text.replace(kept, "]"), encoding="utf-8")
    assert growth(heap_of(micropython, "mirror", tmp_path, firmware)) > 1.2
