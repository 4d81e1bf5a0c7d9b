"""Delta debugging: the smallest part of a list that still does it (Zeller and Hildebrandt, TSE 2002).

Pure. Must not know what the parts are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Part = TypeVar("Part")


def minimise(parts: Sequence[Part], fails: Callable[[list[Part]], bool]) -> list[Part]:
    """A part of `parts` that fails, and of which no single element can be left out. `parts` as a whole must fail."""
    kept = list(parts)
    if kept and fails([]):
        return []
    pieces = 2
    while len(kept) >= 2:
        size = -(-len(kept) // pieces)
        portions = [kept[at : at + size] for at in range(0, len(kept), size)]
        for portion in portions:
            if pieces == 2 and fails(portion):
                kept, pieces = portion, 2
                break
        else:
            for at in range(len(portions)):
                rest = [part for number, portion in enumerate(portions) if number != at for part in portion]
                if fails(rest):
                    kept, pieces = rest, max(pieces - 1, 2)
                    break
            else:
                if pieces >= len(kept):
                    return kept
                pieces = min(len(kept), 2 * pieces)
    return kept
