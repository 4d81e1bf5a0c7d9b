"""Recorded runs are replayed: the same where nothing else happened, and told with board and step where it did."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from brownout import campaign
from brownout.campaign_file import load_campaign
from brownout.cli import main
from brownout.contracts import UsageError
from brownout.faults import plan
from brownout.replay import recording, stream, tap, verdict
from brownout.replay.engine import BootResult, Replay
from brownout.replay.explain import explain
from brownout.replay.follow import Follower, changed
from brownout.rig import load_rig
from brownout.session import Session
from brownout.sim.bed import SimBed
from brownout.sim.transcript import Parts
from brownout.store import RunFolder
from brownout_node.core import recorder
from hypothesis import given, settings
from hypothesis import strategies as st

RIG = load_rig("sim")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every board loses power twice."""
    return campaign.run(load_campaign("blackout"), RIG, 1, tmp_path_factory.mktemp("runs")).folder


def simulated(folder: Path, name: str, node: Callable[..., Any]) -> Path:
    """A recorded run whose boards have that node instead of tap.RecordedSimNode."""
    the_plan = plan(load_campaign(name), RIG, 1)
    run = RunFolder.create(folder, name, 1)
    run.write_plan(the_plan.to_document())
    flight = tap.FlightRecord(run.path, lambda: 0, by_events=False)

    def parts(document: Mapping[str, Any]) -> Parts:
        flight.board(document)
        return Parts(node=lambda config, journal, about, entropy: node(flight, config, journal, about, entropy))

    assert RIG.simulated is not None
    Session(the_plan, RIG, run, SimBed(RIG.simulated, the_plan, RIG, parts=parts)).run()
    flight.close()
    return run.path


def named(node: recorder.RecordedNode) -> dict[str, Any]:
    return {getattr(target, "name", "clock"): target for target in node.targets()}


def replayed(folder: Path) -> list[BootResult]:
    return Replay(recording.read(folder)).run()


def copied(run: Path, folder: Path) -> Path:
    """The same run, to be changed."""
    for file in [*run.glob("*.*"), *run.glob("flight/*")]:
        (folder / file.relative_to(run)).parent.mkdir(exist_ok=True)
        (folder / file.relative_to(run)).write_bytes(file.read_bytes())
    return folder


# The same.


def test_a_run_with_power_cuts_is_faithful_to_the_last_record_of_each_boot(run: Path) -> None:
    read = recording.read(run)
    replay = Replay(read)
    results = replay.run()
    assert len(results) == 15 and {result.board for result in results} == {"b1", "b2", "b3", "b4", "b5"}
    for result in results:
        assert (result.difference, result.why) == (None, None)
        assert result.replayed == result.steps > 100
        assert result.inputs > result.steps
        assert 0 <= result.last_ms - result.recorded_ms < 600, "the recorder waits no longer than a quarter second"
    document = verdict.document(read, replay, results)
    assert document["replay"] == "faithful" and document["violated"] == []
    made = sum(len(events) for board in replay.boards.values() for events in board.made.values())
    assert made > 0.9 * len(read.history.events) > 1000
    size = sum(len(boot.stream) for board in read.boards.values() for boot in board.boots)
    assert size / document["inputs"] <= 10


