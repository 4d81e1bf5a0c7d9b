"""Cuts and bends of links by hand: the rules of one kind of fault, as a campaign would set them.

What `brownout link` and the buttons of `brownout serve` share. Must not ask who wants it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .bed import Hand
from .contracts import UsageError
from .fault_kinds import HOST
from .faults import PlannedFault, link_rules


def bend(hand: Hand, kind: str, boards: Sequence[str], parameters: Mapping[str, Any]) -> list[str]:
    """Set the rules; their ids. The same kind on the same boards replaces itself."""
    ends = (*boards, *parameters.get("from", ()), *parameters.get("to", ()))
    for board in ends:
        if board != HOST:
            hand.rig.board(board)
    fault = PlannedFault(f"hand.{kind}.{'-'.join(ends)}", kind, 0.0, 0.0, tuple(boards), parameters=parameters)
    rules = link_rules(fault, boards, hand.names)
    if not rules:
        raise UsageError(f"link {kind}: nothing to do; name at least one board")
    hand.link.apply(rules)
    return [rule.id for rule in rules]
