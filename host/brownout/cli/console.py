"""brownout console: a board's console, or one program at its prompt."""

from __future__ import annotations

import sys

import click

from .common import rig_option


@click.command()
@click.argument("board")
@click.option("--exec", "program", help="Run this Python on the board, print what it says, and start the board anew.")
@click.option("--stay", is_flag=True, help="After --exec leave the board at its prompt.")
@rig_option("lab")
def console(board: str, program: str | None, stay: bool, rig_name: str) -> int:
    """Open the console of BOARD; Ctrl-] leaves it. Ctrl-C interrupts the firmware, Ctrl-D then starts it anew."""
    from .. import board_console
    from ..rig import load_rig

    port = load_rig(rig_name).board(board).port
    if program is None:
        board_console.interact(board, port)
        return 0
    output, error = board_console.execute(board, port, program, restart=not stay)
    sys.stdout.write(output)
    sys.stderr.write(error)
    return 1 if error else 0
