"""A virtual board from outside: what its flash, its power switch and its cable do, with the real MicroPython in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brownout_virtual.flash_image import Geometry, read_files
from mqtt_bed import wait_until
from virtual_bed import Lab, Port, is_gone

pytestmark = pytest.mark.system

JOURNAL_AT = Geometry().filesystem_blocks * 4096

COUNTER = b"""
import brownout_rom, time
print("boot", brownout_rom.reset_cause, brownout_rom.heap_limit)
while True:
    time.sleep_ms(20)
"""
FLOOD = b"""
import brownout_rom
for i in range(3000):
    print("line", i, "x" * 100)
brownout_rom.flash.journal.writeblocks(0, b"done", 0)
"""
ECHO = b"""
import sys
print("echo")
left = 1000
while left:
    data = sys.stdin.buffer.read(1)
    sys.stdout.buffer.write(data)
    left -= 1
"""
# Every way in which firmware may ask for something, chosen over the journal's first byte, which only ever loses bits.
WISHES = b"""
import brownout_rom, sys
wish = bytearray(1)
brownout_rom.flash.journal.readblocks(0, wish, 0)
print("cause", brownout_rom.reset_cause, wish[0])
brownout_rom.flash.journal.writeblocks(0, bytes([wish[0] >> 1]), 0)
if wish[0] == 255:
    sys.exit()
if wish[0] == 127:
    brownout_rom.reset("watchdog")
if wish[0] == 63:
    brownout_rom.power_off()
