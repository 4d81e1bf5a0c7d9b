"""The firmware of a next release, as boards of this one may meet it: more fields in every message, a kind nobody knows.

Made from this release's text by exact replacements, so that an upgrade in mid-campaign flashes a build that really
differs, on the wire too. `as_next` gives a message of this release the bytes that the next one would send, for the
simulator, whose boards share one firmware. Must not change what a board decides.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from brownout_node.core.schema import MAX_MESSAGE

from . import resources
from .contracts import RigError

RELEASE = 2
NEWS = 199  # a kind of message that this release has no row for
MORE_FIELDS = b"\x02\x64next"  # RELEASE and a text, as CBOR: what each message ends with

# (file below brownout_node, this release's text, the next one's)
CHANGES = (
    (
        "core/codec.py",
        "    data = _pack(items, (schema.VERSION, cluster, source, boot, sequence, kind) + tuple(fields))\n",
        "    data = _pack(items, (schema.VERSION, cluster, source, boot, sequence, kind) + tuple(fields))\n"
        "    if len(data) <= schema.MAX_MESSAGE - 6:\n"
        '        data = bytes([data[0] + 2]) + data[1:] + b"\\x02\\x64next"\n',
    ),
    (
        "core/node.py",
        "        for protocol in self.protocols:\n            protocol.on_tick()\n",
        "        for protocol in self.protocols:\n            protocol.on_tick()\n"
        "        if now_ms - self._told_ms >= 500:\n"
        "            self._told_ms = now_ms\n"
        "            self.send(schema.ALL, 199, (2,))\n",
    ),
    (
        "core/node.py",
        "        self._handlers = {}\n",
        "        self._handlers = {199: lambda source, kind, fields: None}\n        self._told_ms = 0\n",
    ),
    (
        "core/schema.py",
        '    (PING, "ping", ',
        '    (199, "release", "number:u"),\n    (PING, "ping", ',
    ),
)


def make(folder: Path, source: Path | None = None) -> Path:
    """Write the next release's firmware into `folder`, and return it; `source` is this one's, if it is not ours."""
    shutil.copytree(source or resources.firmware_directory(), folder)
    package = folder / "brownout_node"
    if not package.is_dir():
        shutil.copytree(resources.firmware_package(), package)
    for name, old, new in CHANGES:
        path = package / name
        text = path.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise RigError(f"{path}: the next release cannot be made of it: {old.strip()[:60]!r} is not there once")
        path.write_text(text.replace(old, new), encoding="utf-8")
    return folder


def as_next(data: bytes) -> bytes:
    """A message of this release as the next one would have sent it; one that fills its packet stays as it is."""
    if len(data) > MAX_MESSAGE - len(MORE_FIELDS):
        return data
    return bytes([data[0] + 2]) + data[1:] + MORE_FIELDS
