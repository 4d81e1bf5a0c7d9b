"""The report: one file that fetches nothing, says what the verdict says, and survives whatever a folder lacks."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from brownout.checkers import check_run
from brownout.history import FaultStage
from brownout.report import write_report
from brownout.report.page import brief
from brownout.report.svg import Scale, nice_step, ticks_path
from eventful_runs import eventful, save
from history_builder import World, is_event

VOID = {"meta", "br", "input", "img", "link", "hr"}


class Page(HTMLParser):
    """Checks that tags close in order; collects text and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "action", "data") and value:
                self.addresses.append(value)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data + " "


def page(folder: Path) -> tuple[Page, str]:
    text = write_report(folder).read_text(encoding="utf-8")
    return Page(text), text


def test_a_valid_run(tmp_path: Path) -> None:
    folder = save(eventful(operations=60).history(), tmp_path)
    check_run(folder)
    parsed, text = page(folder)
    assert "Every check passed" in parsed.text
    assert "micropython 1.24.1" in parsed.text and "all 2 as flashed" in parsed.text
    assert "through Fabric, over SSH" in parsed.text
    assert "finding-" not in text
    assert parsed.addresses == [] and "url(" not in text and "@import" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_the_evidence_of_an_invalid_run_comes_first(tmp_path: Path) -> None:
    world = eventful(operations=60)
    world.change(is_event("b4", "decided", height=20), value_id="f" * 16)
    folder = save(world.history(), tmp_path)
    check_run(folder)
    parsed, text = page(folder)
    assert text.index('id="finding-agreement"') < text.index('id="checks"') < text.index('id="timeline"')
    assert "height 20 was decided differently" in parsed.text
    assert 'class="ring"' in text


def test_a_fault_that_was_not_proven_is_said_so(tmp_path: Path) -> None:
    world = eventful(operations=60)
    world.faults = [record for record in world.faults if record.id != "f01" or record.stage is not FaultStage.PROVEN]
    world.fault("f01", "cut", "unproven", "b2", on=True)
    parsed, _ = page(save(world.history(), tmp_path))
    assert "not proven" in parsed.text and "unknown" in parsed.text


@pytest.mark.parametrize("finished", [True, False])
def test_an_empty_run_still_has_a_report(tmp_path: Path, finished: bool) -> None:
    parsed, _ = page(save(World(3).history(), tmp_path, finished=finished))
    assert "No client operation was recorded" in parsed.text and "No fault was planned" in parsed.text
    bare = save(World(3).history(), tmp_path / "bare", finished=finished)
    (bare / "manifest.json").write_text("{}")
    page(bare)


def test_what_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    world = eventful(operations=60)
    world.change(is_event("b4", "decided", height=20), value_id="<script>alert(1)</script>")
    world.manifest["campaign"] = 'a"><img src=x onerror=1>'
    world.manifest["rig"] = "</style><b>"
    history = world.history()
    folder = save(history, tmp_path)
    parsed, text = page(folder)
    assert "<script>alert" not in text and "<img" not in text and "</style><b>" not in text
    assert "alert(1)" in parsed.text


def test_fifty_boards_and_many_events_stay_small(tmp_path: Path) -> None:
    world = eventful(7, 43, operations=30)
    for number in range(100_000):
        world.tell(f"b{number % 50 + 1}", "connected", transport="mqtt")
    folder = save(world.history(), tmp_path)
    parsed, text = page(folder)
    assert len(text) < 1_000_000
    assert parsed.text.count("learner") >= 43


def test_marks_fall_onto_pixels() -> None:
    assert str(ticks_path([1.1, 1.2, 2.6], 0, 5, "x")) == '<path d="M1 0v5M3 0v5" class="x"/>'
    assert str(ticks_path([], 0, 5, "x")) == ""


def test_scales() -> None:
    assert [nice_step(span, 10) for span in (1, 10, 12, 60, 0)] == [0.1, 1, 2, 10, 1]
    assert Scale(0, 10, 0, 100)(5) == 50 and Scale(0, 10, 0, 100)(99) == 100 and Scale(3, 3, 7, 9)(3) == 7
    assert Scale(1, 100, 0, 100, True)(10) == 50
    assert Scale(1, 20, 0, 1, True).ticks() == [1, 2, 5, 10, 20]
    assert Scale(0, 1, 0, 1).ticks(4) == [0, 0.5, 1.0]


def test_values_are_brief() -> None:
    assert brief({"on": False, "pid": None, "list": [1, 2.50]}) == "on: no, pid: null, list: 1, 2.5"
    assert brief({}) == "–"
