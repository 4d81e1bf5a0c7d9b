"""brownout chip: put images onto chips, before MicroPython runs on them or instead of file by file."""

from __future__ import annotations

from pathlib import Path

import click

from .common import LiveProgress, json_option, out, print_document

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group()
def chip() -> None:
    """Images on chips: MicroPython itself, a file system, a journal."""


@chip.command()
@click.argument("image", type=FILE)
@click.argument("boards", nargs=-1, required=True, metavar="BOARD=PORT...")
@click.option("--chip", "family", required=True, help="esp32, esp32s2, esp32s3, esp32c3, esp32c6, rp2040 or rp2350.")
@click.option("--offset", help="Where the image goes, such as 0x200000; without it where the chip's own begins.")
@click.option("--jobs", type=click.IntRange(1, 64), default=8, show_default=True, help="Boards at once.")
@click.option("--no-reset", is_flag=True, help="The boards are in their boot loaders already, and stay there.")
@click.option(
    "--done", "record", type=click.Path(path_type=Path, dir_okay=False),
    help="A file of what was written: boards that have this image are skipped, and the rest goes on.",
)  # fmt: skip
@json_option
def write(
    image: Path, boards: tuple[str, ...], family: str, offset: str | None, jobs: int, no_reset: bool,
    record: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write IMAGE to boards and verify it: by esptool at a serial port, by picotool at a USB serial number."""
    from dataclasses import asdict

    from ..chip_image import Done, ImageTarget, write_images
    from ..contracts import RigError, UsageError

    try:
        place = int(offset, 0) if offset is not None else None
    except ValueError:
        raise UsageError(f"--offset: {offset!r} is no number such as 0x200000") from None
    targets = []
    for word in boards:
        name, _, port = word.partition("=")
        if not name or not port or port.startswith("-"):
            raise UsageError(f"{word!r}: BOARD=PORT, such as b1=/dev/serial/by-id/usb-...")
        targets.append(ImageTarget(name, port, family, image, place, not no_reset))
    with LiveProgress() as progress:
        results = write_images(targets, jobs=jobs, progress=progress, done=Done(record) if record else None)
    if as_json:
        print_document([asdict(result) for result in results])
    else:
        for result in results:
            said = result.error or ("has it already" if result.skipped else "written and verified")
            out().print(f"{result.board:12} {said}", highlight=False)
    failed = [result.error for result in results if result.error]
    if failed:
        raise RigError("; ".join(failed), definite=False)


@chip.command()
@click.argument("image", type=FILE)
@click.option(
    "--drive", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the board's drive is mounted; without it every drive below /media, /run/media and /mnt.",
)  # fmt: skip
def uf2(image: Path, drive: Path | None) -> None:
    """Copy a UF2 file, checked block by block, onto the drives of boards that were started with BOOTSEL held."""
    from ..contracts import RigError
    from ..uf2 import check, copy, drives

    chip_name = check(image.read_bytes(), str(image))
    roots = [Path("/media"), Path("/run/media"), Path("/mnt")]
    found = [drive] if drive else [path for path, there in drives(roots).items() if there == chip_name]
    if not found:
        raise RigError(
            f"no drive of an {chip_name} is mounted; hold BOOTSEL while the board gets power, or say --drive"
        )
    for path in found:
        out().print(f"{path}: {copy(image, path)} blocks, and the board has started", highlight=False)


@chip.command()
@click.argument("image", type=FILE)
@click.option("--chip", "family", type=click.Choice(["rp2040", "rp2350"]), required=True)
@click.option("--address", required=True, help="Where it goes, such as 0x10100000.")
@click.option("--out", "target", type=click.Path(path_type=Path, dir_okay=False), required=True)
def pack(image: Path, family: str, address: str, target: Path) -> None:
    """Make a UF2 file of IMAGE, such as a file system of `brownout flash --as-image`."""
    from ..contracts import UsageError
    from ..uf2 import PAYLOAD_BYTES, to_uf2

    try:
        place = int(address, 0)
    except ValueError:
        raise UsageError(f"--address: {address!r} is no number such as 0x10100000") from None
    if place % PAYLOAD_BYTES or not 0x10000000 <= place < 0x12000000:
        raise UsageError(f"--address: {address} is no page of the flash, which begins at 0x10000000")
    target.write_bytes(to_uf2(image.read_bytes(), place, family))
    out().print(f"written   {target}", highlight=False)
