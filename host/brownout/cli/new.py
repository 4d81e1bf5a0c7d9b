"""brownout new: begins something of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from .common import out


@click.group()
def new() -> None:
    """Begin something of your own."""


@new.command()
@click.argument("name")
@click.option("--out", "folder", type=click.Path(path_type=Path), help="A new folder; NAME if left out.")
def protocol(name: str, folder: Path | None) -> int:
    """Write a protocol NAME that works, with a campaign, a check and a test, to be changed."""
    from ..skeleton import new_protocol

    written = new_protocol(name, folder or Path(name))
    for path in written:
        out().print(f"written   {path}", highlight=False)
    campaign = next(path for path in written if path.suffix == ".toml")
    out().print(f"run it    brownout run {campaign} --rig sim --seed 1", highlight=False)
    return 0
