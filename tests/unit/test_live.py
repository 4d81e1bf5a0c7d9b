"""A run as it happens: what is read of a folder that grows, what those who look on are told, and who may switch."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import random
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from brownout.cli import main
from brownout.contracts import UsageError
from brownout.fault_kinds import KINDS as FAULT_KINDS
from brownout.history import FaultStage
from brownout.live import guard, metrics
from brownout.live.clients import Client
from brownout.live.curves import Curves
from brownout.live.follow import Follower, Tail
from brownout.live.library import Library
from brownout.live.picture import Picture
from brownout.live.terminal import watch
from brownout.protocols import EVENTS
from eventful_runs import eventful, save
from history_builder import World, is_event
from live_runs import LiveRun, merge
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console


def plain(picture: Picture) -> dict[str, Any]:
    """A copy, as a client has it."""
    return json.loads(json.dumps(picture.snapshot()))


def read(folder: Path) -> Follower:
    follower = Follower(folder)
    while follower.step():
        pass
    follower.step()
    return follower


def messages(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events, decoded."""
    found = []
    for block in data.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


# Reading.


def test_lines_are_read_whole_while_a_file_grows_and_after_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert tail.lines() == ([], False)
    with path.open("ab", buffering=0) as file:
        file.write(b'{"a": 1}\n{"a":')
        assert tail.lines() == ([{"a": 1}], False)
        file.write(b" 2")
        assert tail.lines() == ([], False)
        path.unlink()
        file.write(b"}\nnot json\n[1]\n")
        assert tail.lines() == ([{"a": 2}], False)
    assert tail.torn == 1
    tail.close()


def test_the_picture_of_a_past_run_agrees_with_its_record(tmp_path: Path) -> None:
    world = eventful(operations=80)
    history = world.history()
    follower = read(save(history, tmp_path))
    picture = follower.picture
    heights = {event.fields["height"] for event in history.events if event.kind == "decided"}
    assert picture.totals["decisions"] == len(heights)
    assert picture.totals["received"] == len(history.events) and picture.totals["missing"] == 0
    assert picture.totals["operations"] == len(history.operations)
    assert picture.totals["ok"] == sum(item.outcome == "ok" for item in history.operations)
    assert picture.totals["conflicts"] == 0
    assert sum(point["decisions"] for point in picture.curves.points.values()) == len(heights)
    assert {number: fault["stage"] for number, fault in picture.faults.items()} == {
        number: [record.stage for record in history.faults if record.id == number][-1]
        for number in {record.id for record in history.faults}
    }
    for name in world.names():
        boots = [event for event in history.events if event.board == name and event.kind == "boot"]
        assert picture.boards[name]["boot"] == boots[-1].boot and picture.boards[name]["state"] == "up"


def test_what_a_client_merges_is_what_a_fresh_one_is_given(tmp_path: Path) -> None:
    """Whatever the pieces in which a run is read."""
    world = eventful(operations=60)
    run = LiveRun(tmp_path, world)
    history, draw = world.history(), random.Random(3)
    follower = Follower(run.path)
    follower.step()
    follower.picture.changes()
    told = plain(follower.picture)
    events, faults = list(history.events), list(history.faults)
    events.sort(key=lambda event: event.received_ns)
    while events or faults:
        count = draw.randrange(1, 40)
        run.folder.append_events(events[:count])
        del events[:count]
        if faults:
            run.folder.append_fault(faults.pop(0))
        client = Client(asyncio.new_event_loop())
        follower.join(client)
        follower.step()
        for _name, change in messages(b"".join(client._waiting)):
            merge(told, copy.deepcopy(change))
        follower.leave(client)
        client._loop.close()
    fresh = plain(follower.picture)
    for name in ("boards", "faults", "heights", "links", "digests", "lines", "curves", "conflicts", "run"):
        assert told[name] == fresh[name], name
    follower.close()


def test_a_board_without_power_is_shown_so_until_it_boots(tmp_path: Path) -> None:
    world = World(3)
    world.boot()
    run = LiveRun(tmp_path, world)
    run.receive(world.events)
    follower = read(run.path)
    state = lambda: follower.picture.boards["b2"]["state"]  # noqa: E731
    assert state() == "up"
    for stage in ("planned", "applied"):
        world.fault("f01", "cut", stage, "b2")
        run.folder.append_fault(world.faults[-1])
        follower.step()
        assert state() == ("off" if stage == "applied" else "up")
    told = len(world.events)
    world.boot("b2")
    run.folder.append_events(world.events[told:])
    follower.step()
    assert state() == "up" and follower.picture.boards["b2"]["boot"] == 2
    follower.close()
    # Read afterwards, faults and events come in another order.
    assert read(run.path).picture.boards["b2"]["state"] == "up"