def test_the_command_says_so_and_its_document_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(run), "--own-firmware"]) == 0
    told = capsys.readouterr().out
    assert "faithful: " in told and "on 5 boards" in told
    assert main(["replay", str(run), "--own-firmware", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["steps"] == document["replayed"] > 3000
    assert f"faithful: {document['replayed']} of {document['steps']} steps" in told


# Not the same.


@pytest.mark.parametrize(
    ("protocol", "field"), [("register", "floor"), ("gossip", "_mix"), ("membership", "_number"), ("clock", "_base_ms")]
)
def test_a_bit_that_flips_in_ram_is_found_with_board_and_step(protocol: str, field: str, tmp_path: Path) -> None:
    class Flipping(tap.RecordedSimNode):
        """Its board 3 is hit in its second boot, between two ticks."""

        def tick(self, now_ms: int) -> None:
            if (self.board, self.boot) == (3, 2) and now_ms >= 500 and not getattr(Flipping, "hit", False):
                Flipping.hit = True  # type: ignore[attr-defined]
                target = {**named(self), "register": self.protocol("vote").register}[protocol]
                setattr(target, field, getattr(target, field) ^ 4)
            super().tick(now_ms)

    folder = simulated(tmp_path, "blackout", Flipping)
    read = recording.read(folder)
    results = Replay(read).run()
    explain(read, results)
    found = [result.difference for result in results if result.difference is not None]
    assert {difference.board for difference in found} == {"b3"}
    first = min(found, key=lambda difference: difference.step)
    assert first.boot == 2
    before = next(result.steps for result in results if (result.board, result.boot) == ("b3", 1))
    record = read.boards["b3"].boots[1]
    hit = next(number for number, entries in enumerate(record.steps) if entries[-1].now_ms >= 500) + before + 1
    assert hit <= first.step and first.since < first.step
    assert first.what == "what was stored and sent" or first.since <= hit
    assert first.recorded != first.replayed
    if (protocol, field) in (("register", "floor"), ("gossip", "_mix")):  # nothing else has come of it by the next look
        assert first.found is not None and f"{field} was " in first.found
    assert any(name.endswith(field) for fields in first.state.values() for name in fields)
    assert first.now_ms < 500 + 4 * 8 * 50 + 300


def test_a_write_that_was_acknowledged_and_lost_is_told_at_the_next_boot(tmp_path: Path) -> None:
    class Forgetful(tap.RecordedSimNode):
        """Board 3 finds another value of one key whenever it boots again."""

        def __init__(self, flight: Any, config: Any, stored: Any, about: Any, entropy: int) -> None:
            if config.board == 3 and len(stored.keys(0, 1 << 28)) > 20:
                stored.lied = True
            super().__init__(flight, config, stored, about, entropy)

        def snapshot(self, stored: Any, entropy: int) -> bytearray:
            if not hasattr(stored, "lied"):
                return super().snapshot(stored, entropy)
            get, recent = stored.get, stored.recent
            stored.recent = lambda pages: [key for key in recent(pages) if key != 18]
            stored.get = lambda key: b"old" if key == 18 else get(key)
            told = super().snapshot(stored, entropy)
            del stored.get, stored.recent
            return told

    results = [result for result in replayed(simulated(tmp_path, "blackout", Forgetful)) if result.board == "b3"]
    assert results[1].why is not None and "stored state at boot is not what the life before left" in results[1].why
    assert results[1].replayed == 0 and results[0].replayed == results[0].steps


def test_what_did_not_arrive_is_unknown_and_not_faithful(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(run, tmp_path)
    records = list(tap.read_tap(run))
    pieces = [index for index, record in enumerate(records) if record.kind == tap.PIECE and record.board == 2]
    gone = pieces[len(pieces) // 2]
    rewrite(folder, [record for index, record in enumerate(records) if index != gone])
    results = replayed(folder)
    assert [result.board for result in results if result.why is not None] == ["b2"]
    assert main(["replay", str(folder), "--own-firmware"]) == 3
    told = capsys.readouterr().out
    assert "pieces of its recording are missing" in told and "unknown" in told


def test_a_message_that_nobody_kept_is_told_unless_its_sender_makes_it_again(run: Path, tmp_path: Path) -> None:
    records = list(tap.read_tap(run))
    early = [
        record for record in records if record.kind == tap.MESSAGE and record.board and record.at_ns < 1_500_000_000
    ]
    assert len(early) > 500
    rewrite(copied(run, tmp_path), [record for record in records if record not in early])
    assert {(result.difference, result.why) for result in replayed(tmp_path)} == {(None, None)}
    hosts = [record for record in records if record.kind == tap.MESSAGE and record.board == 0]
    rewrite(tmp_path, [record for record in records if record is not hosts[len(hosts) // 2]])
    left = [result.why for result in replayed(tmp_path) if result.why is not None]
    assert len(left) == 1 and "did not pass the tap" in left[0]


def rewrite(folder: Path, records: list[tap.Record]) -> None:
    (folder / "flight" / tap.TAP).unlink()
    flight = tap.FlightRecord(folder, lambda: 0, by_events=False)
    for record in records:
        if record.kind == tap.MESSAGE:
            flight.message(record.board, record.data)
        else:
            flight.piece(record.board, *tap.piece_of(record))
    flight.close()


def test_a_torn_tap_gives_what_is_whole(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path)
    file = folder / "flight" / tap.TAP
    whole = len(list(tap.read_tap(run)))
    raw = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(raw)[:-2000])
    assert 0 < len(list(tap.read_tap(folder))) < whole


def test_a_run_without_a_recording_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path)]) == 2
    assert "only runs that were recorded can be replayed" in capsys.readouterr().err
    assert main(["replay", str(run), "--own-firmware", "--until", "3s"]) == 2
    assert main(["replay", str(run), "--own-firmware", "--board", "b9"]) == 2
    with pytest.raises(UsageError, match="b9"):
        Follower(recording.read(run), "b9")


# Following one board.


def test_following_a_board_to_a_time_to_a_change_and_back(run: Path) -> None:
    follower = Follower(recording.read(run), "b3")
    assert follower.until(5.5) and follower.at_s is not None and 5.4 < follower.at_s <= 5.5
    step, state = follower.step, follower.state()
    assert follower.forward() and follower.back()
    assert (follower.step, follower.state()) == (step, state)
    assert follower.until_change("'decided' in events")
    assert follower.step > step and "decided" in follower.names()["events"]
    height = follower.names()["vote"].register.next_height
    assert follower.until_change("vote.register.next_height")
    assert follower.names()["vote"].register.next_height == height + 1
    assert not follower.until_change("vote.register.next_height < 0")


def test_the_command_follows_a_board(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(run), "--own-firmware", "--board", "b3", "--break", "vote.locked", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["reached"] and document["state"]["vote"]["locked"] is not None
    assert main(["replay", str(run), "--own-firmware", "--board", "b3", "--break", "vote.locked == 5"]) == 3
    assert main(["replay", str(run), "--own-firmware", "--board", "b3", "--break", "vote.nothing"]) == 2
    assert "there are: membership, gossip, vote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "value", "stops"), [(False, True, True), (True, False, False), (None, b"x", True), (1, 1, False)]
)
def test_what_counts_as_a_change(before: Any, value: Any, stops: bool) -> None:
    assert changed(before, value) is stops


# The bytes.


@given(st.binary(max_size=60))
@settings(max_examples=60)
def test_no_bytes_stop_the_parser(data: bytes) -> None:
    for entries in stream.parse(data):
        assert all(entry.end <= len(data) for entry in entries)


@given(st.lists(st.integers(0, 1 << 40), max_size=4))
@settings(max_examples=30)
def test_numbers_come_back(numbers: list[int]) -> None:
    out = bytearray()
    for number in numbers:
        recorder.put_number(out, number)
    reader = stream._Bytes(bytes(out))
    assert [reader.number() for _ in numbers] == numbers


def test_state_is_folded_whole_and_functions_do_not_count() -> None:
    class Part:
        pass

    def part(**fields: Any) -> Any:
        made = Part()
        vars(made).update(fields)
        return made

    base = part(a=1, b={2: b"x", 1: [None, "y"]}, c=part(d=True))
    seen = {recorder.fold(base, 0, [])}
    for other in (
        part(a=2, b={2: b"x", 1: [None, "y"]}, c=part(d=True)),
        part(a=1, b={2: b"z", 1: [None, "y"]}, c=part(d=True)),
        part(a=1, b={2: b"x", 1: [None, "y"]}, c=part(d=False)),
        part(a=1, b={2: b"x", 1: ["y", None]}, c=part(d=True)),
    ):
        crc = recorder.fold(other, 0, [])
        assert crc not in seen
        seen.add(crc)
    base.a = 1
    assert recorder.fold(base, 0, []) == recorder.fold(part(c=base.c, b={1: [None, "y"], 2: b"x"}, a=1), 0, [])
    assert recorder.fold(len, 7, []) == 7
