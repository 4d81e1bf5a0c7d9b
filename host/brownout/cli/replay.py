"""brownout replay: the boards of a recorded run once more, on this computer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..contracts import UsageError
from .common import LiveProgress, json_option, out, print_document

if TYPE_CHECKING:
    from ..replay.engine import BootResult, Difference
    from ..replay.follow import Follower

FAITHFUL, DIFFERS, UNKNOWN = 0, 1, 3
LONGEST_VALUE = 160  # characters of a field on the terminal


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--board", help="Follow this board alone, and show its state.")
@click.option("--until", help="Stop at that time of the run, such as 12.4s.")
@click.option("--break", "expression", help="Stop at the first step that changes it or makes it true: 'vote.locked'.")
@click.option("--interactive", is_flag=True, help="A prompt: the board's state, one step forward, one step back.")
@click.option(
    "--pdb", "debug", is_flag=True, help="Python's debugger, in the protocol, at the step that was stopped at."
)
@click.option("--own-firmware", is_flag=True, help="Replay with the firmware that Python imports, not with the run's.")
@json_option
def replay(
    run: Path,
    board: str | None,
    until: str | None,
    expression: str | None,
    interactive: bool,
    debug: bool,
    own_firmware: bool,
    as_json: bool,
) -> int:
    """Give the boards of a RUN what they were given, and compare what they make of it: state, output and events.

    Exit code 0 where every step that was recorded is the same (faithful), 1 where a board differs, 3 where not all of
    the recording could be replayed. With --board: 0 where the step asked for was reached, else 3.
    """
    from ..replay import firmware, recording

    if board is None and (until or expression or interactive or debug):
        raise UsageError("--until, --break, --interactive and --pdb follow one board: say which, --board NAME")
    until_s = None if until is None else parse_moment(until)
    if not own_firmware and not firmware.in_place(run):
        return firmware.run_with(run, _again(run, board, until, expression, interactive, debug, as_json))
    read = recording.read(run)
    if board is None:
        return _replay_all(read, as_json)
    from ..replay.follow import Follower

    follower = Follower(read, board)
    reached = _stop(follower, until_s, expression)
    if debug:
        follower.debug(max(1, follower.step))
    if interactive:
        from .replay_prompt import ReplayPrompt

        ReplayPrompt(follower).cmdloop()
        return FAITHFUL
    if as_json:
        print_document({"board": board, "reached": reached, **place(follower), "state": plain(follower.state())})
    else:
        show_place(follower)
        show_state(follower.state())
        if not reached:
            out().print("the recording ended before that")
    return FAITHFUL if reached else UNKNOWN


def _again(
    run: Path,
    board: str | None,
    until: str | None,
    expression: str | None,
    interactive: bool,
    debug: bool,
    as_json: bool,
) -> list[str]:
    """The same command, for a Python with the run's firmware."""
    words = ["replay", str(run), "--own-firmware"]
    for name, value in (("--board", board), ("--until", until), ("--break", expression)):
        words += [name, value] if value is not None else []
    for name, wanted in (("--interactive", interactive), ("--pdb", debug), ("--json", as_json)):
        words += [name] if wanted else []
    return words


def parse_moment(text: str) -> float:
    """Seconds of the run."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?) ?(s|ms)?", text.strip())
    if match is None:
        raise UsageError(f"--until {text!r}: allowed: seconds of the run, such as 12.4s, or 12400ms")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def _stop(follower: Follower, until_s: float | None, expression: str | None) -> bool:
    if expression is not None:
        reached = follower.until_change(expression)
        late = until_s is not None and follower.at_s is not None and follower.at_s > until_s
        return reached and not late
    if until_s is not None:
        return follower.until(until_s)
    while follower.forward():
        pass
    return True


# The whole run.


def _replay_all(read: Any, as_json: bool) -> int:
    from ..replay import verdict
    from ..replay.engine import Replay
    from ..replay.explain import explain

    engine = Replay(read)
    total = sum(len(boot.steps) for board in read.boards.values() for boot in board.boots)
    with LiveProgress() as progress:
        results = engine.run(lambda done: progress("replay", done, total))
        explain(read, results)
    document = verdict.document(read, engine, results)
    if as_json:
        print_document(document)
    else:
        for result in results:
            _show_boot(result)
        for difference in (result.difference for result in results if result.difference is not None):
            show_difference(difference)
        _show_summary(document)
    return {"faithful": FAITHFUL, "differs": DIFFERS, "unknown": UNKNOWN}[document["replay"]]


def _show_boot(result: BootResult) -> None:
    state = "differs" if result.difference else "same"
    lost_ms = result.last_ms - result.recorded_ms
    tail = f", the last {lost_ms} ms were not recorded" if lost_ms > 0 else ""
    why = f"; {result.why}" if result.why else ""
    out().print(
        f"{result.board:6} boot {result.boot:<4} {result.replayed} of {result.steps} steps {state}, "
        f"{result.inputs} inputs, up to {result.recorded_ms} ms{tail}{why}",
        markup=False,
    )


def show_difference(difference: Difference) -> None:
    console = out()
    told = difference
    console.print(
        f"{told.board} differs at step {told.step} (boot {told.boot}, {told.now_ms} ms, after {told.after}): "
        f"{told.what}; the same up to step {told.since}",
        markup=False,
    )
    console.print(f"  the board    {told.recorded}", markup=False)
    console.print(f"  the replay   {told.replayed}", markup=False)
    if told.found:
        console.print(f"  {told.found}", markup=False)
    console.print("  the replayed board's state at that step:", markup=False)
    show_state(told.state)


def _show_summary(document: dict[str, Any]) -> None:
    console = out()
    steps = f"{document['replayed']} of {document['steps']} steps on {len(document['boards'])} boards"
    if document["replay"] == "faithful":
        console.print(f"[bold green]faithful[/]: {steps}, each boot to its last record")
    elif document["replay"] == "differs":
        console.print(f"[bold red]differs[/]: {steps} replayed, first at step {document['first']}")
    else:
        console.print(f"[bold yellow]unknown[/]: {steps} replayed, and all of these are the same")
    if document["violated"]:
        console.print(f"violates again {', '.join(document['violated'])}")


# One board.


def place(follower: Follower) -> dict[str, Any]:
    board = follower.board
    return {
        "step": follower.step,
        "boot": board.results[-1].boot if board.results else None,
        "now_ms": board.node.now_ms if board.node is not None else None,
        "at_s": follower.at_s,
    }


def show_place(follower: Follower) -> None:
    told = place(follower)
    at = "" if told["at_s"] is None else f", {told['at_s']:.3f} s of the run"
    inputs = ", ".join(f"{entry.kind}{entry.source if entry.kind == 'H' else ''}" for entry in follower.board.entries)
    out().print(f"step {told['step']}, boot {told['boot']}, {told['now_ms']} ms{at}; inputs: {inputs}", markup=False)


def show_state(state: dict[str, Any]) -> None:
    for name, fields in state.items():
        for field, value in fields.items():
            text = repr(value)
            text = text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."
            out().print(f"  {name}.{field} = {text}", markup=False)


def plain(value: Any) -> Any:
    """As JSON can hold it: bytes in hexadecimal, keys as text."""
    if isinstance(value, dict):
        return {str(key.hex() if isinstance(key, bytes) else key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    return value if isinstance(value, (int, str, type(None))) else repr(value)
