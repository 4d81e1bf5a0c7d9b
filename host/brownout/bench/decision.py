"""A decision of the vote, from a client's command to its answer, against the null protocol's; and its message delays.

Two beds of five boards, the same firmware on both, commands in turns. Each command goes to the board whose turn it is
to propose, so that nothing but the three rounds lies between. Must not leave out what was slow: only lost answers are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from brownout_node.core import schema

from ..bed import Bed
from .command_client import CommandClient
from .figures import Figure, side_by_side
from .workbench import VOTERS, Workbench

COUNT = 400
WARM_UP = 40
TARGET = 1.5
KEYS = 8
NULL_PROTOCOLS = ("membership", "gossip", "null_vote")
DELAYS = 3
VALUE = "value %05d"


def vote_bed(bench: Workbench) -> Bed:
    """Five voters with the firmware's own protocols."""
    return bench.bed("vote", VOTERS, firmware=bench.firmware_with_nulls())


def measure(bench: Workbench) -> list[Figure]:
    beds = {
        "vote": vote_bed(bench),
        "null": bench.bed("null", VOTERS, firmware=bench.firmware_with_nulls(), protocols=NULL_PROTOCOLS),
    }
    times, lost = take_turns(beds, dict.fromkeys(beds, put_to_proposer(schema.PUT, VOTERS)), COUNT, WARM_UP)
    bench.close_bed("null")
    note = (
        f"from the command at the proposer's board to its answer; {lost} lost. The vote also passes the command on to "
        "every voter, and tells the controller of each step, which the null protocol does not"
    )
    ratio = side_by_side(
        "5-board decision",
        times["vote"],
        times["null"],
        unit="ms",
        compared_to="null protocol, 3 broadcasts",
        target=TARGET,
        note=note,
    )
    return [ratio, _delays(bench)]


Command = tuple[str, int, str, str]  # board, operation, key, value


def put_to_proposer(operation: int, voters: int) -> Callable[[int, int], Command]:
    """Commands for the board that proposes the next height: equal weights, so they go round."""

    def command(number: int, height: int) -> Command:
        return f"b{(height + 1) % voters + 1}", operation, f"k{number % KEYS}", VALUE % number

    return command


def take_turns(
    beds: Mapping[str, Bed], commands: Mapping[str, Callable[[int, int], Command]], count: int, warm_up: int
) -> tuple[dict[str, list[float]], int]:
    """(milliseconds from command to answer by bed, answers lost). commands: of a turn and the last height answered."""
    clients = {
        name: CommandClient(bed.broker_address, bed.rig.bed, bed.cluster, 2000 + number)
        for number, (name, bed) in enumerate(beds.items())
    }
    times: dict[str, list[float]] = {name: [] for name in beds}
    heights = dict.fromkeys(beds, 0)
    lost = 0
    order = list(beds)
    for number in range(warm_up + count):
        order.reverse()  # whoever comes second finds warm caches
        for name in order:
            answer = clients[name].ask(*commands[name](number, heights[name]))
            if answer is None or answer[1] != schema.OK:
                lost += 1
                continue
            heights[name] = answer[2]
            if number >= warm_up:
                times[name].append(answer[0])
    for client in clients.values():
        client.close()
    return times, lost


def _delays(bench: Workbench) -> Figure:
    return delays_figure(bench.replicas()[1])


def delays_figure(delays: Sequence[int]) -> Figure:
    """Every decision has to take exactly `DELAYS`; the figure is the one that is farthest from it."""
    counted = Counter(delays)
    farthest = max(counted, key=lambda number: abs(number - DELAYS))
    return Figure(
        "message delays",
        float(farthest),
        "",
        DELAYS,
        sum(counted.values()),
        p99=float(max(counted)),
        measure="value",
        exact=True,
        note="from proposal to first decision, five real replicas in lockstep, every message taking exactly one delay: "
        + ", ".join(f"{count} decisions in {delays}" for delays, count in sorted(counted.items())),
    )
