"""brownout export: a run in another format."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

from ..contracts import UsageError
from .common import LiveProgress
from .explore import parse_time

# Format -> the module of brownout.export that writes it.
MODULES = {
    "jepsen-edn": "jepsen_edn",
    "jsonl": "jsonl",
    "csv": "csv",
    "parquet": "parquet",
    "shiviz": "shiviz",
    "perfetto": "perfetto",
}
FORMATS = ("test", *MODULES)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--as", "form", type=click.Choice(FORMATS), required=True, help="The format.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write; named after the run if left out.")
@click.option("--check", help="test: the check to violate; the first that the run violated if left out.")
@click.option("--time-limit", default="2m", show_default=True, help="test: shrink no longer than that.")
def export(run: Path, form: str, out: Path | None, check: str | None, time_limit: str) -> int:
    """Write a RUN in another format, and print the file's path.

    test: a pytest file that carries the smallest campaign out which violates what the run violated, on simulated
    boards. It fails with the firmware that the run's boards had, and passes with one that is mended.

    jepsen-edn, jsonl: the operations on registers, for `brownout check FILE --model cas-register`. csv, parquet: every
    event, with the host's time by its board's clock. shiviz: vector clocks. perfetto: a trace of boards, clients and
    faults.
    """
    if form != "test":
        if check is not None:
            raise UsageError(f"--check {check}: is for --as test alone, and --as {form} was asked for")
        return _written(run, MODULES[form], out)
    return _as_test(run, out, check, time_limit)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The archive to write; named after the run if left out.")
def bundle(run: Path, out: Path | None) -> int:
    """Pack a RUN into one archive that checks and replays wherever brownout is installed; print its path."""
    return _written(run, "bundle", out)


def _written(run: Path, module: str, out: Path | None) -> int:
    form = importlib.import_module(f"brownout.export.{module}")
    path = out or Path(run.resolve().name + form.SUFFIX)
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(f"--out {path}: not the path of a file in a folder that there is")
    click.echo(str(form.export(run, path)))
    return 0


def _as_test(run: Path, out: Path | None, check: str | None, time_limit: str) -> int:
    from ..export import test
    from ..replay import firmware

    limit_s = parse_time(time_limit)
    if firmware.is_recorded(run) and not firmware.in_place(run):
        words = ["export", str(run), "--as", "test", "--time-limit", time_limit]
        words += ["--out", str(out)] if out is not None else []
        return firmware.run_with(run, [*words, "--check", check] if check is not None else words)

    with LiveProgress() as progress:
        path = test.export(
            run,
            out,
            check=check,
            time_limit_s=limit_s,
            progress=lambda what, size: progress(
                f"shrink {what}: {', '.join(f'{count} {name}' for name, count in size.items())}", 0, 1
            ),
        )
    click.echo(str(path))
    return 0
