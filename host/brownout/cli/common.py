"""What commands share: the --rig and --json options, documents on standard output, progress on standard error.

Standard output carries results alone, so that `--json` can be piped. Must not know what any command does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    from ..bed import Hand

Command = TypeVar("Command", bound=Callable[..., Any])
SAY_EVERY_S = 5.0  # where nobody watches, one line of progress so often

json_option = click.option("--json", "as_json", is_flag=True, help="Print only a JSON document.")


def rig_option(default: str) -> Callable[[Command], Command]:
    """--rig, with the rig that a command is usually for."""
    return click.option(
        "--rig", "rig_name", default=default, show_default=True, help="A shipped rig's name, or a rig file."
    )


def print_document(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def out() -> Console:
    """Where results go, wrapped only where somebody looks."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would exit with 1, which says `invalid`

    return Output(highlight=False, soft_wrap=not sys.stdout.isatty())


def open_hand(rig_name: str) -> Hand:
    """The switches of a rig that stands by itself; use as a context manager."""
    from ..bed import Hand
    from ..rig import load_rig

    return Hand(load_rig(rig_name))


class LiveProgress:
    """Satisfies contracts.Progress: bars on a terminal, else a line now and then. Use as a context manager."""

    def __init__(self, *, live: bool = True) -> None:
        self._live = live and sys.stderr.isatty()
        self._bars: RichProgress | None = None
        self._tasks: dict[str, Any] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> LiveProgress:
        if self._live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._bars.start()
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._bars is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total)
            self._bars.update(self._tasks[what], completed=done, total=total)
            return
        now = time.monotonic()
        first = what not in self._said
        if first or done >= total or now - self._said[what] >= SAY_EVERY_S:
            if not first and self._said[what] == float("inf"):
                return  # its end has been said
            self._said[what] = float("inf") if done >= total else now
            percent = f" {100 * done // total}%" if total > 1 and not first else ""
            if first or percent:
                print(f"{what}{percent}", file=sys.stderr, flush=True)

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
