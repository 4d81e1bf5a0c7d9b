"""The flash of a virtual board as the host sees it: images made by MicroPython's own LittleFS, and the control page."""

from __future__ import annotations

from pathlib import Path

import pytest
from brownout_virtual.flash_image import (
    BLOCK_BYTES,
    ControlPage,
    Geometry,
    control_path,
    create,
    prepare,
    read_files,
    wipe_journal,
)
from brownout_virtual.process import LabError

SMALL = Geometry(filesystem_blocks=32, journal_blocks=8)


def test_files_come_back_as_they_went_in(tmp_path: Path) -> None:
    image = tmp_path / "b1.bin"
    files = {"main.py": b"print('hello')\n", "lib/deep/er/data.bin": bytes(range(256)) * 40, "empty": b""}
    create(image, SMALL, files)
    assert image.stat().st_size == SMALL.size_bytes == 40 * BLOCK_BYTES
    assert read_files(image, SMALL) == files
    assert list(tmp_path.iterdir()) == [image]


def test_a_fresh_journal_region_is_erased(tmp_path: Path) -> None:
    image = tmp_path / "b1.bin"
    create(image, SMALL)
    assert image.read_bytes()[32 * BLOCK_BYTES :] == b"\xff" * (8 * BLOCK_BYTES)
    assert read_files(image, SMALL) == {}


def test_more_files_than_fit_are_refused_and_nothing_is_replaced(tmp_path: Path) -> None:
    image = tmp_path / "b1.bin"
    create(image, SMALL, {"main.py": b"1"})
    with pytest.raises(LabError, match="cannot make its file system: the files do not fit"):
        create(image, SMALL, {"big": bytes(33 * BLOCK_BYTES)})
    assert read_files(image, SMALL) == {"main.py": b"1"}
    assert list(tmp_path.iterdir()) == [image]


def test_wiping_the_journal_leaves_the_file_system(tmp_path: Path) -> None:
    image = tmp_path / "b1.bin"
    create(image, SMALL, {"main.py": b"1"})
    content = bytearray(image.read_bytes())
    content[32 * BLOCK_BYTES :] = bytes(8 * BLOCK_BYTES)
    image.write_bytes(content)
    wipe_journal(image, SMALL)
    assert image.read_bytes()[32 * BLOCK_BYTES :] == b"\xff" * (8 * BLOCK_BYTES)
    assert read_files(image, SMALL) == {"main.py": b"1"}


def test_flash_is_kept_between_labs_unless_it_is_to_be_erased(tmp_path: Path) -> None:
    template, image = tmp_path / "empty", tmp_path / "b1.bin"
    create(template, SMALL)
    create(image, SMALL, {"main.py": b"1"})
    prepare(image, SMALL, template)
    assert read_files(image, SMALL) == {"main.py": b"1"}
    prepare(image, SMALL, template, erase=True)
    assert read_files(image, SMALL) == {}


def test_flash_of_another_size_is_refused(tmp_path: Path) -> None:
    template, image = tmp_path / "empty", tmp_path / "b1.bin"
    create(template, SMALL)
    image.write_bytes(b"\xff" * 100)
    with pytest.raises(LabError, match=r"b1.bin has 100 bytes, .* or with --erase"):
        prepare(image, SMALL, template)


@pytest.mark.parametrize("blocks", [(15, 32), (256, 7), (0, 0)])
def test_a_flash_too_small_to_work_is_refused(blocks: tuple[int, int]) -> None:
    with pytest.raises(LabError, match="at least 16 blocks"):
        Geometry(*blocks)


def test_a_cut_is_armed_by_operations_from_now(tmp_path: Path) -> None:
    page = ControlPage(tmp_path / "b1.bin")
    assert page.armed() is None
    counted = b"".join(number.to_bytes(4, "little") for number in (5, 1, 30, 2))
    path = control_path(tmp_path / "b1.bin")
    known = path.read_bytes()
    path.write_bytes(known[:8] + counted + known[24:])
    assert page.counters() == {
        "programs": 35,
        "erases": 3,
        "filesystem": {"programs": 5, "erases": 1},
        "journal": {"programs": 30, "erases": 2},
        "refused": 0,
    }
    page.arm(4, 100)
    assert page.armed() == {"operation": 4, "byte": 100}
    assert path.read_bytes()[:8] == (42).to_bytes(4, "little") + (100).to_bytes(4, "little")
    page.arm(0, 7)
    assert page.armed() is None
    page.close()


def test_counters_survive_the_lab(tmp_path: Path) -> None:
    image = tmp_path / "b1.bin"
    ControlPage(image).close()
    control_path(image).write_bytes(bytes(8) + b"\x07\0\0\0" * 4)
    page = ControlPage(image)
    assert page.counters()["programs"] == 14
    page.close()
