"""What is built for a board: the modules it needs, compiled, the same bytes each time, and errors with their place."""

from __future__ import annotations

import ast
import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from brownout import resources
from brownout.contracts import UsageError
from brownout.firmware_build import build
from brownout.firmware_slim import SCHEMA_KINDS, slim, slimmed
from brownout.protocols import PROTOCOLS
from brownout.rig import load_model
from brownout_node.core import schema


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "brownout" / "mpy"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the firmware that may be changed."""
    folder = tmp_path / "firmware"
    shutil.copytree(
        resources.firmware_package(), folder / "brownout_node", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("boot.py", "main.py"):
        shutil.copy(resources.firmware_directory() / name, folder)
    return folder


@pytest.mark.parametrize("name", resources.shipped(resources.models_directory()))
def test_a_board_gets_what_it_needs_and_no_other_port(name: str) -> None:
    model = load_model(name)
    firmware = build(model)
    paths = [file.path for file in firmware.files]
    assert paths == sorted(paths)
    assert {"boot.py", "main.py", "brownout_node/core/vote.mpy", "brownout_node/storage/journal.mpy"} <= set(paths)
    ports = {path for path in paths if path.startswith("brownout_node/ports/")}
    wanted = {"__init__", "common", *model.ports}
    assert ports == {f"brownout_node/ports/{port}.mpy" for port in wanted}
    for file in firmware.files:
        assert file.sha256 == hashlib.sha256(file.data).hexdigest()
        assert file.data[:2] == b"M\x06" or file.path in ("boot.py", "main.py")


def core_of(*protocols: str, **options: object) -> set[str]:
    firmware = build(load_model("virtual"), protocols=protocols, **options)
    core = "brownout_node/core/"
    return {file.path.removeprefix(core).removesuffix(".mpy") for file in firmware.files if file.path.startswith(core)}


def test_of_the_protocols_a_board_gets_those_that_it_loads_with_what_they_import() -> None:
    always = {"__init__", "codec", "config", "errors", "options", "node", "step", "schema", "clock", "prng", "recorder"}
    assert core_of() == always
    assert core_of("membership") == always | {"membership"}
    assert core_of("vote") == always | {"vote", "register", "catchup"}
    assert core_of("gossip") == always | {"gossip", "repair"}
    assert core_of("mine", own={"mine.py": "from .register import Register\n"}) == always | {"mine", "register"}


def test_the_hash_is_the_one_that_boards_compute() -> None:
    firmware = build(load_model("virtual"))
    digest = hashlib.sha256()
    for file in firmware.files:
        digest.update(file.path.encode() + b"\0" + bytes.fromhex(file.sha256)[:8])
    assert firmware.hash == digest.hexdigest()[:16]


def test_the_same_source_gives_the_same_bytes_from_anywhere_with_and_without_a_cache(source: Path, cache: Path) -> None:
    model = load_model("virtual")
    first = build(model)
    assert len(list(cache.glob("*.mpy"))) > 20
    assert build(model) == first
    shutil.rmtree(cache)
    assert build(model, source) == first
    shutil.rmtree(cache)
    cache.write_text("no folder can be made here")
    assert build(model) == first


def test_a_changed_module_is_compiled_again_and_nothing_else(source: Path, cache: Path) -> None:
    model = load_model("virtual")
    before = build(model, source)
    count = len(list(cache.glob("*.mpy")))
    step = source / "brownout_node" / "core" / "step.py"
    step.write_text(step.read_text().replace("return True", "return 1"))
    after = build(model, source)
    assert len(list(cache.glob("*.mpy"))) == count + 1
    changed = [file.path for file, old in zip(after.files, before.files, strict=True) if file != old]
    assert changed == ["brownout_node/core/step.mpy"]
    assert after.hash != before.hash


def test_a_module_that_does_not_compile_is_named(source: Path) -> None:
    module = source / "brownout_node" / "core" / "mine.py"
    module.write_text("def f(:\n")
    with pytest.raises(UsageError, match=r"core/mine\.py: does not compile for MicroPython: (.|\n)*line 1"):
        build(load_model("virtual"), source, protocols=["mine"])


def test_a_folder_that_is_no_firmware_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"boot\.py: cannot be read: No such file"):
        build(load_model("virtual"), tmp_path)


def test_rows_lose_their_names_but_those_that_a_module_looks_for() -> None:
    source = (
        b'PING = 16\nVOTE = 48\n_REPORT = "height:u view:u"\nOPTIONS = "delay_ms:400:10:60000"\n'
        b'HEADER = "version:u kind:u"\n'
        b"MESSAGES = (\n    # probe:u\n"
        b'    (PING, "ping", "probe:u updates:[uuu]8"),\n    (\n        VOTE,\n        "vote",\n        "height:u"\n'
        b'        " value:b",\n    ),\n)\nEVENTS = ((99, "told", _REPORT), (98, "heard", "value_id:d"))\n'
        b'OPERATIONS = (\n    (1, "put"),\n)\nLAST = 7\n'
    )
    slimmed = slim(source, ("value",))
    ran: dict[str, object] = {}
    exec(slimmed, ran)
    assert ran["MESSAGES"] == ((16, "", ":u :[uuu]8"), (48, "", ":u value:b"))
    assert ran["EVENTS"] == ((99, "", ":u :u"), (98, "", ":d"))
    assert (ran["HEADER"], ran["OPTIONS"], ran["OPERATIONS"]) == (":u :u", "delay_ms:400:10:60000", ())
    assert slimmed.split(b"\n").index(b"LAST = 7") == source.split(b"\n").index(b"LAST = 7")
    exec(slim(source, (), range(16, 32)), ran)
    assert ran["MESSAGES"] == ((48, "", ":u :b"),)


def test_a_slim_schema_has_the_types_of_the_whole_one() -> None:
    source = (resources.firmware_package() / "core" / "schema.py").read_bytes()
    ran: dict[str, Any] = {}
    exec(slim(source), ran)
    for table in ("MESSAGES", "EVENTS"):
        whole = [
            (kind, [field.split(":")[1] for field in fields.split()]) for kind, _, fields in getattr(schema, table)
        ]
        assert whole == [(kind, [field.split(":")[1] for field in fields.split()]) for kind, _, fields in ran[table]]
    rest = {name: value for name, value in vars(schema).items() if isinstance(value, int)}
    assert rest == {name: ran[name] for name in rest}


def test_a_board_without_the_vote_does_not_know_its_messages() -> None:
    source = (resources.firmware_package() / "core" / "schema.py").read_bytes()
    ran: dict[str, Any] = {}
    exec(slim(source, (), SCHEMA_KINDS["vote"]), ran)
    kinds = {row[0] for row in (*ran["MESSAGES"], *ran["EVENTS"])}
    assert kinds.isdisjoint(SCHEMA_KINDS["vote"])
    assert {schema.PING, schema.RUMOUR, schema.COMMAND, schema.BOOT, schema.MERGED} <= kinds


def test_numbers_stand_where_they_are_used_and_their_names_only_where_somebody_asks() -> None:
    modules = {
        "brownout_node/core/schema.py": b'PING = 16\nALL = -1\nKEPT = 5\nEVENTS = ((PING, "ping", "probe:u"),)\n',
        "brownout_node/core/own.py": (
            b"from . import schema\nfrom .other import LEAST\nfrom .schema import KEPT\nTURN = 3\nCOUNT = 0\nMOST = 4\n"
            b"\ndef turn(to):\n    global COUNT\n    COUNT += 1\n"
            b"    return to - schema.ALL, TURN, schema.PING, LEAST, KEPT\n"
        ),
        "brownout_node/core/other.py": b"from . import own\nLEAST = 9\nMOST = 7\n\ndef most():\n    return own.MOST\n",
    }
    folded = slimmed(modules)
    assert folded["brownout_node/core/schema.py"] == b'\n\nKEPT = 5\nEVENTS = ((16, "", ":u"),)\n'
    own = folded["brownout_node/core/own.py"].decode()
    assert "return to - -1, 3, 16, LEAST, KEPT" in own
    assert "TURN = 3" not in own and "MOST = 4" in own and "COUNT += 1" in own
    assert folded["brownout_node/core/other.py"] == modules["brownout_node/core/other.py"]
    assert [text.count(b"\n") for text in folded.values()] == [text.count(b"\n") for text in modules.values()]


def test_what_runs_beside_the_modules_finds_its_numbers() -> None:
    modules = {"brownout_node/core/schema.py": b"PING = 16\nACK = 18\n"}
    assert slimmed(modules, [b"print(schema.ACK)"]) == {"brownout_node/core/schema.py": b"\nACK = 18\n"}


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_slim_module_names_nothing_that_is_gone(protocol: str) -> None:
    root = resources.firmware_package()
    texts = {f"brownout_node/{path.relative_to(root).as_posix()}": path.read_bytes() for path in root.rglob("*.py")}
    folded = slimmed(texts)
    gone = set(re.findall(rb"^([A-Z][A-Z0-9_]*) = ", texts[f"brownout_node/core/{protocol}.py"], re.M))
    own = folded[f"brownout_node/core/{protocol}.py"]
    gone -= set(re.findall(rb"^([A-Z][A-Z0-9_]*) = ", own, re.M))
    left = {node.id.encode() for node in ast.walk(ast.parse(own)) if isinstance(node, ast.Name)}
    assert not gone & left
    for text in folded.values():
        asked = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
        asked_of_schema = {
            node.attr for node in asked if isinstance(node.value, ast.Name) and node.value.id == "schema"
        }
        assert asked_of_schema <= {"MESSAGES", "EVENTS", "HEADER", "EVENT_HEADER", "BATCH"}
