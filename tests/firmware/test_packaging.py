"""What boards freeze, and what `mip` installs; the frozen _boot.py leaves the journal alone."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from pathlib import Path
from typing import Any

import pytest

FIRMWARE = Path(__file__).resolve().parent.parent.parent / "firmware"
SOURCES = sorted(str(path.relative_to(FIRMWARE)) for path in FIRMWARE.glob("brownout_node/**/*.py"))


class Options:
    def defaults(self, **values: Any) -> None:
        for name, value in values.items():
            if not hasattr(self, name):
                setattr(self, name, value)


def run_manifest(path: Path, **given: Any) -> list[tuple[str, ...]]:
    """The calls that a manifest makes, with those of the manifests beside it that it includes."""
    calls: list[tuple[str, ...]] = []
    options = Options()
    options.defaults(**given)

    def include(name: str, **inner: Any) -> None:
        if name.startswith("$"):
            calls.append(("include", name))
        else:
            calls.extend(run_manifest(path.parent / name, **inner))

    def existing(kind: str, name: str, **_options: Any) -> None:
        assert (path.parent / name).exists(), f"{path}: {name}"
        calls.append((kind, name))

    names = {
        "options": options,
        "include": include,
        "metadata": lambda **_values: None,
        "require": lambda name: calls.append(("require", name)),
        "package": functools.partial(existing, "package"),
        "module": functools.partial(existing, "module"),
        "freeze": lambda folder, files: calls.append(("freeze", folder, *files)),
    }
    exec(compile(path.read_text(), str(path), "exec"), names)
    return calls


def test_the_manifest_freezes_the_firmware_beside_the_boards_own():
    calls = run_manifest(FIRMWARE / "manifest.py")
    assert ("include", "$(PORT_DIR)/boards/manifest.py") in calls
    assert {("package", "brownout_node"), ("module", "boot.py"), ("module", "main.py"), ("require", "ssl")} <= set(
        calls
    )


def test_the_manifest_of_rp2_has_its_own_boot_and_not_the_boards():
    calls = run_manifest(FIRMWARE / "frozen/rp2/manifest.py")
    assert ("include", "$(PORT_DIR)/boards/manifest.py") not in calls
    assert {("package", "brownout_node"), ("module", "_boot.py"), ("include", "$(MPY_DIR)/extmod/asyncio")} <= set(
        calls
    )


def test_the_package_lists_the_files_that_there_are():
    document = json.loads((FIRMWARE / "package.json").read_text())
    assert document["urls"] == [[name, name] for name in SOURCES]


def test_mip_installs_the_package(run_micropython, tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(FIRMWARE)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        run_micropython(
            f"import mip\nmip.install('http://127.0.0.1:{server.server_address[1]}/package.json', target='lib')\n"
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    installed = sorted(str(path.relative_to(tmp_path / "lib")) for path in (tmp_path / "lib").rglob("*.py"))
    assert installed == SOURCES
    for name in SOURCES:
        assert (tmp_path / "lib" / name).read_bytes() == (FIRMWARE / name).read_bytes()


@pytest.mark.parametrize("stock", [False, True], ids=["blank", "after a stock build"])
def test_the_boot_of_rp2_leaves_the_journal_its_blocks(run_micropython, stock):
    printed = run_micropython(
        "import os, rp2, vfs\n"
        + ("vfs.VfsLfs2.mkfs(rp2.Flash(), progsize=256)\n" if stock else "")
        + "rp2.chip.program(33 * 4096, bytes(256))\n"  # something in the journal
        + "journal = bytes(rp2.chip.data[32 * 4096 :])\n"
        + f"source = open({str(FIRMWARE / 'frozen/rp2/_boot.py')!r}).read()\n"
        + "vfs.umount('/')\n"
        + "exec(source, {})\n"
        + "with open('/x', 'w') as file:\n    file.write('kept')\n"
        + "vfs.umount('/')\n"
        + "exec(source, {})\n"
        + "print(open('/x').read(), rp2.chip.data[32 * 4096 :] == journal)\n",
        standins=True,
    )
    assert printed == "kept True\n"
