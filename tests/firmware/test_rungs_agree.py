"""The rungs agree: what simulated boards were given on CPython gives the same bytes, step by step, on MicroPython.

Whole runs under faults are simulated and recorded (host/brownout/sim/transcript.py), then each board's inputs are given
to the same firmware under the interpreter of the boards (rungs_replay.py), which compares every output, every digest
and every flash operation. What is not the same must be told, with its step.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from brownout.campaign_file import load_campaign
from brownout.faults import plan
from brownout.rig import load_rig
from brownout.sim.explore import planned
from brownout.sim.runs import simulate
from brownout.sim.transcript import CUT, Recorder

REPLAY = Path(__file__).with_name("rungs_replay.py")
FIRMWARE = REPLAY.parent.parent.parent / "firmware"
RIG = load_rig("sim")


class Item(NamedTuple):
    at: int  # where its payload begins
    number: int
    steps: int  # so far, this one included
    tag: str
    payload: bytes


def items(data: bytes) -> Iterator[Item]:
    at = number = steps = 0
    while at < len(data):
        size = struct.unpack_from("<I", data, at + 1)[0]
        tag = chr(data[at])
        number += 1
        steps += tag == "Y"
        yield Item(at + 5, number, steps, tag, data[at + 5 : at + 5 + size])
        at += 5 + size


def recorded(name: str, seed: int, drawn: bool) -> dict[str, bytes]:
    """Board -> its transcript, of a shipped campaign as it is, or as the swarm draws it: short, in bad weather."""
    return recorded_run(name, seed, drawn)[0]


@cache
def recorded_run(name: str, seed: int, drawn: bool) -> tuple[dict[str, bytes], str]:
    recorder = Recorder()
    campaign = load_campaign(name)
    the_plan, weather = planned(campaign, RIG, seed) if drawn else (plan(campaign, RIG, seed), None)
    run = simulate(the_plan, RIG, weather=weather, parts=recorder.parts)
    return {name: bytes(transcript.items) for name, transcript in recorder.transcripts.items()}, run.trace_hash


Replay = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def replay(micropython: str, tmp_path: Path) -> Replay:
    """replay(transcripts) -> exit code and lines, under MicroPython or another interpreter, by that firmware."""

    def run(
        transcripts: dict[str, bytes], *, interpreter: tuple[str, ...] = (), firmware: Path = FIRMWARE
    ) -> tuple[int, list[str]]:
        for name, data in transcripts.items():
            (tmp_path / name).write_bytes(data)
        argv = [*(interpreter or (micropython, "-X", "heapsize=16m")), str(REPLAY), str(firmware), *transcripts]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.stdout, done.stderr
        return done.returncode, done.stdout.splitlines()

    return run


SHORT = ("torn-write", 3, True)
RUNS = [
    ("blackout", 1, False),
    ("split-brain", 2, False),
    SHORT,
    ("wiped-voter", 1, True),
    ("breaker", 1, True),
    ("lifeguard", 1, True),
    ("hand-over", 2, True),
]


@pytest.mark.parametrize(("name", "seed", "drawn"), RUNS, ids=[row[0] for row in RUNS])
def test_both_interpreters_make_the_same_of_a_run(name: str, seed: int, drawn: bool, replay: Replay) -> None:
    transcripts = recorded(name, seed, drawn)
    code, lines = replay(transcripts)
    assert [line for line in lines if " same: " not in line] == []
    assert code == 0 and len(lines) == len(transcripts)
    for line, data in zip(lines, transcripts.values(), strict=True):
        tags = [item.tag for item in items(data)]
        assert f"{len(tags)} items, {tags.count('Y')} steps, " in line
        assert f"{tags.count('A')} appends" in line and tags.count("A") > 20
    assert sum(tag == "R" for data in transcripts.values() for tag in (item.tag for item in items(data))) > 1000


def test_the_runs_met_what_boards_can_meet() -> None:
    """Else that they agree would say less than it seems to."""
    tags: set[str] = set()
    boots = cuts = 0
    for run in RUNS:
        for data in recorded(*run).values():
            found = list(items(data))
            tags |= {item.tag for item in found}
            boots += sum(item.tag == "B" for item in found)
            cuts += sum(item.tag == "P" and item.payload[20:21] == CUT for item in found)
    assert tags >= set("COAMBHRTEYPZW")
    assert boots > 30 and cuts > 0


def test_recording_changes_nothing() -> None:
    name, seed, _ = SHORT
    the_plan, weather = planned(load_campaign(name), RIG, seed)
    assert simulate(the_plan, RIG, weather=weather).trace_hash == recorded_run(*SHORT)[1]


# What is not the same is told, with its step.


def flipped(name: str, data: bytes, item: Item, offset: int) -> dict[str, bytes]:
    bent = bytearray(data)
    bent[item.at + offset] ^= 1
    return {name: bytes(bent)}


@pytest.fixture(scope="module")
def board() -> tuple[str, bytes, list[Item]]:
    """A board of a short run, its transcript, and that in items."""
    name, data = next(iter(recorded(*SHORT).items()))
    return name, data, list(items(data))


def test_one_flipped_bit_of_an_input_is_told_with_its_step(
    board: tuple[str, bytes, list[Item]], replay: Replay
) -> None:
    name, data, found = board
    heard = [item for item in found if item.tag == "R"]
    for item in (heard[len(heard) // 3], heard[-len(heard) // 3]):
        step = item.steps + 1
        now_ms, source = struct.unpack_from("<qi", item.payload)
        bent = flipped(name, data, item, 13)  # the first byte of the message tells that it is one of ours
        for interpreter in ((), (sys.executable,)):
            code, lines = replay(bent, interpreter=interpreter)
            assert code == 1
            assert lines[0].startswith(f"{name} differs: item ") and f", step {step}, after a " in lines[0], lines
            assert "the output differs" in lines[0]
            assert str(now_ms) in lines[0] or str(source) in lines[0]


@pytest.mark.parametrize(("tag", "offset", "told"), [("Y", 0, "the output differs"), ("P", 12, "a program of ")])
def test_one_flipped_bit_of_an_output_is_told_with_its_step(
    tag: str, offset: int, told: str, board: tuple[str, bytes, list[Item]], replay: Replay
) -> None:
    name, data, found = board
    outputs = [item for item in found if item.tag == tag]
    item = outputs[len(outputs) // 2]
    code, lines = replay(flipped(name, data, item, offset))
    assert code == 1
    assert lines[0].startswith(f"{name} differs: item {item.number}, step {item.steps}, after ")
    assert told in lines[0]


def test_what_was_done_and_not_recorded_is_told(board: tuple[str, bytes, list[Item]], replay: Replay) -> None:
    name, data, found = board
    appends = [item for item in found if item.tag == "A"]
    item = appends[len(appends) // 2]
    code, lines = replay({name: data[: item.at - 5] + data[item.at :]})
    assert code == 1
    assert lines[0].startswith(f"{name} differs: item {item.number}, step {item.steps}, after ")
    assert lines[0].endswith("the recording has P, which did not happen")


def test_firmware_that_does_something_else_is_told(
    board: tuple[str, bytes, list[Item]], replay: Replay, tmp_path: Path
) -> None:
    mutant = tomllib.loads((FIRMWARE.parent / "tests" / "mutants" / "votes-sent-once.toml").read_text(encoding="utf-8"))
    other = tmp_path / "firmware"
    shutil.copytree(FIRMWARE, other, ignore=shutil.ignore_patterns("__pycache__"))
    file = other / "brownout_node" / mutant["file"]
    source = file.read_text(encoding="utf-8")
    assert source.count(mutant["old"]) == 1
    file.write_text(source.replace(mutant["old"], mutant["new"]), encoding="utf-8")
    name, data, _ = board
    code, lines = replay({name: data}, firmware=other)
    assert code == 1 and "the output differs" in lines[0]
    assert replay({name: data})[0] == 0
