"""Which step of a board is proven to have come before another: an update and its merging, a proposal and its votes.

A cause has a name that the step which follows from it names too. Only what the record proves: a message that nobody
told of is in no pair. Must not judge and must not draw.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

PROPOSALS = ("proposed", "byzantine_proposed")
VOTES = ("prevoted", "precommitted", "byzantine_voted")


def name_of(board: str, kind: str, fields: Mapping[str, Any]) -> Hashable:
    """What later steps call this one; None where nothing names it."""
    if kind == "written":
        return ("written", board, fields["stamp"])
    if kind in PROPOSALS:
        return _proposal(fields)
    if kind == "applied":
        return ("applied", board, fields.get("client"), fields.get("request"))
    return None


def cause_of(kind: str, fields: Mapping[str, Any], names: Mapping[int, str]) -> Hashable:
    """The name of the step on another host from which this one followed; None where the record proves none.

    names: number in the roster -> board.
    """
    if kind == "merged":
        return ("written", names.get(fields["writer"]), fields["stamp"])
    if kind in VOTES and fields["value_id"] is not None:
        return _proposal(fields)
    if kind in ("submitted", "applied"):
        return ("invoked", fields.get("client"), fields.get("request"))
    return None


def _proposal(fields: Mapping[str, Any]) -> Hashable:
    return ("proposed", fields.get("height"), fields.get("round", fields.get("view")), fields.get("value_id"))
