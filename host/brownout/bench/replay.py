"""The flight recorder and the replay: how fast a run is replayed, and what recording costs a board in bytes and time.

The bare core is the firmware's node, step and journal on the same inputs, without a recording, a comparison or an
event decoded, in turns with the replay. What recording costs a board is measured on MicroPython, and its bytes on
virtual boards, as they left. Must not replay twice to pick the better.
"""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

from brownout_node.core import codec, schema
from brownout_node.core.config import Config
from brownout_node.core.node import Node
from brownout_node.core.step import step
from brownout_node.storage.journal import Journal, format_genesis

from .. import campaign
from ..campaign_file import load_campaign
from ..history import BoardEvent
from ..replay.engine import ABOUT, Replay, ignore
from ..replay.recording import FLIGHT, BoardRecord, Recording, read
from ..replay.stream import EMITTED, HEARD, INPUTS, REFUSED, TICK, Entry
from ..replay.tap import MESSAGE, read_tap
from ..rig import load_rig
from ..sim.flash import SimFlash
from .figures import Figure, Sample
from .workbench import Workbench

CAMPAIGN = "split-brain"
SEED = 1
TURNS = 5
BOARD_TURNS = 3
ON_BOARD_HEAP = "4m"
FRAME_BYTES = 14  # of the cable, at most, around each event: two zeros, one or two of COBS, channel, number, CRC-32
PACKET_BYTES = 4  # of MQTT, around topic and message


def measure(bench: Workbench) -> list[Figure]:
    bench.progress("replaying a simulated run", 0, 1)
    simulated = campaign.run(load_campaign(CAMPAIGN), load_rig("sim"), SEED, bench.folder / "sim").folder
    figures = [_rate(simulated)]
    bench.progress("recording virtual boards", 0, 1)
    virtual = campaign.run(load_campaign(CAMPAIGN), load_rig("virtual"), SEED, bench.folder / "virtual").folder
    recording = read(virtual)
    return [*figures, *_bytes(recording), *_time(bench, recording)]


# How fast.


def _rate(folder: Path) -> Figure:
    ours, theirs = [], []
    inputs = 0
    for _ in range(TURNS):
        recording = read(folder)
        began = time.perf_counter()
        results = Replay(recording).run()
        took_s = time.perf_counter() - began
        inputs = sum(result.inputs for result in results)
        ours.append(inputs / took_s)
        assert all(result.difference is None and result.why is None for result in results), "not faithful"
        theirs.append(_bare(recording))
    mine, other = Sample.of(ours), Sample.of(theirs)
    return Figure(
        "replay, inputs per second",
        mine.median,
        "/s",
        0.8,
        mine.count,
        compared_to="the bare core on the same inputs",
        compared_value=other.median,
        at_least=True,
        note=f"{CAMPAIGN}, seed {SEED}, simulated: {inputs:,} inputs of five boards; digests and events compared",
    )


def _bare(recording: Recording) -> float:
    """Inputs a second of node, step and journal alone, on boards that never lost power."""
    inputs, took_s = 0, 0.0
    for board in recording.boards.values():
        steps = [_resolved(recording, entries) for entries in board.boots[0].steps]
        config = Config(dict(board.document))
        flash = SimFlash()
        format_genesis(flash, config.cluster, config.board)
        journal = Journal(flash)
        journal.open()
        began = time.perf_counter()
        node = Node(config, journal, ABOUT)
        for kind in (schema.TRAP, schema.DESCRIBE, schema.TELEMETRY_ACK):
            node.handle(kind, ignore)
        for entries in steps:
            for now_ms, source, data in entries:
                if data is None:
                    node.tick(now_ms)
                else:
                    node.receive(source, data, now_ms)
            step(node, journal, _nowhere, _nowhere)
            inputs += len(entries)
        took_s += time.perf_counter() - began
    return inputs / took_s


