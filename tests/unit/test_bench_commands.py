"""Command builders of the bench with hostile values: a shell makes of them exactly what was meant, and no more."""

from __future__ import annotations

import json
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from brownout import discover
from brownout.bed import without_password
from brownout.bench_rig import DRIVERS, JIG_WORDS, OutletsSpec, fill
from brownout.campaign_file import Campaign, read_campaign
from brownout.contracts import LinkRule, RigError, UsageError
from brownout.document import Table
from brownout.drivers import bench_link, gpioset, shelly, tasmota, uhubctl, usbrelay
from brownout.faults import plan
from brownout.gateway import LocalGateway, quoted
from brownout.outlets import open_outlets, options_of, proves
from brownout.qualify import Finding, refuse_unproven, write_result
from brownout.rig import parse_rig, read_rig
from hypothesis import example, given, settings
from hypothesis import strategies as st

HOSTILE = st.one_of(
    st.sampled_from(
        [
            "$(touch CANARY)", "`touch CANARY`", "; touch CANARY", "| touch CANARY", "& touch CANARY",
            "\n touch CANARY\n",
            "' ; touch CANARY ; '", '" ; touch CANARY ; "', "${IFS}", "*", "~", "a b", "\\", "-rf", "--help", "é€𝄞",
            "{board}", "x" * 5000, "\r\n\t", "> CANARY", "!!", "#", "%s%n",
        ]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40),
)  # fmt: skip
EXAMPLES = settings(max_examples=25, deadline=None)


def as_a_shell_reads(argv: list[str], folder: Path) -> list[str]:
    """The arguments that a program would get, when the far side's shell has read the line."""
    line = shlex.split(quoted(argv, 5.0))  # what is meant; the shell itself is asked next
    assert line[:4] == ["timeout", "-k", "1", "5"]
    script = quoted(["printf", "%s\\0", *argv], 5.0)
    result = subprocess.run(["/bin/sh", "-c", script], capture_output=True, cwd=folder, check=True)
    return result.stdout.decode("utf-8").split("\0")[:-1]


def options(driver: str, hostile: str) -> dict[str, object]:
    if driver == "command":
        return {word: ["switch", "{device}", "{outlet}", word] for word in ("on", "off", "state")}
    return {"url": f"http://{hostile}", "backend": hostile} if driver in ("pdudaemon", "labgrid") else {}


@EXAMPLES
@given(driver=st.sampled_from(sorted(DRIVERS)), device=HOSTILE, number=st.integers(0, 99), on=st.booleans())
@example(driver="tasmota", device="$(touch CANARY)", number=1, on=True)
def test_no_device_name_runs_anything(
    tmp_path_factory: pytest.TempPathFactory, driver: str, device: str, number: int, on: bool
) -> None:
    folder = tmp_path_factory.mktemp("shell")
    outlets = open_outlets(OutletsSpec("p", driver, "east", device, options(driver, device)))
    for argv in [*outlets.switch([number], on), *outlets.query([number])]:
        assert argv[0] in ("uhubctl", "usbrelay", "gpioset", "gpioget", "curl", "mosquitto_pub", "python3", "switch")
        assert as_a_shell_reads(argv, folder) == argv
    assert list(folder.iterdir()) == []


@EXAMPLES
@given(board=HOSTILE, port=HOSTILE)
def test_a_template_is_filled_word_by_word(tmp_path_factory: pytest.TempPathFactory, board: str, port: str) -> None:
    folder = tmp_path_factory.mktemp("shell")
    template = ["jig", "{board}", "x{board}", "{port}", "{operation}"]
    argv = fill(template, {"board": board, "port": port})
    assert argv == ["jig", board, "x{board}", port, "{operation}"]
    assert as_a_shell_reads(argv, folder) == argv
    assert list(folder.iterdir()) == []


