"""What the firmware takes of a board's heap after boot, code included, and whether that grows with what it hears.

Must not count garbage: boards collect before they report.
"""

from __future__ import annotations

from .. import resources
from ..bed import Bed
from ..campaign_file import Campaign, load_campaign
from ..history import BoardEvent
from ..protocols import DEFAULT
from .decision import vote_bed
from .figures import Figure, Sample
from .workbench import HEAP, Workbench

KIB = 1024
TARGET_KIB = 160
MESSAGES = 100_000
SETTLED = 10_000
SETTLED_THREE = 40_000  # three boards on one heap: tables, and what a collection cannot tell from a pointer, level off
EVERY = 500
WINDOW = 20  # samples that a level is taken from
ROOMY_THREE = "640k"
ROOMY = "320k"  # what grows is asked here, not what fits: a script that is compiled on the spot scatters what stays
MOST_GROWTH = 1.005  # half a percent is less than two samples of one level differ by
REPORT_WITHIN_S = 20.0


def measure(bench: Workbench) -> list[Figure]:
    figures = [_after_boot(vote_bed(bench), "heap after boot")]
    for loaded, campaign in _suites().items():
        name = "heap-" + "-".join(loaded)
        bed = bench.bed(name, campaign.voters, voters=campaign.voters, protocols=loaded, options=dict(campaign.options))
        figures.append(_after_boot(bed, f"heap after boot: {', '.join(loaded)}"))
        bench.close_bed(name)
    return [*figures, *(_growth(bench, name) for name in ("vote", "stake", "mirror", "sampling"))]


def _suites() -> dict[tuple[str, ...], Campaign]:
    """Every set of protocols that a shipped campaign loads, but the first three, and the largest campaign with it."""
    found: dict[tuple[str, ...], Campaign] = {}
    for name in resources.shipped(resources.campaigns_directory()):
        campaign = load_campaign(name)
        if campaign.protocols != DEFAULT and (
            campaign.protocols not in found or campaign.voters > found[campaign.protocols].voters
        ):
            found[campaign.protocols] = campaign
    return found


def _after_boot(bed: Bed, name: str) -> Figure:
    """The first report of each board of a bed, from its own mouth; the largest."""
    used = {}
    for board in bed.names:

        def fits(event: BoardEvent, board: str = board) -> bool:
            return event.board == board and event.kind == "metrics"

        event = bed.telemetry.wait_for(fits, REPORT_WITHIN_S)
        if event is not None:
            used[board] = event.fields["heap_used"] / KIB
    return Figure(
        name,
        max(used.values(), default=None),
        "KiB",
        TARGET_KIB,
        len(used),
        compared_to=f"the limit of {HEAP}",
        compared_value=float(HEAP.rstrip("k")),
        measure="value",
        note=f"the largest of {len(bed.names)} boards with their protocols and shell, MQTT and serial, code included, "
        "64-bit port, after a collection",
    )


def _growth(bench: Workbench, name: str) -> Figure:
    is_log = name in ("vote", "stake")
    bench.progress(f"100,000 messages of {name}", 0, 1)
    if is_log:
        heap, done, kinds, took_ms = bench.run("messages.py", MESSAGES, EVERY, name, heap=ROOMY)
        what = f"core and journal of one voter, membership, gossip and {name}, {done:,} heights"
    else:
        heap, done, kinds, took_ms = bench.run("suite_messages.py", MESSAGES, EVERY, name, heap=ROOMY_THREE)
        what = f"cores and journals of three boards together, membership and {name}, {done:,} commands of clients"
    bench.progress(f"100,000 messages of {name}", 1, 1)
    settled = SETTLED if is_log else SETTLED_THREE
    first = settled // EVERY
    early, late = (
        Sample.of([value / KIB for value in part]) for part in (heap[first : first + WINDOW], heap[-WINDOW:])
    )
    return Figure(
        f"heap after {MESSAGES:,} messages" + ("" if name == "vote" else f", {name}"),
        late.median,
        "KiB",
        MOST_GROWTH,
        sum(count for _kind, count in kinds),
        p99=late.p99,
        compared_to=f"after {settled:,} messages",
        compared_value=early.median,
        compared_p99=early.p99,
        note=f"{what}, {len(kinds)} kinds of messages, "
        f"{took_ms / sum(count for _kind, count in kinds):.2f} ms a message",
    )
