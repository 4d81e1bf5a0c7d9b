"""The generated pages in docs/reference are what their sources say today."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def reference(root: Path) -> ModuleType:
    """tools/reference.py as a module; the tools are no package."""
    spec = importlib.util.spec_from_file_location("reference", root / "tools" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_up_to_date(reference: ModuleType) -> None:
    assert reference.drift() == []


def test_every_row_of_the_schema_is_on_its_page(reference: ModuleType, root: Path) -> None:
    from brownout import protocols

    page = (root / "docs" / "reference" / "schema.md").read_text(encoding="utf-8")
    for number, name, fields in (*protocols.MESSAGES.values(), *protocols.EVENTS.values()):
        assert f"| {number} | `{name}` | `{fields}`".replace("|", "|") in page


def test_an_unknown_argument_is_a_usage_error(reference: ModuleType) -> None:
    assert reference.main(["--chek"]) == 2