def test_cut_links_are_shown_by_pair(tmp_path: Path) -> None:
    world = World(3)
    world.boot()
    entry = {"id": "f01", "kind": "isolate", "at_s": 1.0, "for_s": 1.0, "boards": ["b2"], "select": None, "when": None}
    run = LiveRun(tmp_path, world, plan={"faults": [{**entry, "parameters": {}}], "duration_s": 5.0})
    run.receive(world.events)
    follower = read(run.path)
    assert follower.picture.faults["f01"]["stage"] == "to come" and follower.picture.links == []
    for stage in ("planned", "applied"):
        world.fault("f01", "isolate", stage, "b2")
        run.folder.append_fault(world.faults[-1])
    follower.step()
    pairs = {(link["from"], link["to"]) for link in follower.picture.links}
    others = ("b1", "b3", "host")
    assert pairs == {("b2", other) for other in others} | {(other, "b2") for other in others}
    world.fault("f01", "isolate", "healed", "b2")
    run.folder.append_fault(world.faults[-1])
    follower.step()
    assert follower.picture.links == [] and follower.picture.faults["f01"]["stage"] == "healed"
    follower.close()


VALUES = {"u": 1, "i": 0, "o": True, "k": "gossip", "t": "text", "v": None, "d": "ab" * 8, "b": "00"}


def test_every_event_and_every_fault_finds_its_place() -> None:
    """Those of all protocols, and faults whose plan says nothing of links between boards."""
    picture = Picture("all")
    for sequence, (_number, name, spec) in enumerate(EVENTS.values(), 1):
        columns = (column.partition(":") for column in spec.split())
        fields = {column: VALUES[kind] for column, _, kind in columns}
        header = {"board": "b1", "boot": 1, "sequence": sequence, "now_ms": 1, "stamp": 1, "received_ns": 10**9}
        picture.event({**header, "kind": name, "fields": fields, "channel": "serial"})
    assert picture.totals["received"] == len(EVENTS) > 30
    picture.plan({"faults": [{"id": kind, "kind": kind, "at_s": 1.0} for kind in FAULT_KINDS]})
    for kind in FAULT_KINDS:
        for stage in FaultStage:
            record = {"id": kind, "kind": kind, "stage": stage, "at_ns": 10**9, "planned_ns": 0, "boards": ["b1"]}
            picture.fault({**record, "support": "physical", "evidence": {}})
    assert {fault["stage"] for fault in picture.faults.values()} == {"healed"}


def test_two_decisions_of_one_height_and_missing_events_are_seen(tmp_path: Path) -> None:
    world = eventful(operations=60)
    world.change(is_event("b4", "decided", height=20), value_id="f" * 16)
    history = world.history()
    history.events.remove(next(event for event in history.events if event.board == "b1" and event.sequence == 9))
    picture = read(save(history, tmp_path)).picture
    assert picture.totals["conflicts"] == 1 and picture.totals["missing"] == 1
    (conflict,) = picture.conflicts
    assert conflict["who"] == "b4" and "height 20" in conflict["text"]


def test_the_newest_event_is_told_once(tmp_path: Path) -> None:
    """A page takes its delay by it; told again with what clients do meanwhile, it would count as late."""
    world = World(3)
    world.boot()
    world.operate("put", "k1", "v1")
    run = LiveRun(tmp_path, world)
    follower = Follower(run.path)
    run.receive(world.events)
    follower.step()
    told: list[dict[str, Any]] = []
    changes = follower.picture.changes
    run.folder.append_operation_invoke(world.operations[0])
    follower._read()
    told.append(changes() or {})
    world.operate("put", "k1", "v2")
    run.receive(world.events[-1:])
    follower._read()
    told.append(changes() or {})
    assert [("totals" in change, "newest" in change) for change in told] == [(True, False), (True, True)]
    follower.close()


def test_events_that_come_twice_count_once(tmp_path: Path) -> None:
    world = World(3)
    world.boot()
    run = LiveRun(tmp_path, world)
    run.receive(world.events)
    run.receive(reversed(world.events))
    assert read(run.path).picture.totals["received"] == len(world.events)