@EXAMPLES
@given(name=HOSTILE)
def test_link_rules_travel_as_they_are(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("shell")
    rule = LinkRule(name, "drop", (name,), ("b2",))
    argv = ["linkctl", "link", "apply", json.dumps([rule.__dict__]), "10"]
    assert as_a_shell_reads(argv, folder) == argv
    assert list(folder.iterdir()) == []


@EXAMPLES
@given(address=HOSTILE)
def test_nftables_is_told_addresses_and_nothing_else(address: str) -> None:
    """nft reads a language of its own in its argument, so quoting for the shell is not enough."""
    with pytest.raises(ValueError):
        bench_link.set_elements("up", [address], 10.0)
    with pytest.raises(ValueError):
        bench_link.remove_elements("up", [address])
    assert bench_link.set_elements("up", ["192.0.2.1"], 10.0) == [
        "nft",
        "add element inet brownout up { 192.0.2.1 timeout 10s }",
    ]


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_driver_says_what_it_proves_and_shows_its_configuration(driver: str) -> None:
    assert proves(driver)
    assert options_of(driver) == DRIVERS[driver]
    module = {"labgrid": "labgrid_power"}.get(driver, driver)
    text = (Path(bench_link.__file__).with_name(f"{module}.py")).read_text().split('"""')[1]
    assert f'driver = "{driver}"' in text
    assert "Proves" in text
    assert "https://" in text or driver == "command"
    for key in options_of(driver):
        assert f"{key} = " in text, f"{driver}: its sample does not show {key}"


HUB = """\
Current status for hub 1-1 [2109:3431 USB2.0 Hub, USB 2.10, 4 ports, ppps]
  Port 1: 0000 off
  Port 2: 0100 power
  Port 3: 0103 power enable connect [10c4:ea60 Silicon Labs CP2102 power off 0001]
  Port 4: 0507 power highspeed suspend enable connect [0781:5581 SanDisk Ultra]
"""


def test_answers_of_the_tools_are_read() -> None:
    assert uhubctl.Uhubctl("1-1", {}).read([HUB], [1, 2, 3, 4]) == {1: False, 2: True, 3: True, 4: True}
    assert usbrelay.Usbrelay("BRLY1", {}).read(["BRLY1_1=1\nBRLY1_2=0\n"], [1, 2]) == {1: True, 2: False}
    assert usbrelay.Usbrelay("BRLY1", {"inverted": True}).read(["BRLY1_1=1\n"], [1]) == {1: False}
    assert gpioset.Gpioset("gpiochip0", {}).read(["1 0\n"], [17, 18]) == {17: True, 18: False}
    assert tasmota.Tasmota("192.0.2.7", {}).read(['{"POWER":"OFF"}', '{"POWER2":"ON"}'], [1, 2]) == {1: False, 2: True}
    assert shelly.Shelly("192.0.2.8", {}).read(['{"id":0,"output":true}'], [0]) == {0: True}
    assert shelly.Shelly("192.0.2.8", {"generation": 1}).read(['{"ison":false}'], [0]) == {0: False}


@pytest.mark.parametrize(
    ("driver", "answer"),
    [
        ("uhubctl", "No compatible devices detected!\n"), ("usbrelay", "OTHER_1=1\n"), ("gpioset", "2\n"),
        ("tasmota", "<html>"), ("tasmota", "[]"), ("shelly", "{}"), ("labgrid", "Traceback"),
    ],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_no_state(driver: str, answer: str) -> None:
    outlets = open_outlets(OutletsSpec("p", driver, "east", "192.0.2.7", {}))
    with pytest.raises(RigError):
        outlets.read([answer], [1])


def test_both_libgpiods_have_their_own_command_line() -> None:
    assert gpioset.Gpioset("gpiochip0", {"libgpiod": 1}).switch([17], True) == [
        ["gpioset", "--mode=exit", "gpiochip0", "17=1"]
    ]
    second = gpioset.Gpioset("gpiochip0", {"libgpiod": 2, "active_low": True})
    assert second.switch([17, 18], True) == [["gpioset", "-t0", "-c", "gpiochip0", "17=0", "18=0"]]


RIG = """\
[rig]
name = "r"
rung = "bench"
[gateway.east]
transport = "local"
[broker]
host = "192.0.2.1"
gateway = "east"
ca = "ca.pem"
passwords = "p.json"
[links]
gateway = "east"
control = "/opt/linkctl"
[power.hub]
driver = "uhubctl"
gateway = "east"
device = "1-1"
[jig]
reset = ["jig", "{board}"]
[[board]]
name = "b1"
model = "virtual"
gateway = "east"
port = "/dev/x"
address = "192.0.2.5"
outlet = "hub/1"
"""


@pytest.mark.parametrize(
    ("was", "becomes", "named"),
    [
        ('outlet = "hub/1"', 'outlet = "hub/one"', "outlet"),
        ('outlet = "hub/1"', 'outlet = "other/1"', "outlet"),
        ('address = "192.0.2.5"', 'address = "192.0.2.5; flush ruleset"', "address"),
        ('["jig", "{board}"]', '["jig", "{operation}"]', "reset"),
        ('["jig", "{board}"]', '"jig; rm -rf /"', "reset"),
        ('driver = "uhubctl"', 'driver = "uhubctl2"', "driver"),
        ('device = "1-1"', 'device = "-a"', "device"),
        ('passwords = "p.json"', 'passwords = "p.json"\nunit = "*"', "unit"),
        ('passwords = "p.json"', 'passwords = "p.json"\nunit = "-Hevil"', "unit"),
        ('name = "b1"', 'name = "-rf"', "name"),
        ('port = "/dev/x"', 'port = "-x"', "port"),
    ],
)
def test_a_rig_file_is_read_strictly(tmp_path: Path, was: str, becomes: str, named: str) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(RIG)
    assert parse_rig(Table.read(path)).bench is not None
    path.write_text(RIG.replace(was, becomes))
    with pytest.raises(UsageError, match=named):
        parse_rig(Table.read(path))


def test_no_password_is_kept_in_a_runs_folder() -> None:
    """Flight recordings hold what boards were told; their passwords were among it."""
    told = {"board": 1, "mqtt": {"host": "192.0.2.1", "password": "secret", "tls": {"ca": "x"}}}
    assert "secret" not in json.dumps(without_password(told))
    assert told["mqtt"]["password"] == "secret"  # the board itself still gets it
    assert without_password({"board": 1, "mqtt": None}) == {"board": 1, "mqtt": None}


def test_boards_are_found_by_stable_names() -> None:
    ports = [
        "/dev/serial/by-id/usb-Silicon_Labs_CP2102_USB_to_UART_0001-if00-port0",
        "/dev/serial/by-id/usb-MicroPython_Board_in_FS_mode_e66038b7-if00",
        '/dev/serial/by-id/usb-Odd"\nname = "evil"-if00',
    ]

    class Listing(LocalGateway):
        def _execute(self, line: str, backstop_s: float) -> object:
            return super()._execute(quoted(["printf", "%s\\0", *ports], 5.0), backstop_s)

    found = discover.discover({"east": Listing("east")})
    assert {board.port: board.model for board in found} == dict(zip(ports, ("esp32", "pico-w", None), strict=True))
    text = discover.tables(found)
    boards = tomllib.loads(text)["board"]
    assert {board["port"] for board in boards} == set(ports[:2])
    assert all(board["gateway"] == "east" for board in boards)


def test_an_outlet_that_could_not_be_proven_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    boards = "".join(
        RIG[RIG.index("[[board]]") :].replace('"b1"', f'"b{at}"').replace("/dev/x", f"/dev/x{at}") for at in range(1, 6)
    )
    faults = '[faults]\ncut = "physical"\nsplit = "injected"\n'
    path.write_text(RIG[: RIG.index("[[board]]")] + boards + faults)
    rig = read_rig(path)
    cut = campaign(tmp_path, 'kind = "cut"\nselect = ["b2"]\nfor_s = 1.0')
    split = campaign(tmp_path, 'kind = "split"\nshape = "halves"\nfor_s = 1.0')
    refuse_unproven(plan(cut, rig, 1), rig)  # nobody has asked yet
    write_result(rig.source, [Finding("b1", "hub/1"), Finding("b2", "hub/1", "lies", detail="still there")])
    with pytest.raises(RigError, match="b2.*lies.*--trust-switches"):
        refuse_unproven(plan(cut, rig, 1), rig)
    refuse_unproven(plan(split, rig, 1), rig)


def campaign(folder: Path, fault: str) -> Campaign:
    path = folder / "campaign.toml"
    head = '[campaign]\nname = "c"\nduration_s = 5.0\nvoters = 5\n[workload]\nclients = 1\noperations_per_s = 1.0\n'
    path.write_text(f"{head}[[fault]]\n{fault}\nat_s = 1.0\n")
    return read_campaign(path)


def test_every_jig_command_names_a_board() -> None:
    assert all("board" in words for words in JIG_WORDS.values())
