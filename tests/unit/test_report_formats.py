"""The report as JSON, Markdown and JUnit XML says what the verdict says."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from brownout.checkers import check_run
from brownout.cli import main
from eventful_runs import eventful, save
from history_builder import is_event


@pytest.mark.parametrize("broken", [False, True])
def test_every_format_tells_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: bool) -> None:
    world = eventful(operations=60)
    if broken:
        world.change(is_event("b4", "decided", height=20), value_id="f" * 16)
    run = save(world.history(), tmp_path)
    verdict = check_run(run)
    assert (verdict["verdict"] == "invalid") == broken
    texts = {}
    for form in ("json", "md", "junit"):
        assert main(["report", str(run), "--format", form]) == 0
        texts[form] = capsys.readouterr().out

    document = json.loads(texts["json"])
    assert document["checks"] == verdict["checks"]
    assert document["analysis"]["metrics"]["prevote_to_precommit_ms"]["count"] > 10

    assert texts["md"].startswith(f"# {run.name}: {verdict['verdict']}\n")
    assert ("**agreement: invalid.**" in texts["md"]) == broken
    assert "| prevote_to_precommit_ms | " in texts["md"]

    suite = ElementTree.fromstring(texts["junit"].encode())
    told = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}
    tags = {"valid": [], "invalid": ["failure"], "unknown": ["error"]}
    assert told == {check["name"]: tags[check["verdict"]] for check in verdict["checks"]}
    assert int(suite.get("failures", "")) == sum(tag == ["failure"] for tag in told.values())


def test_a_run_that_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("json", "md", "junit"):
        assert main(["report", str(tmp_path), "--format", form]) == 2
        assert "not the folder of a run" in capsys.readouterr().err
