"""The ports, executed by the real MicroPython: unix on itself, esp32 and rp2 on stand-ins of their hardware modules."""

from __future__ import annotations

import pytest

# A journal on the port's region that lives through reboots and through many times its size; then on a blank region.
JOURNAL = """
from brownout_node.core import schema
from brownout_node.storage.journal import Journal, format_genesis

device = port.flash_region()
format_genesis(device, 7, 1)
journal = Journal(device)
journal.open()
assert journal.condition == schema.JOURNAL_VALID
for number in range(1500):
    journal.append([(0x300 + number % 30, b"%d" % number * 8)])
    journal.maintain()
again = Journal(port.flash_region())
again.open()
assert again.condition == schema.JOURNAL_VALID
for key in range(30):
    number = 1470 + key
    assert again.get(0x300 + key) == b"%d" % number * 8, key
print("journal", device.ioctl(4, 0), device.ioctl(5, 0))
"""

CONFIG = """
import asyncio
from brownout_node.core.config import Config

def config(**changes):
    document = dict(cluster=1, board=1, bed="bed", seed=1, roster=[[1, "b1", 1]], mqtt={"host": "10.0.0.1"})
    document.update(changes)
    return Config(document)
"""

ESP32 = "from brownout_node.ports.esp32 import Port\nimport esp32, machine, network\nport = Port()\n"
RP2 = "from brownout_node.ports.rp2 import Port\nimport rp2, machine, network\nport = Port()\n"
BOTH = pytest.mark.parametrize("head", [ESP32, RP2], ids=["esp32", "rp2"])


def test_the_platform_chooses_the_port(run_micropython):
    printed = run_micropython("from brownout_node import ports\nprint(ports.load().name)")
    assert printed == "unix\n"


# unix


def test_unix_keeps_the_journal_in_a_file(run_micropython, tmp_path):
    printed = run_micropython("from brownout_node.ports.unix import Port\nport = Port()\n" + JOURNAL)
    assert printed == "journal 32 4096\n"
    assert (tmp_path / "journal.bin").stat().st_size == 32 * 4096


def test_unix_tells_what_it_is(run_micropython):
    printed = run_micropython(
        "from brownout_node.ports.unix import Port\nimport asyncio\nport = Port()\n"
        "assert len({port.entropy() for _ in range(20)}) > 15 and 0 <= port.entropy() < 1 << 24\n"
        "asyncio.run(port.connect_network(None))\n"
        "port.watchdog(100)()\n"
        "assert isinstance(port.unique_id(), bytes)\n"
        "port.console().write(b'through the console\\n')\n"
        "port.release()\n"
        "print(port.reset_cause())\n"
        "port.power_off()\n",
        check=False,
    )
    assert printed == "through the console\nstart\n"


ROM = """
class Rom:
    class flash:
        journal = "the journal"
    reset_cause = "cut"
    def power_off():
        print("off")
        raise SystemExit
    def ticks_ms():
        return 1234
sys.modules["brownout_rom"] = Rom
from brownout_node.ports.unix import Port
port = Port()
print(port.flash_region(), port.reset_cause(), port.ticks_ms())
port.power_off()
"""


def test_on_a_virtual_board_the_boot_rom_has_the_flash_and_the_power_switch(run_micropython):
    assert run_micropython(ROM) == "the journal cut 1234\noff\n"


def test_a_console_on_pipes_takes_what_goes_and_reads_what_is_there(micropython, run_micropython, tmp_path):
    printed = run_micropython(
        "import asyncio\nfrom brownout_node.ports.common import Console\n"
        "console = Console(64, 128)\n"
        "assert console.write(b'x' * 200) == 128\n"
        "assert asyncio.run(console.read()) == b''\n"  # the end of the input
    )
    assert printed == "x" * 128


