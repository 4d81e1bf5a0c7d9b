"""An upgrade in mid-campaign: some boards of a bed are flashed with the next release, and their cables taken again.

What they have promised stays: journals are not touched. Must not switch power; the fault does, and proves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import next_release
from .contracts import RigError
from .flash import flash, raise_failures

if TYPE_CHECKING:
    from .bed import Bed

CABLE_WITHIN_S = 10.0
LOOK_S = 0.02


def prepare(bed: Bed, boards: Sequence[str]) -> Callable[[], None]:
    """Build the next release; what is returned flashes it.

    Then the firmware of these boards ends where it stands, and they are left at their prompt, off their cables.
    """
    folder = bed.directory / "next-release" / "-".join(boards)
    next_release.make(folder, bed.firmware)
    chosen = [board for board in bed.boards if board.name in boards]
    targets = bed.targets(chosen, bed.configuration_of, folder, bed.own, bed.loaded)

    def flash_next() -> None:
        for name in boards:
            bed.hub.release(name)
        raise_failures(flash(targets, genesis="never", reset=False, rescue=lambda board: bed.power.reset([board])))

    return flash_next


def reconnect(bed: Bed, boards: Sequence[str]) -> None:
    """Take the cables of boards that have power again: a port comes a moment after its power."""
    until_ns = bed.now_ns() + int(CABLE_WITHIN_S * 1e9)
    for name in boards:
        while not bed.hub.is_open(name):
            try:
                bed.hub.reclaim(name)
            except RigError:
                if bed.now_ns() > until_ns:
                    raise
                bed.pace.sleep(LOOK_S)
