"""brownout serve and watch: runs as they happen, on a page and in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ..contracts import UsageError
from .common import out

RUNS = Path("runs")
LOOPBACK = "127.0.0.1"


@contextmanager
def live_page(folder: Path, wanted: bool, port: int) -> Iterator[None]:
    """The live page of the runs that this process makes in `folder`, where it is wanted."""
    if not wanted:
        if port:
            raise UsageError("--live-port: only with --live")
        yield
        return
    from ..live import require

    require()
    from ..live.serve import Beside

    with Beside(folder, LOOPBACK, port) as page:
        click.echo(f"live page {page.url}", err=True)
        yield


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), default=RUNS)
@click.option("--port", type=click.IntRange(0, 65535), default=8600, show_default=True, help="0: any free one.")
@click.option(
    "--bind", default=LOOPBACK, show_default=True, help="Address to listen at; others can look on at any other."
)
@click.option("--rig", "rig_name", help="The rig whose power and links --control switches.")
@click.option("--control", is_flag=True, help="Buttons for the power and the links of --rig, behind a token.")
def serve(runs: Path, port: int, bind: str, rig_name: str | None, control: bool) -> None:
    """Show the runs in RUNS on a web page: past ones, the one that goes on, two groups compared; and /metrics.

    Ends with Ctrl-C. Needs the extra `live`.
    """
    if control != (rig_name is not None):
        raise UsageError("serve: --control and --rig go together; the switches are those of that rig")
    from ..live import require

    require()
    from ..live import serve as server

    sock = server.listen(bind, port)
    server.serve(runs, sock, rig_name, lambda line: click.echo(line), terminal=sys.stdout.isatty())


@click.command()
@click.argument("run", type=click.Path(path_type=Path), default=RUNS)
@click.option("--once", is_flag=True, help="Show what is known now, and end.")
def watch(run: Path, once: bool) -> None:
    """Show RUN in the terminal as it happens, until it ends. RUN: its folder, or one of runs, whose newest is shown.

    Where the output is no terminal, what happens is printed line by line.
    """
    from ..live.follow import Follower
    from ..live.terminal import watch as show

    folder = run
    if not (run / "manifest.json").exists():
        found = sorted(path.parent for path in run.glob("*/manifest.json"))
        if not found:
            raise UsageError(f"{run}: no run to watch; give the folder of a run, or one that holds runs")
        folder = found[-1]
    follower = Follower(folder)
    try:
        show(follower, out(), once=once)
    finally:
        follower.close()