def test_the_picture_does_not_grow_with_the_run() -> None:
    picture = Picture("long")
    event = {"board": "b1", "boot": 1, "stamp": 0, "channel": "serial", "kind": "decided"}
    sizes = []
    for number in range(1, 20_001):
        line = {**event, "sequence": number, "now_ms": number, "received_ns": number * 500_000_000}
        picture.event({**line, "fields": {"height": number, "round": 0, "value_id": "a", "weight": 3}})
        if number % 10_000 == 0:
            sizes.append(len(json.dumps(picture.snapshot())))
    assert picture.totals["decisions"] == 20_000
    assert sizes[1] < sizes[0] * 1.1 and sizes[1] < 300_000


def test_values_that_come_late_change_their_second() -> None:
    curves = Curves()
    curves.differ(1_000_000_000, 2)
    curves.advance(4_500_000_000)
    curves.changes()
    curves.take(2_100_000_000, "operation_ms", 8.0)
    curves.take(2_200_000_000, "operation_ms", 10.0)
    curves.differ(3_000_000_000, 5)
    changed = {point["second"]: point for point in curves.changes()}
    assert sorted(changed) == [2, 3, 4]
    assert changed[2]["operation_ms"] == 9.0 and changed[2]["digests"] == 2 and changed[4]["digests"] == 5


def test_a_run_ends_as_its_folder_says(tmp_path: Path) -> None:
    world = World(3)
    world.boot()
    run = LiveRun(tmp_path, world)
    follower = Follower(run.path)
    follower.step()
    assert follower.picture.run["state"] == "running" and not follower.ended
    run.receive(world.events)
    run.end("invalid")
    follower.step()
    follower.step()
    assert follower.ended and follower.picture.run["state"] == "ended"
    assert follower.picture.run["verdict"] == "invalid"
    assert follower.picture.totals["received"] == len(world.events)
    # A host that was killed leaves a folder that says nothing of its end.
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    other = LiveRun(tmp_path, world)
    other.folder.write_manifest({**other.manifest, "host_pid": gone.pid})
    assert read(other.path).picture.run["state"] == "abandoned"


def test_a_folder_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    world = World(3)
    world.boot()
    run = LiveRun(tmp_path, world)
    run.receive(world.events)
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b'{"board": "b1"}\n')
    follower = Follower(run.path)
    follower.start()
    deadline = time.monotonic() + 5
    while not follower.ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert follower.picture.run["state"] == "unreadable" and "boot" in follower.picture.run["reason"]
    follower.close()


def test_the_delay_until_an_event_is_read_is_measured(tmp_path: Path) -> None:
    world = World(3)
    world.boot()
    run = LiveRun(tmp_path, world)
    follower = Follower(run.path)
    follower.step()
    stamped = run.receive(world.events)
    read_ns = time.monotonic_ns()
    follower.step()
    least = (read_ns - run.began_ns - stamped[0].received_ns) / 1e9
    assert least <= follower.lag_s < least + 1.0
    follower.close()


# Those who look on.


def test_a_slow_client_is_bounded_and_starts_anew() -> None:
    async def look() -> None:
        client = Client(asyncio.get_running_loop(), most=3)
        for number in range(3):
            client.offer(b"%d" % number)
        assert await client.next(1) == b"012"
        for _ in range(100_000):
            client.offer(b"x" * 100)
        assert client.lagged and len(client._waiting) == 0
        assert await client.next(0.01) is None
        client.reset()
        client.offer(b"new")
        assert await client.next(1) == b"new"

    asyncio.run(look())


def test_runs_are_found_and_those_that_go_on_are_followed(tmp_path: Path) -> None:
    past = save(eventful(operations=20).history(), tmp_path)
    library = Library(tmp_path)
    (row,) = library.table()
    assert row["name"] == past.name and not row["going"] and library.live() is None
    world = World(3)
    world.boot()
    run = LiveRun(tmp_path, world, "going")
    rows = {row["name"]: row for row in library.table()}
    live = library.live()
    assert rows[run.path.name]["going"] and live is not None and live.folder == run.path
    for name in ("../elsewhere", "nothing", ""):
        with pytest.raises(UsageError):
            library.follower(name)
    assert Library(tmp_path, only=os.getpid() + 1).live() is None
    library.close()


# Who may switch.

TOKEN = "right"
GOOD = {"host": "127.0.0.1:8600", "origin": "http://127.0.0.1:8600", "authorization": "Bearer right"}


