"""brownout power: switch boards by hand."""

from __future__ import annotations

import time

import click

from .common import json_option, open_hand, out, print_document, rig_option

boards_argument = click.argument("boards", nargs=-1, required=True)


@click.group()
def power() -> None:
    """The power of boards; `all` stands for every board."""


def _switch(boards: tuple[str, ...], rig_name: str, as_json: bool, *actions: str, pause_s: float = 0.0) -> None:
    """Do these in turn, and show what the switches then say."""
    with open_hand(rig_name) as hand:
        names = list(hand.names) if boards == ("all",) else list(boards)
        for board in names:
            hand.rig.board(board)
        for number, action in enumerate(actions):
            if number:
                time.sleep(pause_s)
            getattr(hand.power, action)(names)
        states = hand.power.state(names)
    if as_json:
        print_document({name: {"on": state.on, **state.evidence} for name, state in states.items()})
        return
    for name, state in states.items():
        evidence = state.evidence
        out().print(
            f"{name:12} {'on' if state.on else 'off':4} starts {evidence.get('starts')}, pid {evidence.get('pid')}"
        )


@power.command()
@boards_argument
@rig_option("lab")
@json_option
def on(boards: tuple[str, ...], rig_name: str, as_json: bool) -> None:
    """Switch BOARDS on."""
    _switch(boards, rig_name, as_json, "on")


@power.command()
@boards_argument
@rig_option("lab")
@json_option
def off(boards: tuple[str, ...], rig_name: str, as_json: bool) -> None:
    """Switch BOARDS off."""
    _switch(boards, rig_name, as_json, "off")


@power.command()
@boards_argument
@click.option("--off-s", type=click.FloatRange(0, 3600), default=0.3, show_default=True, help="Seconds without power.")
@rig_option("lab")
@json_option
def cycle(boards: tuple[str, ...], off_s: float, rig_name: str, as_json: bool) -> None:
    """Switch BOARDS off and on again."""
    _switch(boards, rig_name, as_json, "off", "on", pause_s=off_s)


@power.command()
@boards_argument
@rig_option("lab")
@json_option
def reset(boards: tuple[str, ...], rig_name: str, as_json: bool) -> None:
    """Pull the reset pin of BOARDS; their supply stays."""
    _switch(boards, rig_name, as_json, "reset")


@power.command()
@boards_argument
@rig_option("lab")
@json_option
def state(boards: tuple[str, ...], rig_name: str, as_json: bool) -> None:
    """Read the switches of BOARDS."""
    _switch(boards, rig_name, as_json)