def _resolved(recording: Recording, entries: list[Entry]) -> list[tuple[int, int, bytes | None]]:
    """Inputs with their contents; None for a tick."""
    found: list[tuple[int, int, bytes | None]] = []
    for entry in entries:
        if entry.kind == TICK:
            found.append((entry.now_ms, 0, None))
        elif entry.kind in (HEARD, REFUSED):
            data = recording.contents.get(entry.source, entry.crc) if entry.kind == HEARD else entry.data
            assert data is not None, "the replay before this one had every content"
            found.append((entry.now_ms, entry.source, data))
    return found


def _nowhere(*_effect: object) -> None:
    """Effects of the bare core go nowhere."""


# What it costs a board.


def _bytes(recording: Recording) -> list[Figure]:
    events = [event for event in recording.history.events if event.kind == FLIGHT]
    recorded = sum(_size(event) + FRAME_BYTES for event in events)
    inputs = sum(boot.inputs for board in recording.boards.values() for boot in board.boots)
    received = [data for board in recording.boards.values() for data in _heard(recording, board)]
    sent = [record.data for record in read_tap(recording.folder) if record.kind == MESSAGE]
    topic = len(next(iter(recording.boards.values())).document["bed"]) + len("/g/b1/all")
    packets = sum(len(data) + topic + PACKET_BYTES for data in (*received, *sent))
    note = f"{CAMPAIGN}, virtual boards: {inputs:,} inputs, ticks among them; headers and frames of the events included"
    alone = sum(map(len, received))
    return [
        Figure("recording, bytes per input", recorded / inputs, "B", 10, inputs, measure="value", note=note),
        Figure(
            "recording, bytes",
            recorded / 1024,
            "KiB",
            0.15,
            len(events),
            compared_to="messages received and sent",
            compared_value=packets / 1024,
            note=f"MQTT packets, topic and header with the message; the messages received are {alone / 1024:.0f} KiB "
            f"without, {alone / len(received):.0f} bytes each",
        ),
    ]


def _size(event: BoardEvent) -> int:
    content = (event.fields["at"], bytes.fromhex(event.fields["data"]))
    header = (event.boot, event.sequence, event.now_ms, event.stamp)
    return len(codec.encode_event(*header, schema.FLIGHT, content))


def _heard(recording: Recording, board: BoardRecord) -> list[bytes]:
    """The messages that one board received."""
    steps = [entries for boot in board.boots for entries in boot.steps]
    return [data for entries in steps for _, _, data in _resolved(recording, entries) if data is not None]


def _time(bench: Workbench, recording: Recording) -> list[Figure]:
    board = next(iter(recording.boards.values()))
    file = bench.folder / "inputs.bin"
    file.write_bytes(_inputs(recording, board))
    ticks, inputs, bare, recorded, heap = bench.run("recorded.py", file, BOARD_TURNS, heap=ON_BOARD_HEAP)
    own_us = (Sample.of(recorded).median - Sample.of(bare).median) / ticks
    period_us = 1000 * Config(dict(board.document)).tick_ms
    note = f"{inputs:,} inputs of one virtual board again on MicroPython, {BOARD_TURNS} turns; {ticks:,} ticks"
    return [
        Figure(
            "recording, time per tick",
            own_us / 1000,
            "ms",
            0.05,
            BOARD_TURNS,
            compared_to="a tick's period",
            compared_value=period_us / 1000,
            note=f"{note}; the core alone takes {Sample.of(bare).median / ticks / 1000:.2f} ms",
        ),
        Figure(
            "recorder, heap", heap / 1024, "KiB", 16, BOARD_TURNS, measure="value", note="code and state, 64-bit port"
        ),
    ]


def _inputs(recording: Recording, board: BoardRecord) -> bytes:
    """The first boot's inputs, as recorded.py reads them."""
    document = json.dumps(board.document).encode()
    out = bytearray(struct.pack("<I", len(document)) + document)
    for entries in board.boots[0].steps:
        first = 1
        for entry in entries:
            if entry.kind not in INPUTS or entry.kind == EMITTED:
                continue
            [(now_ms, source, data)] = _resolved(recording, [entry])
            size = len(data or b"")
            out += struct.pack("<BBiiH", first, entry.kind != TICK, now_ms, source, size) + (data or b"")
            first = 0
    return bytes(out)
