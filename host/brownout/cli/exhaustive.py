"""brownout explore --exhaustive: its bounds, and what such a search found. The command itself is in explore.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .common import LiveProgress, out, print_document

if TYPE_CHECKING:
    from ..sim.exhaustive import Searched

Command = TypeVar("Command", bound=Callable[..., Any])
INTERRUPTED = 130
ENDS = {
    "violation": "ended by the violation",
    "exhausted": "there are no more states at any depth",
    "depth": "ended by --depth",
    "time": "ended by --time-limit",
    "states": "ended because there were too many states to keep",
    "interrupted": "interrupted",
}
_BOUNDS = (
    ("boards", (1, 5), 3, "--exhaustive: boards, all of them voters."),
    ("commands", (0, 8), 1, "--exhaustive: clients with one command each, for the boards in turn."),
    ("crashes", (0, 20), 1, "--exhaustive: power cuts of all boards, between any two effects."),
    ("timeouts", (0, 20), 2, "--exhaustive: time-outs of all boards."),
    ("depth", (1, 200), 8, "--exhaustive: steps from the start."),
)


def bounds_options(command: Command) -> Command:
    """The options that say how far an exhaustive search goes; each is None where it is not given."""
    for name, (least, most), default, told in reversed(_BOUNDS):
        told = f"{told.removesuffix('.')} ({default} if left out)."
        command = click.option(f"--{name}", type=click.IntRange(least, most), help=told)(command)
    return command


def search_and_show(bounds: dict[str, int | None], time_limit_s: float | None, as_json: bool) -> int:
    """The exit code: 1 where something is broken."""
    from ..sim.exhaustive import Scope, search

    scope = Scope(**{name: default if (bound := bounds[name]) is None else bound for name, _, default, _ in _BOUNDS})
    with LiveProgress() as progress:
        found = search(
            scope,
            time_limit_s=time_limit_s,
            progress=lambda depth, _: progress("explore --exhaustive, depth", depth, scope.depth),
        )
    if as_json:
        print_document({**asdict(found), "completed": found.completed})
    else:
        show_searched(found)
    return INTERRUPTED if found.ended == "interrupted" else int(found.broken is not None)


def show_searched(found: Searched) -> None:
    from rich.markup import escape

    console = out()
    if found.broken is not None:
        console.print(f"[red]invalid[/]  {found.broken.promise}: {escape(found.broken.detail)}")
        for number, step in enumerate(found.broken.steps, 1):
            console.print(f"{number:7}  {escape(step)}")
    scope = found.scope
    told = ", ".join(
        _count(number, what)
        for number, what in (
            (scope.boards, "board"),
            (scope.commands, "command"),
            (scope.crashes, "crash"),
            (scope.timeouts, "time-out"),
        )
    )
    rate = found.states / found.seconds if found.seconds else 0.0
    console.print(
        f"{told}: {found.states} distinct states, {found.transitions} transitions, in {found.seconds:.1f} s "
        f"({rate:.0f} states a second)"
    )
    console.print(
        f"every state down to depth {found.completed} was seen; {ENDS[found.ended]}. The firmware ran {found.runs} "
        f"times, for {sum(found.locals)} states of single boards and {found.messages} different messages"
    )


def _count(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number} {what}{'es' if what.endswith('sh') else 's'}"