print("settled")
"""
FILES = {
    "counter": {"main.py": COUNTER},
    "flood": {"main.py": FLOOD},
    "echo": {"main.py": ECHO},
    "wishes": {"main.py": WISHES},
    "blank": {},
    "boots": {"boot.py": b"import lib_a\nfrom_boot = 41\n", "main.py": b"print('sum', from_boot + lib_a.one)\n"},
}
FILES["boots"]["lib/lib_a.py"] = b"one = 1\n"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    boards = ",".join([*FILES, "flash"])
    lab = Lab(tmp_path_factory.mktemp("chips") / "lab", boards, "--local-gateway", files=FILES)
    yield lab
    lab.close()


@pytest.fixture
def open_port(lab: Lab) -> Iterator[Any]:
    ports: list[Port] = []

    def open_it(board: str) -> Port:
        ports.append(Port(lab.folder / "serial" / board))
        return ports[-1]

    yield open_it
    for port in ports:
        port.close()


def restart(lab: Lab, board: str, port: Port) -> None:
    lab.labctl("power", "off", board)
    port.drain()
    lab.labctl("power", "on", board)


def journal(lab: Lab, board: str, size: int, at: int = 0) -> bytes:
    with (lab.folder / "flash" / f"{board}.bin").open("rb") as file:
        file.seek(JOURNAL_AT + at)
        return file.read(size)


def test_it_boots_what_its_file_system_holds(lab: Lab, open_port: Any) -> None:
    port = open_port("boots")
    restart(lab, "boots", port)
    port.read_until(b"sum 42\n")


def test_its_root_is_its_own_flash_and_nothing_of_the_host(lab: Lab) -> None:
    said = lab.mpremote("boots", "exec", "import os, sys; print(sorted(os.listdir('/')), os.getcwd(), sys.path)")
    assert said.strip() == "['boot.py', 'lib', 'main.py'] / ['', '.frozen', '/lib']"


def test_mpremote_copies_a_file_and_a_reset_runs_it(lab: Lab, open_port: Any, tmp_path: Path) -> None:
    script = tmp_path / "new.py"
    script.write_text("import brownout_rom\nprint('new firmware', brownout_rom.reset_cause)\n")
    assert lab.mpremote("blank", "exec", "print(6 * 7)").strip() == "42"
    lab.mpremote("blank", "fs", "cp", str(script), ":main.py")
    port = open_port("blank")
    assert lab.labctl("reset", "blank")["blank"]["reset_cause"] == "reset"
    port.read_until(b"new firmware reset\n")
    lab.labctl("power", "cycle", "blank")
    port.read_until(b"new firmware power on\n")
    port.read_until(b">>> ")
    starts = lab.state("blank")["starts"]
    port.write(b"\x04")  # a soft reset
    port.read_until(b"new firmware reset\n")
    state = lab.state("blank")
    assert (state["starts"], state["exit"]) == (starts + 1, "exit 0")
    lab.labctl("power", "off", "blank")
    assert read_files(lab.folder / "flash" / "blank.bin", Geometry()) == {"main.py": script.read_bytes()}


def test_power_off_is_the_end_of_a_process_and_of_its_port(lab: Lab, open_port: Any) -> None:
    link = lab.folder / "serial" / "counter"
    port = open_port("counter")
    before = lab.state("counter")
    off = lab.labctl("power", "off", "counter")["counter"]
    assert before["on"] and not off["on"]
    assert (off["pid"], off["process"], off["exit"], off["starts"]) == (None, None, "signal 9", before["starts"])
    assert is_gone(before["pid"])
    assert not link.is_symlink()
    port.drain()
    port.write(b"nobody hears this\r\n")
    assert port.is_silent(0.2)
    assert lab.labctl("power", "off", "counter")["counter"] == off
    on = lab.labctl("power", "on", "counter")["counter"]
    assert (on["on"], on["starts"], on["reset_cause"]) == (True, before["starts"] + 1, "power on")
    assert link.is_symlink()
    assert port.read_until(b"\n") == b"boot power on 229376\n"  # by the handle that was open all the time


def test_each_power_cycle_is_counted(lab: Lab) -> None:
    starts = lab.state("counter")["starts"]
    pids = {lab.labctl("power", "cycle", "counter")["counter"]["pid"] for _ in range(5)}
    assert len(pids) == 5
    assert lab.state("counter")["starts"] == starts + 5


def test_reset_needs_power(lab: Lab) -> None:
    lab.labctl("power", "off", "boots")
    before = lab.state("counter")
    refused = lab.command("reset", "counter", "boots")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "boots has no power" in refused.stderr
    assert lab.state("counter")["pid"] == before["pid"]
    lab.labctl("power", "on", "boots")


def test_firmware_may_exit_reset_and_let_go_of_its_supply(lab: Lab, open_port: Any) -> None:
    wait_until(lambda: not lab.state("wishes")["on"], "it let go of its supply for the first time")
    lab.labctl("flash", "wipe-journal", "wishes")
    lab.labctl("power", "on", "wishes")
    port = open_port("wishes")
    port.read_until(b"cause power on 255\n")
    port.read_until(b"cause reset 127\n")
    port.read_until(b"cause watchdog 63\n")
    wait_until(lambda: not lab.state("wishes")["on"], "it let go of its supply")
    lab.labctl("power", "on", "wishes")
    port.read_until(b"cause power on 31\nsettled\n")


# Flash.


@pytest.fixture
def prompt(lab: Lab, open_port: Any) -> Port:
    """The prompt of the board `flash`, freshly started with an erased journal region."""
    lab.labctl("power", "off", "flash")
    lab.labctl("flash", "wipe-journal", "flash")
    port = open_port_when_on(lab, open_port)
    port.write(b"import brownout_rom; journal = brownout_rom.flash.journal\r")
    port.read_until(b"flash.journal\r\n")
    port.read_until(b">>> ")
    return port


def open_port_when_on(lab: Lab, open_port: Any) -> Port:
    lab.labctl("power", "on", "flash")
    port = open_port("flash")
    port.write(b"\r")
    port.read_until(b">>> ")
    return port


def tell(port: Port, line: str) -> str:
    """Type a line and return what it printed."""
    port.drain()
    port.write(line.encode() + b"\r")
    port.read_until(b"\n")
    return port.read_until(b">>> ")[:-4].decode().replace("\r\n", "\n").strip()


def test_a_program_only_clears_bits(lab: Lab, prompt: Port) -> None:
    tell(prompt, "journal.writeblocks(2, bytes([0xF0, 0x0F, 0xFF]), 100)")
    tell(prompt, "journal.writeblocks(2, bytes([0x3C, 0xFF, 0x12]), 100)")
    assert journal(lab, "flash", 5, 2 * 4096 + 99) == bytes([0xFF, 0x30, 0x0F, 0x12, 0xFF])
    assert tell(prompt, "b = bytearray(4); journal.readblocks(2, b, 99); print(list(b))") == "[255, 48, 15, 18]"
    tell(prompt, "journal.ioctl(6, 2)")
    assert journal(lab, "flash", 4096, 2 * 4096) == b"\xff" * 4096


def test_operations_are_counted_by_page_and_block(lab: Lab, prompt: Port) -> None:
    before = lab.state("flash")["flash"]["journal"]
    tell(prompt, "journal.writeblocks(1, bytes(1000), 200)")  # 56 bytes of a page, three whole ones, 176 of another
    tell(prompt, "journal.ioctl(6, 1)")
    after = lab.state("flash")["flash"]["journal"]
    assert (after["programs"] - before["programs"], after["erases"] - before["erases"]) == (5, 1)
    assert tell(prompt, "print(journal.programs, journal.erases)") == f"{after['programs']} {after['erases']}"
    assert tell(prompt, "print(journal.ioctl(4, 0), journal.ioctl(5, 0))") == "32 4096"


@pytest.mark.parametrize("byte", [0, 1, 100, 255, 256, 4000])
def test_a_cut_in_a_program_leaves_exactly_its_first_bytes(lab: Lab, prompt: Port, byte: int) -> None:
    armed = lab.labctl("power", "cut-mid-write", "flash", "3", str(byte))["flash"]["armed"]
    assert armed == {"operation": 3, "byte": byte}
    prompt.write(b"journal.writeblocks(4, bytes(1024), 0)\r")
    wait_until(lambda: not lab.state("flash")["on"], "power is cut")
    state = lab.state("flash")
    done = min(byte, 256)
    at = JOURNAL_AT + 4 * 4096 + 512
    cut = {"operation": "program", "part": "journal", "at": at, "bytes": done, "of": 256, "start": state["starts"]}
    assert (state["cut"], state["exit"], state["armed"], state["pid"]) == (cut, "signal 9", None, None)
    assert journal(lab, "flash", 4096, 4 * 4096) == bytes(512 + done) + b"\xff" * (4096 - 512 - done)
    assert lab.labctl("power", "on", "flash")["flash"]["on"]


@pytest.mark.parametrize("byte", [0, 1000, 4095])
def test_a_cut_in_an_erase_leaves_the_rest_as_it_was(lab: Lab, prompt: Port, byte: int) -> None:
    tell(prompt, "journal.writeblocks(7, bytes(4096), 0)")
    lab.labctl("power", "cut-mid-write", "flash", "1", str(byte))
    prompt.write(b"journal.ioctl(6, 7)\r")
    wait_until(lambda: not lab.state("flash")["on"], "power is cut")
    assert lab.state("flash")["cut"]["operation"] == "erase"
    assert journal(lab, "flash", 4096, 7 * 4096) == b"\xff" * byte + bytes(4096 - byte)


def test_a_disarmed_cut_does_not_happen(lab: Lab, prompt: Port) -> None:
    lab.labctl("power", "cut-mid-write", "flash", "1", "5")
    assert lab.labctl("power", "cut-mid-write", "flash", "0", "0")["flash"]["armed"] is None
    assert tell(prompt, "journal.writeblocks(0, bytes(10), 0); print('alive')") == "alive"


def test_a_cut_armed_while_off_meets_the_next_boot(lab: Lab, prompt: Port) -> None:
    lab.labctl("power", "off", "flash")
    lab.labctl("power", "cut-mid-write", "flash", "1", "8")
    port = prompt
    lab.labctl("power", "on", "flash")
    port.drain()
    port.write(b"\r")
    port.read_until(b">>> ")
    port.write(b"import brownout_rom; brownout_rom.flash.journal.writeblocks(0, bytes(10), 0)\r")
    wait_until(lambda: not lab.state("flash")["on"], "power is cut")
    assert journal(lab, "flash", 10) == bytes(8) + b"\xff\xff"


def test_the_journal_is_wiped_only_without_power(lab: Lab, prompt: Port) -> None:
    tell(prompt, "journal.writeblocks(0, bytes(10), 0)")
    refused = lab.command("flash", "wipe-journal", "flash")
    assert refused.returncode == 1
    assert "flash has power" in refused.stderr
    assert journal(lab, "flash", 10) == bytes(10)


def test_a_board_without_a_file_system_says_so_and_stops(lab: Lab, open_port: Any) -> None:
    lab.labctl("power", "off", "blank")
    image = lab.folder / "flash" / "blank.bin"
    image.write_bytes(b"\xff" * image.stat().st_size)
    lab.labctl("power", "on", "blank")
    port = open_port("blank")
    wait_until(lambda: lab.state("blank")["fault"], "the boot ROM reports")
    assert "no file system on the flash" in lab.state("blank")["fault"]
    port.drain()
    port.write(b"\x03\x03\r\nprint(1)\r\n")
    assert port.is_silent(0.3)
    assert lab.state("blank")["starts"] == lab.state("blank")["starts"]


def test_the_boot_rom_leaves_the_heap_to_the_firmware(lab: Lab) -> None:
    used = int(lab.mpremote("counter", "exec", "import gc; gc.collect(); print(gc.mem_alloc())"))
    # 1,000 of it for faults of clocks and memory; an empty interpreter takes 2,000,
    assert used < 12_000  # a mounted LittleFS 2,600, what mpremote sent 300


# Cable.


def test_every_byte_but_the_interrupt_passes_untouched(lab: Lab, open_port: Any) -> None:
    port = open_port("echo")
    restart(lab, "echo", port)
    port.read_until(b"echo\n")
    sent = bytes(byte for byte in range(256) if byte != 3) * 3
    port.write(sent)
    port.write(b"end")
    assert port.read_until(b"end") == sent + b"end"


def test_output_that_nobody_reads_does_not_stop_the_board(lab: Lab) -> None:
    lab.labctl("power", "off", "flood")
    lab.labctl("flash", "wipe-journal", "flood")
    lab.labctl("power", "on", "flood")
    wait_until(lambda: journal(lab, "flood", 4) == b"done", "all 300 KB were printed", 20.0)
    state = lab.labctl("cable", "state", "flood")["flood"]
    assert state["plugged"]
    assert state["dropped"] > 100_000
    assert lab.mpremote("flood", "exec", "print('still there')").strip() == "still there"


def test_an_interrupt_reaches_a_board_that_has_stopped_reading(lab: Lab, open_port: Any) -> None:
    port = open_port("counter")
    restart(lab, "counter", port)
    port.read_until(b"boot power on")
    port.write(b"#" * 20_000)
    port.write(b"\x03")
    port.read_until(b"KeyboardInterrupt")
    port.read_until(b">>> ")


def test_an_interrupt_that_comes_twice_or_too_early_does_not_end_the_interpreter(lab: Lab, open_port: Any) -> None:
    port = open_port("counter")
    for _ in range(5):
        lab.labctl("power", "off", "counter")
        port.drain()
        starts = lab.labctl("power", "on", "counter")["counter"]["starts"]
        port.write(b"\r\x03\x03")  # perhaps before the board has booted
        port.write(b"\x03")
        port.read_until(b"KeyboardInterrupt")
        port.read_until(b">>> ")
        assert lab.state("counter")["starts"] == starts


def test_an_unplugged_cable_is_the_end_of_the_line_but_not_of_the_board(lab: Lab, open_port: Any) -> None:
    port = open_port("counter")
    restart(lab, "counter", port)
    port.read_until(b"boot power on 229376\n")
    pid = lab.state("counter")["pid"]
    assert lab.labctl("cable", "unplug", "counter")["counter"] | {"dropped": 0} == {
        "plugged": False,
        "port": False,
        "dropped": 0,
    }
    assert port.ended()
    assert not (lab.folder / "serial" / "counter").is_symlink()
    assert lab.state("counter")["pid"] == pid
    lab.labctl("power", "cycle", "counter")
    assert not lab.labctl("cable", "state", "counter")["counter"]["port"]
    lab.labctl("cable", "plug", "counter")
    assert lab.mpremote("counter", "exec", "print('again')").strip() == "again"


def test_commands_name_their_boards_correctly_or_do_nothing(lab: Lab) -> None:
    before = json.dumps(lab.labctl("power", "state", "counter"))
    for words in (
        ("power", "off", "counter", "b99"),
        ("power", "off"),
        ("power", "fade", "counter"),
        ("power", "cut-mid-write", "counter", "-1", "2"),
        ("power", "cut-mid-write", "counter", "1"),
        ("reset", ""),
        ("explode",),
        (),
    ):
        refused = lab.command(*words)
        assert (refused.returncode, refused.stdout) == (2, ""), words
        assert refused.stderr.startswith("labctl: "), words
    assert "unknown board 'b99'; the boards are: counter, flood" in lab.command("power", "off", "b99").stderr
    assert json.dumps(lab.labctl("power", "state", "counter")) == before
