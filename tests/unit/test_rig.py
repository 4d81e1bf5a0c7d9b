"""Rig files: those that ship are valid, every mistake is named, and boards get their parts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from brownout import resources
from brownout.contracts import RigError, Support, UsageError
from brownout.document import Table, parse_document
from brownout.fault_kinds import KINDS
from brownout.rig import Rig, choose_boards, load_model, load_rig, parse_rig
from documents import mutated
from hypothesis import given

BENCH = """
[rig]
name = "bench-1"
rung = "bench"
bed = "bench"

[broker]
host = "10.0.0.1"

[wifi]
ssid = "bed"
password = "long enough"

[gateway.east]
transport = "ssh"
host = "10.0.0.2"
user = "lab"
key = "keys/lab"
known_hosts = "keys/known_hosts"

[[board]]
name = "b1"
model = "pico-w"
port = "/dev/serial/by-id/usb-1"
gateway = "east"

[[board]]
name = "b2"
model = "esp32"
port = "/dev/serial/by-id/usb-2"
mesh = "serial"

[faults]
cut = "physical"
"""


def parse(text: str) -> Rig:
    return parse_rig(Table(parse_document(text.encode(), "beds/x.toml"), "beds/x.toml"))


def test_virtual_is_built_in_and_can_do_every_fault() -> None:
    rig = load_rig("virtual")
    assert (rig.name, rig.rung) == ("virtual", "virtual")
    assert rig.capacity >= 50
    assert set(rig.support) == set(KINDS)
    assert Support.ABSENT not in rig.support.values()


def test_a_bench_names_boards_gateways_and_broker() -> None:
    rig = parse(BENCH)
    assert [board.name for board in rig.boards] == ["b1", "b2"]
    assert rig.gateways["east"].key == "beds/keys/lab"
    assert rig.broker is not None and rig.broker.port == 1883
    assert rig.support["cut"] is Support.PHYSICAL
    assert rig.support["split"] is Support.ABSENT
    with pytest.raises(UsageError, match=re.escape("beds/x.toml: unknown board 'b3'; allowed: b1, b2")):
        rig.board("b3")


def test_a_lab_is_what_its_state_file_says(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text('[rig]\nname = "l"\nrung = "virtual"\n[lab]\ndirectory = "state"\n')
    with pytest.raises(RigError, match="no lab is running in .*state; start one: brownout lab up"):
        load_rig(str(path))
    (tmp_path / "state").mkdir()
    state = tmp_path / "state" / "lab.json"
    state.write_text(json.dumps({"boards": {"b1": {}, "b2": {"serial_only": True}}}))
    rig = load_rig(str(path))
    assert [(board.name, board.mesh) for board in rig.boards] == [("b1", "mqtt"), ("b2", "serial")]
    assert rig.boards[0].port == str(tmp_path / "state" / "serial" / "b1")
    for damaged in ("{", "[]", "{}", '{"boards": 3}', '{"boards": {"b1": 3}}'):
        state.write_text(damaged)
        with pytest.raises(RigError, match="cannot be read"):
            load_rig(str(path))


@pytest.mark.parametrize("name", resources.shipped(resources.models_directory()))
def test_models_name_a_port_that_the_firmware_has(name: str) -> None:
    model = load_model(name)
    assert model.name == name
    for port in model.ports:
        assert (resources.firmware_package() / "ports" / f"{port}.py").is_file()


def test_unknown_rigs_and_models_say_what_ships() -> None:
    with pytest.raises(UsageError, match=re.escape("unknown rig 'virtul' (did you mean 'virtual'?); allowed")):
        load_rig("virtul")
    with pytest.raises(UsageError, match="no such file"):
        load_rig("./none.toml")
    with pytest.raises(UsageError, match="unknown board model 'uno'; allowed: esp32, .*pico-w, .*virtual"):
        load_model("uno")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('rung = "bench"', 'rung = "virtual"', "rig.rung: 'virtual'; allowed: bench with [[board]]"),
        ('rung = "bench"', 'rung = "moon"', "rig.rung: unknown rung 'moon'; allowed: virtual, sim, bench"),
        ("[rig]", "[virtual]\n[rig]", "2 kinds of boards; allowed: one of [virtual], [lab], [sim], [[board]]"),
        ('name = "b2"', 'name = "b1"', "board[1].name: 'b1'; allowed: each name once"),
        ('name = "b2"', 'name = "all"', "board[1].name: 'all'; allowed: each name once"),
        ('name = "b2"', 'name = "B 2"', "board[1].name: 'B 2'; allowed: lower-case letters"),
        ("usb-2", "usb-1", "board[1].port: '/dev/serial/by-id/usb-1' belongs to another board"),
        ('gateway = "east"', 'gateway = "west"', "board[0].gateway: unknown gateway 'west' (did you mean 'east'?)"),
        ('model = "esp32"', 'model = "esp"', "board[1].model: unknown model 'esp'"),
        ('mesh = "serial"', 'mesh = "radio"', "board[1].mesh: unknown mesh 'radio'; allowed: mqtt, serial"),
        ('transport = "ssh"', 'transport = "local"', "gateway.east.host: unknown key"),
        ('key = "keys/lab"', "", "gateway.east.key: is missing"),
        ('host = "10.0.0.1"', "port = 0", "broker.host: is missing"),
        ('cut = "physical"', 'cut = "yes"', "faults.cut: unknown cut 'yes'; allowed: physical, injected, absent"),
        ('cut = "physical"', 'cuts = "physical"', "faults.cuts: unknown key (did you mean 'cut'?)"),
    ],
)
def test_mistakes_are_named(old: str, new: str, message: str) -> None:
    assert old in BENCH
    with pytest.raises(UsageError) as caught:
        parse(BENCH.replace(old, new))
    assert str(caught.value).startswith("beds/x.toml: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("heap", ["224", "k", "63k", "1m", "-5k", "٣٣k"])
def test_a_heap_is_kib_as_text(heap: str) -> None:
    with pytest.raises(UsageError, match="virtual.heap"):
        parse(f'[rig]\nname = "v"\nrung = "virtual"\n[virtual]\nheap = "{heap}"')


def test_boards_get_their_parts() -> None:
    rig = load_rig("virtual")
    boards = choose_boards(rig, "c", voters=3, learners=2, serial_only=2)
    assert [(board.board, board.name, board.weight, board.mesh) for board in boards] == [
        (1, "b1", 1, "mqtt"),
        (2, "b2", 1, "mqtt"),
        (3, "b3", 1, "mqtt"),
        (4, "b4", 0, "serial"),
        (5, "b5", 0, "serial"),
    ]
    bench = parse(BENCH)
    assert [board.name for board in choose_boards(bench, "c", 2, 0, 1)] == ["b1", "b2"]
    with pytest.raises(UsageError, match=re.escape("campaign 'c' needs 50 boards (7 voters, 43 learners)")):
        choose_boards(bench, "c", 7, 43, 0)
    with pytest.raises(UsageError, match="needs 2 boards with mesh = 'mqtt'; rig 'bench-1' has 1"):
        choose_boards(bench, "c", 2, 0, 0)


RIGS = [
    parse_document(BENCH.encode(), "bench"),
    parse_document((resources.rigs_directory() / "virtual.toml").read_bytes(), "virtual"),
]


@given(mutated(RIGS))
def test_any_mutation_of_a_rig_is_a_rig_or_a_usage_error(document: dict[str, Any]) -> None:
    document.pop("lab", None)
    try:
        parse_rig(Table(document, "x.toml"))
    except UsageError as error:
        assert str(error).startswith("x.toml: ")
