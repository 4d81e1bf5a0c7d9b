"""A run's folder as one archive, which checks and replays wherever brownout is installed.

The same folder gives the same bytes. Must not leave anything of the run out, nor hold anything else of this machine:
neither owners nor paths.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

from ..contracts import UsageError
from ..store import MANIFEST, read_document

SUFFIX = ".tar.gz"
README = """The run {run}, of brownout.

    tar xf {run}{suffix}
    brownout check {run}
    brownout replay {run}
    brownout report {run}
"""


def export(run: Path, out: Path) -> Path:
    read_document(run, MANIFEST)
    name = run.resolve().name
    if run.resolve() in out.resolve().parents:
        raise UsageError(f"--out {out}: inside the run itself; take a path outside {run}")
    readme = README.format(run=name, suffix=SUFFIX).encode()
    with (
        out.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        _add(archive, f"{name}/README.txt", readme)
        for path in sorted(run.rglob("*")):
            inside = path.relative_to(run).as_posix()
            if path.is_file() and inside != "README.txt":
                _add(archive, f"{name}/{inside}", path.read_bytes())
    return out


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.mode = len(data), 0o644
    archive.addfile(about, io.BytesIO(data))
