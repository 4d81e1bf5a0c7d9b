"""The protocols beside what they cannot beat: decisions beside null protocols, messages and bytes beside counts.

Latency is measured on virtual boards, in turns with a null protocol of the same shape. Messages and bytes are counted
in the simulator, where nothing disturbs a decision, beside what the protocol's page says it takes: so many messages,
each of its content and a head. Must not leave out what was sent again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from brownout_node.core import codec, schema

from .. import protocols
from ..bed import Bed
from ..campaign_file import parse_campaign
from ..document import Table
from ..faults import plan
from ..rig import load_rig
from ..sim.runs import simulate
from ..sim.transcript import Recorder, messages_of
from .decision import take_turns
from .figures import Figure, side_by_side
from .workbench import Workbench

VOTERS = (4, 7, 16)
CROWD = (50, 7)  # boards, voters of them
COUNT, WARM_UP = 150, 20
COUNTED_S = 20.0
RATE = 2.0  # operations a second: each decision has one command
PATIENT = {"propose_timeout_ms": 4000, "vote_timeout_ms": 4000, "resend_ms": 2000}  # 32 boards share two cores
HEAD_BYTES = 24  # that a message may have beside its texts and byte strings: head, numbers, lengths
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
    5,
    2.0,
    {"resend_ms": 2000},
    {"byzantine": {"view_timeout_ms": 8000}},
    "byzantine_decided",
    lambda n: {"byzantine_request": n - 1, "byzantine_proposal": n - 1, "byzantine_vote": 4 * n * (n - 1)},
)


def measure(bench: Workbench) -> list[Figure]:
    figures = []
    for shape in (VOTE, BYZANTINE):
        for voters in VOTERS:
            figures.append(_latency(bench, shape, voters, voters))
        figures.append(_latency(bench, shape, *CROWD))
    for shape in (VOTE, BYZANTINE):
        for voters in VOTERS:
            figures += _costs(bench, shape, voters)
    return figures


# Latency, on virtual boards.


def _latency(bench: Workbench, shape: Shape, boards: int, voters: int) -> Figure:
    names = {shape.name: shape.loaded, "null": shape.null}
    beds: dict[str, Bed] = {}
    operations = {shape.name: protocols.OPERATION_IDS[shape.operation], "null": schema.PUT}
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
        times, lost = take_turns(beds, operations, voters, count=COUNT, warm_up=WARM_UP)
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
