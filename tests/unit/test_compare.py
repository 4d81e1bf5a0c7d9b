"""Runs in two groups: what was changed is found, and by how much, and nothing else is."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from brownout.cli import main
from brownout.history import Operation, Outcome
from eventful_runs import save
from history_builder import World


def made(base: Path, draw: random.Random, period_ms: int, put_ms: float) -> Path:
    world = World(3)
    world.boot()
    history = world.history(timing={"gossip_period_ms": period_ms})
    for request, (name, mean_ms) in enumerate([("put", put_ms), ("get", 30.0)] * 10, 1):
        began_ns = request * 10**9
        ended_ns = began_ns + int(draw.gauss(mean_ms, 2) * 1e6)
        done = Operation(1, 1000, request, name, "k", "v", None, "b1", began_ns, ended_ns, Outcome.OK, "v", "ok")
        history.operations.append(done)
    return save(history, base)


def test_what_was_changed_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(4)
    runs = [str(made(tmp_path, draw, period_ms, put_ms)) for period_ms, put_ms in [(100, 20.0), (200, 26.0)] * 6]
    assert main(["compare", *runs, "--by", "timing.gossip_period_ms", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["groups"] == {"100": 6, "200": 6}
    metrics = {metric["metric"]: metric for metric in document["metrics"]}
    put, get = metrics["operation_put_ms"], metrics["operation_get_ms"]
    assert put["moved"] and put["low"] <= 6 <= put["high"] and put["shift"] == pytest.approx(6, abs=1.5)
    assert not get["moved"] and get["low"] <= 0 <= get["high"]
    assert main(["compare", *runs, "--by", "timing.gossip_period_ms"]) == 0
    assert "operation_put_ms" in capsys.readouterr().out
    # Of three runs each nothing can be shown, however far apart they are.
    assert main(["compare", *runs[:6], "--by", "timing.gossip_period_ms", "--json"]) == 0
    assert not any(metric["moved"] for metric in json.loads(capsys.readouterr().out)["metrics"])


def test_keys_that_make_no_two_groups_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(made(tmp_path, random.Random(1), 100, 20.0)) for _ in range(2)]
    for key, said in (("timing.gossip_period_ms", "makes 1 groups"), ("timing.no", "no such key"), ("no", "no such")):
        assert main(["compare", *runs, "--by", key]) == 2
        assert said in capsys.readouterr().err
