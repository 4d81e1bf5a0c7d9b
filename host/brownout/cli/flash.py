"""brownout flash: put the firmware onto the boards of a rig."""

from __future__ import annotations

from dataclasses import asdict

import click

from .common import LiveProgress, json_option, open_hand, out, print_document, rig_option


@click.command()
@click.argument("boards", nargs=-1)
@rig_option("lab")
@json_option
def flash(boards: tuple[str, ...], rig_name: str, as_json: bool) -> None:
    """Flash BOARDS (all of the rig, if none is named): what is unchanged is skipped, what is written is verified."""
    with open_hand(rig_name) as hand, LiveProgress() as progress:
        for board in boards:
            hand.rig.board(board)
        results = hand.flash(progress, list(boards) or None)
    if as_json:
        print_document([asdict(result) for result in results])
        return
    console = out()
    for result in results:
        what = f"{len(result.written)} files written" if result.written else "nothing to write"
        more = f", {len(result.removed)} removed" if result.removed else ""
        more += ", new journal" if result.genesis else ""
        console.print(f"{result.board:12} {what}, {result.unchanged} unchanged{more}, {result.duration_s:.2f} s")
