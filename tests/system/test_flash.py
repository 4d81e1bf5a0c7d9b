"""Flashing real virtual boards through their serial ports: what is written, skipped, verified and refused."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from brownout.board_prompt import BoardPrompt
from brownout.contracts import RigError
from brownout.drivers.virtual_lab import LabOptions, VirtualLab
from brownout.firmware_build import Firmware, FirmwareFile, build
from brownout.flash import FlashResult, FlashTarget, config_file, flash, raise_failures
from brownout.gateway import LocalGateway
from brownout.labctl import LabControl
from brownout.rig import load_model
from brownout_node.core import schema
from mqtt_bed import wait_until

pytestmark = pytest.mark.system

BOARDS = ("b1", "b2", "b3")
MODEL = load_model("virtual")
# Boards do without the names of numbers: see firmware_slim.
JOURNAL = f"""
from brownout_node import ports
from brownout_node.core import codec
from brownout_node.storage.journal import Journal
journal = Journal(ports.load().flash_region())
journal.open()
genesis = journal.get({schema.JOURNAL_GENESIS})
print(journal.condition, genesis and codec.unpack("uu", genesis))
"""


@pytest.fixture(scope="module")
def firmware() -> Firmware:
    return build(MODEL)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[VirtualLab]:
    started = VirtualLab.start(tmp_path, LabOptions(BOARDS, local_gateway=True))
    yield started
    started.close()


def target(lab: VirtualLab, firmware: Firmware, board: str = "b1", **more: Any) -> FlashTarget:
    config = {
        "cluster": 7,
        "board": BOARDS.index(board) + 1,
        "bed": "bed",
        "seed": 1,
        "roster": [[number, name, 1] for number, name in enumerate(BOARDS, 1)],
        "mqtt": {"host": "127.0.0.1", "port": lab.broker_address(board)[1]},
        **more,
    }
    return FlashTarget(board, lab.serial_port(board), MODEL, firmware, config)


def ask(lab: VirtualLab, program: str, board: str = "b1") -> str:
    with BoardPrompt(board, lab.serial_port(board)) as prompt:
        return str(prompt.exec(program).decode().strip())


def flash_one(wanted: FlashTarget, **options: Any) -> FlashResult:
    (result,) = flash([wanted], **options)
    assert result.error is None, result.error
    return result


def test_a_first_flash_writes_everything_and_the_board_runs_it(lab: VirtualLab, firmware: Firmware) -> None:
    said: list[tuple[str, int, int]] = []
    results = flash([target(lab, firmware, board) for board in BOARDS], progress=lambda *words: said.append(words))
    raise_failures(results)
    assert [result.board for result in results] == list(BOARDS)
    assert all(len(result.written) == len(firmware.files) + 1 and result.genesis for result in results)
    assert said[0] == ("flashing", 0, 3)
    assert said[-1] == ("flashing", 3, 3)
    control = LabControl(LocalGateway(), lab.document["labctl"])

    def connected() -> bool:
        boards = control.ask("status")["state"]["boards"]
        return all(boards[board]["connected"] for board in BOARDS)

    wait_until(connected, "the firmware runs and has found the broker", 20)
    assert ask(lab, JOURNAL) == "0 (7, 1)"


def test_a_second_flash_sends_nothing_and_interrupts_running_firmware(lab: VirtualLab, firmware: Firmware) -> None:
    control = LabControl(LocalGateway(), lab.document["labctl"])
    flash_one(target(lab, firmware))
    for _ in range(3):
        wait_until(lambda: control.ask("status")["state"]["boards"]["b1"]["connected"], "the firmware runs", 20)
        again = flash_one(target(lab, firmware), rescue=lambda board: control.ask("reset", board))
        assert (again.written, again.removed, again.genesis) == ([], [], False)
        assert again.unchanged == len(firmware.files) + 1
        assert again.sent_bytes < 100


def test_only_what_differs_is_written_and_what_is_stale_is_removed(lab: VirtualLab, firmware: Firmware) -> None:
    flash_one(target(lab, firmware), reset=False)
    ask(
        lab,
        "with open('brownout_node/core/vote.mpy', 'r+b') as file: file.write(b'X')\n"
        "open('brownout_node/core/vote.py', 'w').close()\n"
        "open('failed_starts.txt', 'w').close()\n"
        "open('mine.txt', 'w').close()",
    )
    result = flash_one(target(lab, firmware, tick_ms=40), reset=False)
    assert result.written == ["brownout_node/core/vote.mpy", "config.json"]
    assert result.removed == ["brownout_node/core/vote.py", "failed_starts.txt"]
    assert not result.genesis
    assert "mine.txt" in ask(lab, "import os; print(os.listdir())")


def test_genesis_is_for_boards_that_have_promised_nothing(lab: VirtualLab, firmware: Firmware) -> None:
    assert flash_one(target(lab, firmware), reset=False).genesis
    assert not flash_one(target(lab, firmware, tick_ms=40), reset=False).genesis
    assert flash_one(target(lab, firmware, cluster=8), reset=False).genesis
    assert ask(lab, JOURNAL) == "0 (8, 1)"
    ask(
        lab,
        "from brownout_rom import flash\nfor block in range(flash.journal.ioctl(4, 0)): flash.journal.ioctl(6, block)",
    )
    assert not flash_one(target(lab, firmware, cluster=8), reset=False).genesis
    assert ask(lab, JOURNAL) == "1 None"  # a wiped board stays a learner until somebody asks otherwise
    assert flash_one(target(lab, firmware, cluster=8), reset=False, genesis="always").genesis
    assert ask(lab, JOURNAL) == "0 (8, 1)"
    assert not flash_one(target(lab, firmware, cluster=9), reset=False, genesis="never").genesis


def test_cables_that_cannot_make_a_sender_wait_get_small_blocks(lab: VirtualLab, firmware: Firmware) -> None:
    careful = dataclasses.replace(MODEL, block_bytes=96, window_bytes=200)
    some = Firmware(tuple(file for file in firmware.files if "storage" in file.path), firmware.compiler)
    wanted = dataclasses.replace(target(lab, some), model=careful)
    result = flash_one(wanted, reset=False, genesis="never")
    assert len(result.written) == len(some.files) + 1
    assert flash_one(wanted, reset=False, genesis="never").unchanged == len(some.files) + 1


def test_files_of_any_size_arrive(lab: VirtualLab) -> None:
    files = [
        FirmwareFile(f"brownout_node/f{size}.bin", data, sha256(data).hexdigest())
        for size, data in ((size, bytes(at * 7 & 255 for at in range(size))) for size in (0, 1, 2, 3, 3071, 3072, 3073))
    ]
    result = flash_one(target(lab, Firmware(tuple(files), "")), genesis="never", reset=False)
    assert len(result.written) == len(files) + 1


def test_a_board_that_hangs_is_rescued_and_tried_again(lab: VirtualLab, firmware: Firmware) -> None:
    control = LabControl(LocalGateway(), lab.document["labctl"])
    with BoardPrompt("b1", lab.serial_port("b1")) as prompt:
        prompt.exec_raw_no_follow("while True:\n try:\n  while True: pass\n except KeyboardInterrupt: pass")
        prompt.in_raw_repl = False
    rescued: list[str] = []

    def rescue(board: str) -> None:
        rescued.append(board)
        control.ask("reset", board)

    assert flash_one(target(lab, firmware), rescue=rescue).error is None
    assert rescued == ["b1"]


def test_failures_are_collected_by_board(lab: VirtualLab, firmware: Firmware) -> None:
    good = target(lab, firmware)
    missing = dataclasses.replace(target(lab, firmware, "b2"), port="/dev/serial/by-id/none")
    with BoardPrompt("b3", lab.serial_port("b3")):
        results = flash([good, missing, target(lab, firmware, "b3")])
    assert results[0].error is None
    assert "b2" in str(results[1].error) and "does not exist; is the board plugged in" in str(results[1].error)
    assert "b3" in str(results[2].error) and "is in use by another program" in str(results[2].error)
    with pytest.raises(RigError, match=r"b2.*; .*b3"):
        raise_failures(results)


def test_a_board_that_cannot_hold_it_says_so(lab: VirtualLab) -> None:
    data = bytes(2_000_000)
    file = FirmwareFile("brownout_node/big.bin", data, sha256(data).hexdigest())
    (result,) = flash([target(lab, Firmware((file,), ""))], genesis="never")
    assert "b1" in str(result.error) and "28" in str(result.error)  # ENOSPC, in the board's own words


def test_a_port_behind_which_nobody_answers_is_given_up(lab: VirtualLab) -> None:
    import os
    import pty

    master, slave = pty.openpty()
    began = time.monotonic()
    with pytest.raises(RigError, match="gives no prompt; is MicroPython on it"):
        prompt = BoardPrompt("b9", os.ttyname(slave))
        prompt.enter_raw_repl(timeout_overall=0.5)
    assert time.monotonic() - began < 8
    prompt.close()
    os.close(master)
    os.close(slave)


def test_config_files_do_not_depend_on_the_order_of_keys() -> None:
    assert config_file({"a": 1, "b": 2}) == config_file({"b": 2, "a": 1})


def test_flashing_again_what_is_unchanged_is_quick(lab: VirtualLab, firmware: Firmware) -> None:
    targets = [target(lab, firmware, board) for board in BOARDS]
    durations = []
    for _ in range(4):
        began = time.monotonic()
        raise_failures(flash(targets, reset=False))
        durations.append(time.monotonic() - began)
    assert min(durations[1:]) < 0.6 * durations[0], durations  # `brownout bench` holds it to 0.2 on a quiet machine