@pytest.mark.parametrize(
    ("method", "changed", "status"),
    [
        ("POST", {}, None),
        ("POST", {"host": "[::1]:8600", "origin": "http://[::1]:8600"}, None),
        ("POST", {"host": "localhost:1", "origin": "http://localhost:1"}, None),
        ("GET", {}, 405),
        ("PUT", {}, 405),
        ("POST", {"authorization": None}, 403),
        ("POST", {"authorization": "Bearer wrong"}, 403),
        ("POST", {"authorization": "Bearer "}, 403),
        ("POST", {"authorization": "right"}, 403),
        ("POST", {"authorization": "Bearer right "}, 403),
        ("POST", {"authorization": "Bearer r\u00edght"}, 403),
        ("POST", {"origin": None}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"origin": "http://127.0.0.1:9999"}, 403),
        ("POST", {"origin": "https://127.0.0.1:8600"}, 403),
        ("POST", {"origin": "http://evil.example"}, 403),
        ("POST", {"host": "evil.example", "origin": "http://evil.example"}, 403),
        ("POST", {"host": "127.0.0.1.evil.example", "origin": "http://127.0.0.1.evil.example"}, 403),
        ("POST", {"host": None, "origin": "http://None"}, 403),
    ],
)
def test_a_switch_needs_token_origin_and_host(method: str, changed: dict[str, Any], status: int | None) -> None:
    headers = {key: value for key, value in {**GOOD, **changed}.items() if value is not None}
    refused = guard.refusal(method, headers, TOKEN)
    assert (refused and refused[0]) == status
    assert refused is None or TOKEN not in refused[1].split()


def test_tokens_are_long_and_new() -> None:
    tokens = {guard.new_token() for _ in range(100)}
    assert len(tokens) == 100 and all(len(token) >= 43 for token in tokens)


# Metrics and the terminal.


def test_metrics_are_read_by_a_parser(tmp_path: Path) -> None:
    world = eventful(operations=60)
    history = world.history()
    strange = 'a "quoted"\\ and\nbroken'
    history.manifest = {**history.manifest, "campaign": strange, "seed": 7}
    folder = save(history, tmp_path / "odd").rename(tmp_path / "run")
    text = metrics.exposition([read(folder)]).decode()
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels["campaign"] == strange and sample.labels["run"] == "run"
            rest = ",".join(value for key, value in sample.labels.items() if key not in ("run", "campaign", "seed"))
            found[sample.name, rest] = sample.value
    heights = {event.fields["height"] for event in history.events if event.kind == "decided"}
    assert found["brownout_decisions_total", ""] == len(heights)
    assert found["brownout_events_received_total", ""] == len(history.events)
    assert found["brownout_boards", "up"] == len(world.names())
    assert found["brownout_run_going", ""] == 0
    assert found["brownout_faults", "healed"] == len({record.id for record in history.faults})
    buckets = {rest: value for (name, rest), value in found.items() if name.endswith("latency_seconds_bucket")}
    counts = [buckets[bound] for bound in sorted(buckets, key=float)]
    assert counts == sorted(counts) and counts[-1] == found["brownout_decision_latency_seconds_count", ""] > 0


def test_the_terminal_shows_the_run(tmp_path: Path) -> None:
    world = eventful(operations=60)
    world.change(is_event("b4", "decided", height=20), value_id="f" * 16)
    folder = save(world.history(), tmp_path)
    page = StringIO()
    watch(Follower(folder), Console(file=page, width=150), once=True)
    for said in ("ENDED", "5 of 5 boards up", "1 conflicts", "f02", "blackout", "voter"):
        assert said in page.getvalue(), said
    lines = StringIO()
    watch(Follower(folder), Console(file=lines, width=150))
    assert "fault applied" in lines.getvalue() and "conflict" in lines.getvalue()


def test_commands_refuse_what_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["watch", str(tmp_path)], "no run to watch"),
        (["serve", str(tmp_path), "--control"], "go together"),
        (["serve", str(tmp_path), "--bind", "192.0.2.1"], "cannot serve"),
        (["run", "demo", "--rig", "sim", "--live-port", "8601"], "only with --live"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err


def test_without_the_extra_a_sentence_says_what_to_install(tmp_path: Path) -> None:
    """In a process where starlette cannot be imported."""
    program = "import sys; sys.modules['starlette'] = None; from brownout.cli import main; sys.exit(main())"
    for words in (["serve", str(tmp_path)], ["run", "demo", "--rig", "sim", "--live", "--out", str(tmp_path)]):
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 4
        assert "pip install 'brownout[live]'" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [], "nothing has begun"
