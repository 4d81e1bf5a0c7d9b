"""The protocols beside what they cannot beat: decisions beside null protocols, messages and bytes beside counts.

Latency is measured on virtual boards, in turns with a null protocol of the same shape. Messages and bytes are counted
in the simulator, where nothing disturbs a decision, beside what the protocol's page says it takes: so many messages,
each of its content and a head. Must not leave out what was sent again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from brownout_node.core import codec, schema

from .. import protocols
from ..bed import Bed
from ..campaign_file import parse_campaign
from ..document import Table
from ..faults import plan
from ..rig import load_rig
from ..sim.runs import Simulated, simulate
from ..sim.transcript import Recorder, messages_of
from .decision import Command, put_to_proposer, take_turns
from .figures import Figure, Sample, side_by_side
from .workbench import Workbench

VOTERS = (4, 7, 16)
CROWD = (50, 7)  # boards, voters of them
COUNT, WARM_UP = 150, 20
ACCOUNTS = 8
COUNTED_S = 20.0
RATE = 2.0  # operations a second: each decision has one command
PATIENT = {"propose_timeout_ms": 4000, "vote_timeout_ms": 4000, "resend_ms": 2000}  # 32 boards share two cores
HEAD_BYTES = 24  # that a message may have beside its texts and byte strings: head, numbers, lengths
TIMEOUT_MS = 500
MOST_TIMEOUTS = 1.5
MOST_PLANNED = 0.1  # of what a crash costs
SEEDS = 10
DOUBT_MS, OFF_S = 300, 3.0
MOST_BLOCKED = 0.5
MOST_EXTRA = 1.1  # what was sent again


@dataclass(frozen=True)
class Shape:
    """One protocol beside its null protocol.

    target: of the latency's ratio. decided: the event of a decision. messages: by kind, how many an undisturbed
    decision of n voters takes, passing on the client's command included; docs/protocols has the same.
    """

    name: str
    loaded: tuple[str, ...]
    null: tuple[str, ...]
    operation: str
    commands: Callable[[int], Callable[[int, int], Command]]  # for so many voters
    rounds: int
    target: float
    timing: dict[str, int]
    options: dict[str, dict[str, int]]
    decided: str
    messages: Callable[[int], dict[str, int]]


VOTE = Shape(
    "vote",
    ("membership", "vote"),
    ("membership", "null_vote"),
    "put",
    lambda voters: put_to_proposer(schema.PUT, voters),
    3,
    1.5,
    PATIENT,
    {},
    "decided",
    lambda n: {"request": n - 1, "proposal": n - 1, "prevote": n * (n - 1), "precommit": n * (n - 1)},
)
BYZANTINE = Shape(
    "byzantine",
    ("byzantine",),
    ("null_byzantine",),
    "bput",
    lambda voters: put_to_proposer(protocols.OPERATION_IDS["bput"], voters),
    5,
    2.0,
    {"resend_ms": 2000},
    {"byzantine": {"view_timeout_ms": 8000}},
    "byzantine_decided",
    lambda n: {"byzantine_request": n - 1, "byzantine_proposal": n - 1, "byzantine_vote": 4 * n * (n - 1)},
)


def transfers(boards: int) -> Callable[[int, int], Command]:
    """Transfers of 1 between accounts of two boards, asked of a third; each pair of accounts in turns both ways."""

    def owner(key: str) -> int:
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % boards  # as commit_shard.py has it

    pairs = []
    for first in range(ACCOUNTS):
        keys = f"k{first}", f"k{(first + 1) % ACCOUNTS}"
        owners = [owner(key) for key in keys]
        if owners[0] != owners[1]:
            asked = next(board for board in range(boards) if board not in owners)
            pairs += [(asked, *keys), (asked, *keys[::-1])]

    def command(number: int, _height: int) -> Command:
        asked, source, target = pairs[number % len(pairs)]
        return f"b{asked + 1}", protocols.OPERATION_IDS["transfer"], source, f"{target}:1"

    return command


COMMIT = Shape(
    "commit",
    ("commit",),
    ("null_commit",),
    "transfer",
    transfers,
    2,
    2.0,
    {"resend_ms": 2000},
    {"commit": {"vote_timeout_ms": 4000, "doubt_timeout_ms": 4000}},
    "commit_decided",
    lambda _boards: {"commit_prepare": 2, "commit_vote": 2, "commit_decision": 2, "commit_ack": 2},
)
NON_BLOCKING = replace(
    COMMIT,
    name="commit, non-blocking",
    loaded=("vote", "commit"),
    rounds=2,
    target=6.0,  # five delays and a vote among all instead of two
    timing=PATIENT,
    options={"commit": {"non_blocking": 1, "vote_timeout_ms": 4000, "doubt_timeout_ms": 4000}},
)


def measure(bench: Workbench) -> list[Figure]:
    figures = []
    for shape in (VOTE, BYZANTINE):
        figures += [_latency(bench, shape, voters, voters) for voters in VOTERS]
        figures.append(_latency(bench, shape, *CROWD))
    for shape in (COMMIT, NON_BLOCKING):
        figures += [_latency(bench, shape, boards, boards) for boards in VOTERS]
    for shape in (VOTE, BYZANTINE):
        for voters in VOTERS:
            figures += _costs(bench, shape, voters)
    bench.progress("proposers and coordinators that lose power", 0, 1)
    return [*figures, _fail_over(VOTE), _fail_over(BYZANTINE), _planned(), _blocked()]


# Latency, on virtual boards.


def _latency(bench: Workbench, shape: Shape, boards: int, voters: int) -> Figure:
    names = {shape.name: shape.loaded, "null": shape.null}
    beds: dict[str, Bed] = {}
    commands = {shape.name: shape.commands(voters), "null": put_to_proposer(schema.PUT, voters)}
    try:
        for name, loaded in names.items():
            beds[name] = bench.bed(
                f"{shape.name}-{name}-{boards}",
                boards,
                voters=voters,
                firmware=bench.firmware_with_nulls(),
                protocols=loaded,
                timing=shape.timing,
                options=shape.options if name == shape.name else None,
            )
        times, lost = take_turns(beds, commands, COUNT, WARM_UP)
    finally:
        for name in names:
            bench.close_bed(f"{shape.name}-{name}-{boards}")
    crowd = "" if boards == voters else f", {boards} boards"
    note = f"from the command at the proposer's board to its answer; {lost} lost; all boards share this machine's cores"
    return side_by_side(
        f"{shape.name}, decision of {voters} voters{crowd}",
        times[shape.name],
        times["null"],
        unit="ms",
        compared_to=f"null protocol, {shape.rounds} rounds",
        target=shape.target,
        note=note,
    )


# Messages and bytes, in the simulator.


@dataclass
class Traffic:
    """What boards received of one protocol's messages in a run: by kind, how many, their bytes and their content's."""

    decisions: int
    messages: Counter[str]
    sizes: Counter[str]
    content: Counter[str]


def _costs(bench: Workbench, shape: Shape, voters: int) -> list[Figure]:
    bench.progress(f"messages of {shape.name}, {voters} voters", 0, 1)
    traffic = _traffic(shape, voters)
    counts = shape.messages(voters)
    least = sum(counts[kind] * (traffic.content[kind] / max(1, traffic.messages[kind]) + HEAD_BYTES) for kind in counts)
    rows = (
        ("messages per decision", traffic.messages, float(sum(counts.values())), "by its page"),
        ("bytes per decision", traffic.sizes, least, f"content and {HEAD_BYTES} bytes a message"),
    )
    return [
        Figure(
            f"{shape.name}, {voters} voters: {name}",
            counted.total() / traffic.decisions,
            "",
            MOST_EXTRA,
            traffic.decisions,
            compared_to=compared_to,
            compared_value=bound,
            note=", ".join(f"{counted[kind] / traffic.decisions:.1f} {kind}" for kind in counts),
        )
        for name, counted, bound, compared_to in rows
    ]


def _traffic(shape: Shape, voters: int) -> Traffic:
    """One client, one command a decision, no faults."""
    head = {"name": "cost", "duration_s": COUNTED_S, "voters": voters, "protocols": list(shape.loaded)}
    workload = {"clients": 1, "operations_per_s": RATE, "mix": {shape.operation: 1}}
    table = {"campaign": head, "timing": shape.timing, "protocol": shape.options, "workload": workload}
    recorder = Recorder()
    rig = load_rig("sim")
    done = simulate(plan(parse_campaign(Table(table, "bench")), rig, 1), rig, parts=recorder.parts)
    heights = {event.fields["height"] for event in done.history.events if event.kind == shape.decided}
    traffic = Traffic(len(heights), Counter(), Counter(), Counter())
    kinds = shape.messages(voters)
    for transcript in recorder.transcripts.values():
        for message in messages_of(transcript.items):
            _cluster, _sender, _boot, _sequence, kind, fields = codec.decode_message(message)
            name = protocols.MESSAGES[kind][1] if kind in protocols.MESSAGES else ""
            if name in kinds:
                traffic.messages[name] += 1
                traffic.sizes[name] += len(message)
                traffic.content[name] += sum(len(field) for field in fields if isinstance(field, bytes | str))
    return traffic


# Outages, in the simulator.


def _fail_over(shape: Shape) -> Figure:
    """The longest that a command waits for the next decision while a board is off whose turn to propose comes round."""
    longest = _waits_in_outages(shape, shape.loaded, {})
    return Figure(
        f"{shape.name}: longest wait for a decision, a proposer off",
        Sample.of(longest).median,
        "time-outs",
        MOST_TIMEOUTS,
        len(longest),
        p99=max(longest),
        measure="value",
        note=f"of all commands that boards took while one of four voters had no power, in {SEEDS} runs; when its turn "
        f"comes, the others wait for it one time-out of {TIMEOUT_MS} ms, and the next round decides",
    )


def _planned() -> Figure:
    """The same where the board was asked to hand its turns over before, beside a crash of boards that load the same."""
    loaded = (*VOTE.loaded, "hand_over")
    crash = _waits_in_outages(VOTE, loaded, {})
    planned = _waits_in_outages(VOTE, loaded, {"first": "hand over"})
    return Figure(
        "vote: longest wait for a decision, a proposer restarted as planned",
        Sample.of(planned).median,
        "time-outs",
        MOST_PLANNED,
        len(planned),
        p99=max(planned),
        compared_to="a crash",
        compared_value=Sample.of(crash).median,
        compared_p99=max(crash),
        note=f"of all commands that boards took from the request to hand over until the voter had power again, "
        f"in {SEEDS} runs; a time-out is {TIMEOUT_MS} ms",
    )


def _waits_in_outages(shape: Shape, loaded: tuple[str, ...], more: dict[str, Any]) -> list[float]:
    """Of each run the longest wait, in time-outs, of what running boards took while one of four voters was off."""
    options = {"byzantine": {"view_timeout_ms": TIMEOUT_MS}} if shape is BYZANTINE else {}
    longest = []
    for seed in range(1, SEEDS + 1):
        done = _run(
            seed,
            {"name": "fail-over", "duration_s": 8.0, "voters": 4, "protocols": list(loaded)},
            {"clients": 6, "operations_per_s": 20.0, "mix": {shape.operation: 1}},
            {"kind": "cut", "select": ["b2"], "at_s": 2.0, "for_s": 4.0, "jitter_s": 0.5, **more},
            {"timing": {"propose_timeout_ms": TIMEOUT_MS}, "protocol": options},
        )
        stages = {record.stage.value: record.at_ns for record in done.history.faults}
        from_ns = stages["planned"] if more else stages["applied"]
        events = [event for event in done.history.events if from_ns <= event.received_ns <= stages["healed"]]
        decided = sorted(event.received_ns for event in events if event.kind == shape.decided)
        asked = [event.received_ns for event in events if event.kind.endswith("submitted") and event.board != "b2"]
        waits = [next((at for at in decided if at >= since), stages["healed"]) - since for since in asked]
        longest.append(max(waits) / 1e6 / TIMEOUT_MS)
    return longest


def _blocked() -> Figure:
    """How long shards in doubt are blocked while their coordinator is without power: non-blocking beside two-phase."""
    longest: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(1, SEEDS + 1):
        for non_blocking, times in longest.items():
            done = _run(
                seed,
                {
                    "name": "blocked",
                    "duration_s": 9.0,
                    "voters": 5,
                    "protocols": ["vote", "commit"] if non_blocking else ["commit"],
                },
                {"clients": 6, "operations_per_s": 20.0, "keys": 24, "mix": {"transfer": 1}},
                {
                    "kind": "trap",
                    "select": ["b1", "b2"],
                    "point": "after send",
                    "count": 3 + seed,
                    "action": "power off",
                    "at_s": 2.0,
                    "for_s": OFF_S,
                },
                {"protocol": {"commit": {"non_blocking": int(non_blocking), "doubt_timeout_ms": DOUBT_MS}}},
            )
            check = next(check for check in done.document["checks"] if check["name"] == "commit")
            times.append(float(check["metrics"]["blocked_longest_ms"]))
    return Figure(
        "commit: longest blocked, non-blocking",
        max(longest[True]),
        "ms",
        MOST_BLOCKED,
        SEEDS,
        compared_to=f"two-phase, boards {OFF_S:g} s off",
        compared_value=max(longest[False]),
        note=f"the worst of {SEEDS} runs of each: two of five boards lose power once they have sent so many messages, "
        f"under transfers; a shard in doubt asks the log after {DOUBT_MS} ms, or waits for its coordinator",
    )


def _run(
    seed: int, campaign: dict[str, Any], workload: dict[str, Any], fault: dict[str, Any], more: dict[str, Any]
) -> Simulated:
    rig = load_rig("sim")
    table = Table({"campaign": campaign, "workload": workload, "fault": [fault], **more}, "bench")
    return simulate(plan(parse_campaign(table), rig, seed), rig)
