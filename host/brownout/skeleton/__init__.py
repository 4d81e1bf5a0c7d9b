"""The files that `brownout new protocol` begins a protocol with. Must not be imported by what it makes."""

from __future__ import annotations

import zlib
from importlib.resources import files
from pathlib import Path
from string import Template

from ..contracts import UsageError
from ..protocols import MESSAGES, PROTOCOLS

FIRST, COUNT = 200, 50  # numbers kept for protocols that do not ship
LONGEST = 16
FILES = (("protocol.py.txt", "{}.py"), ("campaign.toml.txt", "{}.toml"), ("check.py.txt", "check_{}.py"))
TEST = ("test.py.txt", "test_{}.py")


def new_protocol(name: str, folder: Path) -> list[Path]:
    """Write a protocol called `name`, its campaign, check and test into a new folder; the files.

    UsageError where the name cannot be one of a protocol, or the folder is there already.
    """
    if not (name.isascii() and name.isidentifier() and name == name.lower() and len(name) <= LONGEST):
        raise UsageError(f"{name!r}: no name of a protocol; allowed: 1 to {LONGEST} of a-z, 0-9 and _, a letter first")
    if name in PROTOCOLS:
        raise UsageError(f"{name!r}: there is a protocol of that name; allowed: any but {', '.join(PROTOCOLS)}")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder}: is there already; take another --out") from None
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made ({error.strerror}); take another --out") from error
    words = {
        "name": name,
        "title": "".join(part.capitalize() for part in name.split("_")),
        "campaign": name.replace("_", "-").strip("-"),
        "number": str(_number(name)),
    }
    written = []
    for template, target in (*FILES, TEST):
        path = folder / target.format(name)
        text = files(__name__).joinpath(template).read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(words), encoding="utf-8")
        written.append(path)
    return written


def _number(name: str) -> int:
    """A number on the wire, by the name, so that two protocols made so can mostly be loaded together."""
    number = zlib.crc32(name.encode()) % COUNT
    while FIRST + number in MESSAGES:
        number = (number + 1) % COUNT
    return FIRST + number
