"""brownout check: judge the folder of a run again, or a history that somebody else recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import json_option, out, print_document
from .run import EXIT_CODES, show_verdict

if TYPE_CHECKING:
    from ..checkers.histories import Judgement

MODELS = ("cas-register", "kv-append")  # as in checkers/models.py, which a help text need not load
FORMATS = ("jepsen-log", "edn", "jsonl")
COLOURS = {"valid": "green", "invalid": "red", "unknown": "yellow"}
MOST_KEYS = 5  # counter-examples on the terminal; --json has all


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Choice(MODELS),
    metavar="|".join(MODELS),
    help="RUN is a history that somebody else recorded, of this model.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    metavar="|".join(FORMATS),
    help="What its lines are; by .log, .edn or .jsonl if left out.",
)
@click.option(
    "--steps", type=click.IntRange(1), metavar="COUNT", help="Give up, as unknown, a search of more steps than this."
)
@json_option
def check(run: Path, model: str | None, form: str | None, steps: int | None, as_json: bool) -> int:
    """Judge the folder of a RUN again; it needs neither the rig nor the boards.

    With --model, RUN is a file with a history of a register or a key-value store, one event a line (docs/checkers.md).
    """
    from ..contracts import UsageError

    if run.is_file() or model is not None:
        return _check_history(run, model, form, steps, as_json)
    if form is not None or steps is not None:
        raise UsageError(f"{run}: --format and --steps are for a file with a history, which takes --model as well")
    from ..checkers import check_run

    document = check_run(run)
    if as_json:
        print_document(document)
    else:
        show_verdict(document)
    return EXIT_CODES[document["verdict"]]


def _check_history(path: Path, model: str | None, form: str | None, steps: int | None, as_json: bool) -> int:
    from ..checkers import histories, recorded
    from ..contracts import UsageError

    if model is None:
        raise UsageError(f"{path}: a file with a history needs --model; allowed: {', '.join(MODELS)}")
    form = form or recorded.EXTENSIONS.get(path.suffix)
    if form is None:
        guessed = ", ".join(f"{name} for {extension}" for extension, name in recorded.EXTENSIONS.items())
        raise UsageError(
            f"{path}: {path.suffix or 'a name without an extension'} does not tell the format; give --format:"
            f" {', '.join(FORMATS)} (known by the name: {guessed})"
        )
    try:
        judgement = histories.judge(path, form, model, steps)
    except recorded.FormatError as error:
        raise UsageError(f"{error} (model {model}, format {form})") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    document = histories.document(judgement) | {"file": str(path), "model": model, "format": form}
    if as_json:
        print_document(document)
    else:
        _show(judgement, document)
    return EXIT_CODES[document["verdict"]]


def _show(judgement: Judgement, document: dict[str, Any]) -> None:
    from rich.markup import escape

    console = out()
    shown = judgement.failed[:MOST_KEYS]
    for key in shown:
        for line in judgement.counter_example(key):
            console.print(escape(line))
        console.print()
    if len(judgement.failed) > len(shown):
        console.print(f"and {len(judgement.failed) - len(shown)} more keys, in --json")
    for key, finding in judgement.given_up:
        console.print(f"key {escape(repr(key))}: search given up after {finding.steps} steps; more: --steps")
    verdict = document["verdict"]
    console.print(
        f"[bold {COLOURS[verdict]}]{verdict.upper()}[/] {judgement.operations} operations on"
        f" {len(judgement.findings)} keys, {judgement.steps} steps, {judgement.took_s:.2f} s"
    )
