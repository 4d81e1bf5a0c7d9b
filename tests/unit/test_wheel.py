"""The wheel holds every file of the host, the firmware and the testbed that the repository holds."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
IN_WHEEL = {
    "host/brownout/": "brownout/",
    "firmware/brownout_node/": "brownout_node/",
    "firmware/": "brownout/_firmware/",
    "testbed/brownout_virtual/": "brownout_virtual/",
    "testbed/": "brownout/_testbed/",
}


def sources() -> list[Path]:
    """What lies in the three folders, as far as it is not made by running it."""
    return [
        path.relative_to(ROOT)
        for folder in ("host", "firmware", "testbed")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.name != ".gitkeep"
    ]


def place_in_wheel(source: Path) -> str:
    text = source.as_posix()
    folder = next(prefix for prefix in IN_WHEEL if text.startswith(prefix))
    return IN_WHEEL[folder] + text.removeprefix(folder)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_nothing_of_the_tree_is_missing_from_the_wheel(contents):
    missing = [str(source) for source in sources() if place_in_wheel(source) not in contents]
    assert missing == []


def test_the_wheel_holds_the_files_as_they_lie_in_the_tree(contents):
    assert all(contents[place_in_wheel(source)] == (ROOT / source).read_bytes() for source in sources())


def test_the_wheel_brings_its_licence_and_its_command(contents):
    assert any(name.endswith("licenses/LICENSE") for name in contents)
    (entry_points,) = [text for name, text in contents.items() if name.endswith("entry_points.txt")]
    assert b"brownout = brownout.cli:main" in entry_points
