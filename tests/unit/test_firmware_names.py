"""Short names change what a board keeps on its heap, and nothing that it does."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from brownout import firmware_build, resources
from brownout.firmware_names import shortened
from brownout.rig import load_model

SCENARIOS = Path(__file__).resolve().parents[1] / "firmware"
FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
RUNS = [
    ("suite_scenario.py", "mirror", "1"),
    ("suite_scenario.py", "byzantine", "1"),
    ("suite_scenario.py", "stake", "1"),
    ("suite_scenario.py", "commit-non-blocking", "1"),
    ("suite_scenario.py", "work", "1"),
    ("suite_scenario.py", "sampling", "1"),
    ("vote_scenario.py", "3"),
    ("gossip_scenario.py", "2"),
]


def modules() -> dict[str, bytes]:
    package = resources.firmware_package()
    return {
        firmware_build._name(package, path): path.read_bytes()
        for path in firmware_build._modules(package, load_model("virtual"))
    }


@pytest.fixture(scope="module")
def before() -> dict[str, bytes]:
    return modules()


@pytest.fixture(scope="module")
def after(before: dict[str, bytes]) -> dict[str, bytes]:
    return shortened(before, [(resources.firmware_directory() / name).read_bytes() for name in firmware_build.ENTRY])


@pytest.fixture(scope="module")
def short_firmware(after: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("short")
    for name, text in after.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text)
    return folder


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run[1] if run[0].startswith("suite") else run[0])
def test_boards_with_short_names_do_the_same(run: tuple[str, ...], short_firmware: Path) -> None:
    def output(firmware: Path) -> str:
        command = [sys.executable, str(SCENARIOS / run[0]), str(firmware), *run[1:]]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
        return done.stdout

    plain = output(FIRMWARE)
    assert plain and output(short_firmware) == plain


def test_lines_keep_their_numbers_and_many_names_go(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    assert after.keys() == before.keys()
    for name, text in after.items():
        assert text.count(b"\n") == before[name].count(b"\n"), name
        assert _places(text) == _places(before[name]), name
    names = {name for text in before.values() for name in _names(text)}
    left = {name for text in after.values() for name in _names(text)}
    assert len(left) < 0.8 * len(names)


def test_an_objects_fields_stay_in_order(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    shorter = 0
    for name, text in before.items():
        pairs = sorted(set(zip(_fields(text), _fields(after[name]), strict=True)))
        short = [new for _, new in pairs]
        assert short == sorted(set(short)), name
        shorter += sum(len(new) < len(old) for old, new in pairs)
    assert shorter > 400


def _fields(text: bytes) -> list[str]:
    """What objects of the module call their own, as often as they do."""
    return [
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    ]


def _places(text: bytes) -> list[tuple[int, type]]:
    return [(node.lineno, type(node)) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]


def _names(text: bytes) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        found |= {
            str(getattr(node, key)) for key in ("arg", "attr", "name") if isinstance(getattr(node, key, None), str)
        }
    return found


BASE = b"""
_SIZE = const(4)
_TABLE = {}

class Base:
    kind = 3

    def __init__(self, weight, stored=None):
        self._weight = weight
        self._seen = stored
        self.total = weight

    def _double(self, factor):
        return self._weight * factor

    def told(self, factor):
        try:
            return self._double(factor) + _helper(factor)
        except ValueError as error:
            return str(error)

def _helper(number, step=1):
    return number + step + _SIZE

def named(**others):
    return others

def shown(board):
    return _helper(1, step=board) + named(weight=1)["weight"]
"""
DERIVED = b"""
from .base import Base, shown

class Derived(Base):
    def __init__(self, weight):
        super().__init__(weight, stored=7)
        self._extra = weight + 1
        self._pairs = [(left, right) for left, right in ((weight, 2),)]

    def _double(self, amount):
        return self._extra * amount

    def reached(self):
        return getattr(self, "_seen"), self._pairs, shown(2)
"""


def run(texts: dict[str, bytes]) -> dict[str, Any]:
    base: dict[str, Any] = {"const": int}
    exec(texts["p/base.py"], base)
    derived: dict[str, Any] = {"Base": base["Base"], "shown": base["shown"]}
    exec(texts["p/derived.py"].replace(b"from .base import Base, shown", b""), derived)
    one = derived["Derived"](5)
    return {"told": one.told(3), "reached": one.reached(), "total": one.total, "fields": len(vars(one))}


def test_what_others_may_know_keeps_its_name() -> None:
    before = {"p/base.py": BASE, "p/derived.py": DERIVED}
    after = shortened(before)
    assert run(after) == run(before)
    base, derived = after["p/base.py"].decode(), after["p/derived.py"].decode()
    for kept in (
        "stored=None",
        "weight",
        "step=",
        "_seen",
        "error",
        "kind = 3",
        "_SIZE = const(4)",
        "def told(",
        "named(",
    ):
        assert kept in base, kept
    for gone in ("_weight", "factor", "number", "_helper", "_double", "_TABLE"):
        assert gone not in base, gone
    for gone in ("_extra", "_pairs", "amount", "_double"):
        assert gone not in derived, gone
    assert "left" in derived, "it is no argument"


def test_objects_of_a_derived_class_have_both_ones_names() -> None:
    fields = run({"p/base.py": BASE, "p/derived.py": DERIVED})["fields"]
    assert run(shortened({"p/base.py": BASE, "p/derived.py": DERIVED}))["fields"] == fields == 5


def test_where_arguments_come_from_a_table_nothing_is_renamed() -> None:
    text = b"def f(weight):\n    return weight\n\nprint(f(**{'weight': 1}))\n"
    assert shortened({"p/base.py": text}) == {"p/base.py": text}


def test_what_does_not_parse_is_left_to_the_compiler() -> None:
    assert shortened({"p/base.py": b"def f(:"}) == {"p/base.py": b"def f(:"}
