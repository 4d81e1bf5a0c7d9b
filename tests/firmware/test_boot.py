"""Starting a board in the real MicroPython: safe mode after three failed starts, and the prompt within reach."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from board import Board, config, install, make_genesis
from brownout_node.core import schema
from mqtt_bed import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "b1"
    install(place, config())
    make_genesis(place)
    return place


@pytest.fixture
def power(micropython: str) -> Iterator[Callable[[Path], Board]]:
    boards: list[Board] = []

    def on(place: Path) -> Board:
        boards.append(Board(micropython, place))
        return boards[-1]

    yield on
    for board in boards:
        board.kill()


def start(micropython: str, place: Path) -> tuple[int, str]:
    """One start that is expected to end by itself: exit code and what it printed."""
    done = subprocess.run(
        [micropython, "-X", "heapsize=224k", "main.py"],
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )
    return done.returncode, (done.stdout + done.stderr).decode("latin-1")


def spoil_config(place: Path, **changes: Any) -> None:
    (place / "config.json").write_text(json.dumps(config(**changes)))


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a wrong configuration": (lambda place: spoil_config(place, tick_ms=0), "ConfigError: tick_ms: 0"),
    "no configuration": (lambda place: (place / "config.json").unlink(), "OSError: [Errno 2] ENOENT"),
    "a configuration cut short": (
        lambda place: (place / "config.json").write_text('{"cluster":'),
        "ValueError: syntax error in JSON",
    ),
    "a missing module": (
        lambda place: (place / "brownout_node/telemetry.mpy").unlink(),
        "ImportError: no module named",
    ),
    "half a module": (
        lambda place: (place / "brownout_node/shell.mpy").write_bytes(b"M\x06"),
        "",  # whatever the interpreter says
    ),
    "a protocol that fails": (lambda place: spoil_config(place, protocols=["tiny", "nothing"]), "ImportError"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_three_failed_starts_lead_to_safe_mode_and_the_prompt(name, micropython, folder, power):
    spoil, message = SPOILT[name]
    spoil(folder)
    for attempt in range(1, 4):
        code, printed = start(micropython, folder)
        assert code == 1
        assert message in printed
        assert len((folder / "failed_starts.txt").read_text().split("\n")) == attempt
    board = power(folder)
    board.wait_for_text(b"brownout: safe mode: ")
    event = board.event("safe_mode")
    assert event[:2] == [0, 1]
    assert event[5].startswith(message[:20])
    board.wait_for_text(b">>> ")
    board.type(b"6 * 7\r")
    board.wait_for_text(b"42")


def test_safe_mode_tries_once_more_after_the_next_reset(micropython, folder, power):
    spoil_config(folder, tick_ms=0)
    for _ in range(3):
        start(micropython, folder)
    assert "safe mode" in start(micropython, folder)[1]
    assert "ConfigError" in start(micropython, folder)[1]
    assert "safe mode" in start(micropython, folder)[1]
    spoil_config(folder)  # what the flasher does
    board = power(folder)
    assert board.event("boot")[0] == 1
    wait_until(lambda: not (folder / "failed_starts.txt").exists(), "a healthy start forgets the failures", 15.0)


def test_a_start_that_works_writes_nothing(folder, power):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "journal.bin"}
    power(folder).event("metrics")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "journal.bin"} == before


def test_a_board_without_genesis_starts_as_a_learner(folder, power):
    (folder / "journal.bin").unlink()
    event = power(folder).event("boot")
    assert event[0] >= 0x10000000
    assert event[9] == schema.JOURNAL_MISSING


def test_ctrl_c_leads_to_a_raw_prompt_that_a_flasher_can_use(folder, power):
    board = power(folder)
    board.event("boot")
    board.type(b"\r\x03\x03")
    board.wait_for_text(b"this is the prompt")
    board.wait_for_text(b">>> ")
    board.type(b"\x01")
    board.wait_for_text(b"raw REPL; CTRL-B to exit")
    board.type(b"with open('new.txt', 'w') as file:\n    file.write('flashed')\nprint('done', 6 * 7)\x04")
    board.wait_for_text(b"done 42")
    assert (folder / "new.txt").read_text() == "flashed"
    board.type(b"import asyncio\nasync def nap():\n    await asyncio.sleep(0.01)\n    print('rested')\n")
    board.type(b"asyncio.run(nap())\x04")
    board.wait_for_text(b"OKrested")


@pytest.mark.parametrize("compiled", [False, True], ids=["sources", "compiled"])
def test_sources_and_compiled_files_both_start(compiled, tmp_path, power):
    place = tmp_path / "other"
    install(place, config(), compiled=compiled)
    make_genesis(place)
    board = power(place)
    assert board.event("boot")[0] == 1
    board.command(1, schema.PUT, "k", "v")
    assert board.reply()[2] == schema.OK


def test_boot_is_quiet(micropython, folder):
    done = subprocess.run([micropython, "boot.py"], cwd=folder, capture_output=True, timeout=30, check=True)
    assert done.stdout + done.stderr == b""