def test_the_files_of_the_firmware_are_found_beside_it_and_in_lib(run_micropython, tmp_path):
    for name in ("main.py", "notes.txt", "other.py", "brownout_node/shell.py", "lib/brownout_node/core/vote.mpy"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "lib/umqtt").mkdir()
    (tmp_path / "lib/umqtt/simple.py").write_text("")
    printed = run_micropython("from brownout_node.ports import common\nprint(*common.firmware_files())")
    assert printed == "brownout_node/shell.py lib/brownout_node/core/vote.mpy main.py\n"


# esp32


def test_esp32_keeps_the_journal_on_its_partition_and_touches_nothing_else(run_micropython):
    printed = run_micropython(
        ESP32 + JOURNAL + "assert esp32.chip.data[: 32 * 4096] == b'\\xff' * 4096 * 32\n", standins=True
    )
    assert printed == "journal 32 4096\n"


def test_esp32_without_a_journal_partition(run_micropython):
    printed = run_micropython(
        ESP32
        + "esp32.table[-1] = (1, 64, 32, 32, 'romfs')\nprint(port.flash_region().info()[4])\n"
        + "esp32.table.pop()\nprint(type(port.flash_region()).__name__)\n",
        standins=True,
    )
    assert printed == "romfs\nMemoryRegion\n"


# rp2


# A file system on the first blocks of the stand-in's flash, mounted as the frozen _boot.py does.
FILES = """
import vfs
from brownout_node.core import schema
from brownout_node.storage.journal import Journal, format_genesis

def mount(blocks):
    region = rp2.Flash(start=0, len=blocks * 4096)
    vfs.VfsLfs2.mkfs(region, progsize=256)
    vfs.umount("/")
    vfs.mount(vfs.VfsLfs2(region, progsize=256), "/")
"""


def test_rp2_keeps_the_journal_at_the_end_of_its_flash_in_whole_pages(run_micropython):
    printed = run_micropython(
        RP2
        + FILES
        + "mount(32)\nbefore = bytes(rp2.chip.data[: 32 * 4096])\n"
        + JOURNAL
        + "assert rp2.chip.data[: 32 * 4096] == before\n",
        standins=True,
    )
    assert printed == "journal 32 4096\n"


def test_rp2_pads_a_piece_of_a_page_without_changing_its_neighbours(run_micropython):
    printed = run_micropython(
        "import rp2\nfrom brownout_node.ports.rp2 import FlashRegion\n"
        "region = FlashRegion(4096, 8192)\n"
        "region.writeblocks(1, b'left', 250)\n"  # across the border of two pages
        "region.writeblocks(1, b'right', 254)\n"
        "region.writeblocks(1, bytes(range(200)), 400)\n"
        "print(bytes(rp2.chip.data[8192 + 246 : 8192 + 264]), rp2.chip.programs)\n"
        "assert rp2.chip.data[8192 + 400 : 8192 + 600] == bytes(range(200))\n"
        "buf = bytearray(9)\n"
        "region.readblocks(1, buf, 250)\n"
        "print(bytes(buf), region.ioctl(4, 0), region.ioctl(5, 0))\n"
        "region.ioctl(6, 1)\n"
        "assert rp2.chip.data == b'\\xff' * len(rp2.chip.data)\n",
        standins=True,
    )
    assert printed == "b'\\xff\\xff\\xff\\xffleftright\\xff\\xff\\xff\\xff\\xff' 5\nb'leftright' 2 4096\n"


def test_rp2_whose_file_system_covers_everything_keeps_the_journal_in_memory(run_micropython):
    printed = run_micropython(
        RP2
        + FILES
        + "mount(64)\nbefore = bytes(rp2.chip.data)\n"
        + "print(type(port.flash_region()).__name__, rp2.chip.data == before)\n",
        standins=True,
    )
    assert printed == "MemoryRegion True\n"


