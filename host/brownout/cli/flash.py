"""brownout flash: put the firmware onto the boards of a rig."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .common import LiveProgress, json_option, open_hand, out, print_document, rig_option


@click.command()
@click.argument("boards", nargs=-1)
@rig_option("lab")
@json_option
@click.option(
    "--as-image", "folder", type=click.Path(path_type=Path, file_okay=False),
    help="Write each board's file system and new journal as images there instead; `brownout chip write` takes them.",
)  # fmt: skip
@click.option(
    "--blocks",
    type=click.IntRange(8, 65536),
    default=512,
    show_default=True,
    help="Of the file system, 4096 bytes each.",
)
def flash(boards: tuple[str, ...], rig_name: str, as_json: bool, folder: Path | None, blocks: int) -> None:
    """Flash BOARDS (all of the rig, if none is named): what is unchanged is skipped, what is written is verified."""
    if folder is not None:
        _write_images(boards, rig_name, folder, blocks)
        return
    with open_hand(rig_name) as hand, LiveProgress() as progress:
        for board in boards:
            hand.rig.board(board)
        results = hand.flash(progress, list(boards) or None)
    if as_json:
        print_document([asdict(result) for result in results])
        return
    console = out()
    for result in results:
        what = f"{len(result.written)} files written" if result.written else "nothing to write"
        more = f", {len(result.removed)} removed" if result.removed else ""
        more += ", new journal" if result.genesis else ""
        console.print(f"{result.board:12} {what}, {result.unchanged} unchanged{more}, {result.duration_s:.2f} s")


def _write_images(boards: tuple[str, ...], rig_name: str, folder: Path, blocks: int) -> None:
    from ..board_image import JOURNAL_BLOCKS, journal_image, littlefs_image
    from ..flash import config_file

    with open_hand(rig_name) as hand:
        for board in boards:
            hand.rig.board(board)
        targets = hand.flash_targets(list(boards) or None)
    folder.mkdir(parents=True, exist_ok=True)
    for target in targets:
        files = {file.path: file.data for file in (*target.firmware.files, config_file(target.config))}
        journal = journal_image(target.config["cluster"], target.config["board"], JOURNAL_BLOCKS)
        for name, data in (("littlefs", littlefs_image(files, blocks)), ("journal", journal)):
            path = folder / f"{target.board}.{name}"
            path.touch(mode=0o600)  # keys and passwords are in it
            path.chmod(0o600)
            path.write_bytes(data)
            out().print(f"written   {path}", highlight=False)
