"""Check the firmware against what MicroPython has: mypy with the MicroPython stubs of each port, from PyPI.

Stubs of different ports hold the same file names, so each set is installed in a folder of its own, `.venv/stubs/PORT`,
when it is first needed. What is looked for is modules, names and arguments that MicroPython lacks; the firmware itself
carries no types, and faults inside the stubs are left to their authors.

    python tools/lint_firmware.py [PORT ..]     exit code 0: nothing found; 1: found; 2: the stubs cannot be installed
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORTS = {  # port -> its own files
    "unix": ("unix.py",),
    "esp32": ("esp32.py", "chip.py"),
    "rp2": ("rp2.py", "chip.py"),
}
VERSION = "~=1.29.0"
# Codes that ask for types, or follow from untyped code; what is left asks whether a thing exists and is called rightly.
OFF = "var-annotated union-attr assignment index has-type misc arg-type import-untyped operator list-item"

CONFIG = """[mypy]
python_version = 3.11
platform = linux
custom_typeshed_dir = {stubs}
mypy_path = {firmware}:{stubs}
explicit_package_bases = true
no_site_packages = true
check_untyped_defs = true
warn_unused_ignores = true
disable_error_code = {off}

[mypy-brownout_rom]
ignore_missing_imports = true

[mypy-brownout_node.core.config]
disable_error_code = attr-defined
"""


def stubs_of(port: str) -> Path:
    """The folder of a port's stubs, installed at the first use."""
    folder = Path(sys.prefix) / "stubs" / port
    if not (folder / "stdlib").is_dir():
        packages = [f"micropython-{port}-stubs{VERSION}", f"micropython-stdlib-stubs{VERSION}"]
        command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(folder), *packages]
        if subprocess.run(command).returncode != 0:
            print(f"lint_firmware: no stubs for {port}: pip could not install {' '.join(packages)}", file=sys.stderr)
            sys.exit(2)
    return folder


def files_of(port: str) -> list[str]:
    """The firmware as that port runs it: everything but the files of other ports."""
    others = {name for names in PORTS.values() for name in names} - set(PORTS[port])
    package = sorted((ROOT / "firmware/brownout_node").rglob("*.py"))
    chosen = [path for path in package if path.parent.name != "ports" or path.name not in others]
    return [str(path) for path in (*chosen, ROOT / "firmware/boot.py", ROOT / "firmware/main.py")]


def lint(port: str) -> bool:
    """Whether nothing was found."""
    stubs = stubs_of(port)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mypy.ini"
        codes = ", ".join(OFF.split())
        config.write_text(CONFIG.format(stubs=stubs, firmware=ROOT / "firmware", off=codes))
        cache = str(Path(sys.prefix) / "stubs" / f".cache-{port}")
        command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", cache, *files_of(port)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("firmware") and ": error:" in line]
    if "checked" not in done.stdout and not done.stdout.startswith("Success"):
        found.append(f"mypy did not finish: {done.stdout}{done.stderr}")
    print("\n".join([f"firmware against the stubs of {port}: {len(found) or 'nothing'} found", *found]))
    return not found


def main(arguments: list[str]) -> int:
    unknown = set(arguments) - set(PORTS)
    if unknown:
        print(f"lint_firmware: {', '.join(sorted(unknown))}: not a port; allowed: {', '.join(PORTS)}", file=sys.stderr)
        return 2
    found = [lint(port) for port in arguments or PORTS]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