def test_a_journal_in_memory_works_and_makes_a_learner(run_micropython):
    printed = run_micropython(
        "from brownout_node.core import schema\nfrom brownout_node.storage.journal import Journal\n"
        "from brownout_node.ports.chip import MemoryRegion\n"
        "journal = Journal(MemoryRegion())\n"
        "journal.open()\n"
        "assert journal.condition == schema.JOURNAL_MISSING\n"
        "for number in range(2000):\n"
        "    journal.append([(1 + number % 20, b'%d' % number)])\n"
        "    journal.maintain()\n"
        "print([int(journal.get(key)) for key in (1, 20)])\n",
        standins=True,
    )
    assert printed == "[1980, 1999]\n"


# Both chips


@BOTH
def test_why_a_chip_was_reset(run_micropython, head):
    printed = run_micropython(
        head
        + "for machine.cause in (1, 2, 3, 4, 5, 9):\n    print(port.reset_cause())\nprint(port.unique_id().hex())\n",
        standins=True,
    )
    assert printed.split() == ["pwron", "hard", "wdt", "deepsleep", "soft", "unknown", "e6610001"]


@BOTH
def test_the_watchdog_is_fed_by_a_timer_once_the_prompt_takes_over(run_micropython, head):
    printed = run_micropython(
        head + "port.watchdog(0)()\nassert machine.log == []\n"
        "feed = port.watchdog(6000)\nfeed()\nport.release()\nprint(*machine.log, sep=', ')\n",
        standins=True,
    )
    timer = 0 if head == ESP32 else -1
    assert printed == f"watchdog 6000, fed, timer {timer} every 2000 ms, fed\n"


@BOTH
def test_losing_power_ends_everything(run_micropython, head):
    printed = run_micropython(
        head + "try:\n    port.power_off()\nexcept machine.Off:\n    print(*machine.log)\n", standins=True
    )
    assert printed == ("deepsleep\n" if head == ESP32 else "reset\n")


@BOTH
def test_wifi_is_joined_and_joined_again(run_micropython, head):
    printed = run_micropython(
        head + CONFIG + "WLAN = network.WLAN\n"
        "settings = config(wifi=dict(ssid='bed', password='secret', address='10.0.0.11/20'))\n"
        "asyncio.run(port.connect_network(settings))\n"
        "print(WLAN().isconnected(), WLAN.log, WLAN().ifconfig()[:3], network.hostname())\n"
        "asyncio.run(port.connect_network(settings))\n"
        "WLAN().disconnect()\n"
        "asyncio.run(port.connect_network(settings))\n"
        "print(WLAN.log[2:])\n",
        standins=True,
    )
    assert printed.splitlines() == [
        "True [{'pm': 0}, 'connect bed'] ('10.0.0.11', '255.255.240.0', '10.0.0.11') b1",
        "['disconnect', {'pm': 0}, 'connect bed']",
    ]


@BOTH
def test_an_access_point_that_refuses_is_asked_again(run_micropython, head):
    printed = run_micropython(
        head + CONFIG + "settings = config(wifi=dict(ssid='bed', password='wrong'))\n"
        "async def later():\n"
        "    while network.WLAN.log.count('connect bed') < 2:\n"
        "        await asyncio.sleep(0.05)\n"
        "    network.WLAN.password = 'wrong'\n"
        "async def main():\n"
        "    asyncio.create_task(later())\n"
        "    await port.connect_network(settings)\n"
        "network.WLAN.password = 'secret'\n"
        "asyncio.sleep = lambda s, sleep=asyncio.sleep_ms: sleep(1)\n"
        "asyncio.run(main())\n"
        "print(network.WLAN.log)\n",
        standins=True,
    )
    assert printed.count("connect bed") == 3


@BOTH
def test_a_board_without_wifi_settings_leaves_the_radio_alone(run_micropython, head):
    printed = run_micropython(
        head + CONFIG + "asyncio.run(port.connect_network(config()))\nprint(network.WLAN.log)\n", standins=True
    )
    assert printed == "[]\n"


@BOTH
def test_the_console_of_a_chip_is_written_in_small_pieces(run_micropython, head):
    printed = run_micropython(head + "assert port.console().write(b'x' * 1000) in (64, 256)\n", standins=True)
    assert set(printed) == {"x"}
