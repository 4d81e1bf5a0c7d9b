"""A run as it happens, in the terminal, by rich: the same picture as the live page. Must not ask the folder itself."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .follow import Follower
from .picture import Picture

LOOK_S = 0.2
LINES = 8
WIDE = 110  # columns
HEIGHTS = 6
MOST_BOARDS = 40
COLOURS = {"valid": "green", "invalid": "red", "unknown": "yellow"}
STAGES = {"applied": "yellow", "proven": "yellow", "unproven": "red", "healed": "green"}


def watch(follower: Follower, console: Console, *, once: bool = False) -> None:
    """Show the run until it ends. Where nobody looks, what happens is printed line by line."""
    if once:
        _read_all(follower)
        console.print(follower.see(partial(render, console.width)))
        return
    if not console.is_terminal:
        _lines(follower, console)
        return
    follower.start()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not follower.ended:
            live.update(follower.see(partial(render, console.width)), refresh=True)
            time.sleep(LOOK_S)
    console.print(follower.see(partial(render, console.width)))


def _read_all(follower: Follower) -> None:
    """Everything that is there now."""
    while follower.step():
        pass
    follower.step()


def _lines(follower: Follower, console: Console) -> None:
    told = 0
    while True:
        follower.step()
        over = follower.ended
        lines, count = follower.see(lambda picture: (list(picture.lines), picture.told))
        for line in lines[len(lines) - min(count - told, len(lines)) :]:
            at = _seconds(line["at_ns"])
            console.print(f"{at:>10}  {line['who']:12} {line['what']:14} {line['text']}", markup=False)
        told = count
        if over:
            console.print(follower.see(_heading))
            return
        time.sleep(LOOK_S)


def render(width: int, picture: Picture) -> RenderableType:
    """The whole picture, in columns that so wide a terminal has room for."""
    return Group(
        _heading(picture),
        _totals(picture),
        _boards(picture, wide=width >= WIDE),
        Columns([_votes(picture), _faults(picture)], padding=(0, 3)),
        _happened(picture),
    )


def _heading(picture: Picture) -> Text:
    run = picture.run
    word = run["verdict"] or run["state"]
    text = Text()
    text.append(f"{word.upper()} ", style=f"bold {COLOURS.get(word, 'cyan')}")
    text.append(f"{run.get('campaign', '')}, seed {run.get('seed', '')}, {run.get('rung', '')}  {run['name']}")
    for check in run["checks"]:
        if check["verdict"] != "valid":
            text.append(f"\n{check['name']}: {check['detail']}", style=COLOURS[check["verdict"]])
    return text


def _totals(picture: Picture) -> Text:
    totals = picture.snapshot()["totals"]
    up = sum(board["state"] == "up" for board in picture.boards.values())
    points = [picture.curves.points[second] for second in sorted(picture.curves.points)][-6:-1]
    rate = sum(point["decisions"] for point in points) / max(1, len(points))
    text = Text(f"{up} of {len(picture.boards)} boards up   {totals['decisions']} decisions, {rate:.1f} a second   ")
    text.append(f"{picture.different()} different digests   ", style="yellow" if picture.different() > 1 else "")
    text.append(f"{totals['conflicts']} conflicts   ", style="bold red" if totals["conflicts"] else "")
    text.append(f"{totals['received']} events, {totals['missing'] + totals['lost']} lost or late   ")
    text.append(f"{totals['ok']} of {totals['operations']} operations done")
    return text


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, header_style="dim", no_wrap=True)
    return table


def _boards(picture: Picture, *, wide: bool) -> Table:
    more = ("digest", "heard last") if wide else ()
    table = _table("Boards", "board", "power", "boot", "role", "height", "events", *more, "")
    for board in list(picture.boards.values())[:MOST_BOARDS]:
        state = Text(board["state"], style={"up": "green", "off": "bold red"}.get(board["state"], "dim"))
        digests = ", ".join(f"{protocol} {digest[:6]}" for protocol, digest in board["digests"].items())
        last = "" if board["last"] is None else f"{board['last']}, {_seconds(board['last_ns'])}"
        role, note = Text(board["role"]), Text(board["note"])
        cells = (_or(board["boot"]), role, _or(board["height"]), str(board["events"]))
        table.add_row(board["name"], state, *cells, *((digests, last) if wide else ()), note)
    return table


def _votes(picture: Picture) -> Table:
    table = _table("Votes and decisions", "height", "proposer", "prevotes", "precommits", "decided", "took")
    for number in sorted(picture.heights, reverse=True)[:HEIGHTS]:
        height = picture.heights[number]
        values = Counter(height["decided"].values())
        counts = [str(len(height[what])) for what in ("prevotes", "precommits", "decided")]
        took = "" if height["took_ms"] is None else f"{height['took_ms']} ms"
        said = Text("decided differently", style="bold red") if len(values) > 1 else Text(took)
        table.add_row(str(number), _or(height["proposer"]), *counts, said)
    return table


def _faults(picture: Picture) -> Table:
    table = _table("Faults", "fault", "kind", "boards", "stage", "applied", "healed")
    for fault in picture.faults.values():
        stage = Text(fault["stage"], style=STAGES.get(fault["stage"], ""))
        times = [_seconds(fault["times"].get(name)) for name in ("applied", "healed")]
        boards = " ".join(fault["boards"]) or fault["select"] or ""
        table.add_row(fault["id"], fault["kind"], Text(boards), stage, *times)
    return table


def _happened(picture: Picture) -> Table:
    table = _table("What happened", "at", "board", "what", "said")
    for column, least in zip(table.columns, (10, 6, 14), strict=False):
        column.min_width = least  # the text of the last column is what gives way
    for line in list(picture.lines)[-LINES:]:
        style = "red" if line["what"] in ("conflict", "gap") else ""
        cells = (line["who"], line["what"], line["text"])
        table.add_row(_seconds(line["at_ns"]), *(Text(cell, style=style) for cell in cells))
    return table


def _or(value: Any) -> str:
    return "" if value is None else str(value)


def _seconds(value_ns: int | None) -> str:
    return "" if value_ns is None else f"{value_ns / 1e9:.3f} s"
