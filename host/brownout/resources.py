"""Finds the data that ships with Brownout: firmware files, rigs, board models and campaigns.

In a checkout they lie in `firmware/` and `testbed/`; in an installed wheel inside this package. Must not read them.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from .contracts import RigError

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent.parent


def _directory(in_wheel: str, in_checkout: str) -> Path:
    for candidate in (_PACKAGE / in_wheel, _CHECKOUT / in_checkout):
        if candidate.is_dir():
            return candidate
    raise RigError(f"this installation of brownout lacks its folder {in_wheel!r}; install it again")


def firmware_directory() -> Path:
    """Where boot.py, main.py, manifest.py and package.json lie."""
    return _directory("_firmware", "firmware")


def firmware_package() -> Path:
    """The folder of `brownout_node`, the package that runs on boards."""
    spec = find_spec("brownout_node")
    if spec is None or not spec.submodule_search_locations:
        raise RigError("the package brownout_node, the firmware, is not installed; install brownout again")
    return Path(next(iter(spec.submodule_search_locations)))


def rigs_directory() -> Path:
    return _directory("_testbed/rigs", "testbed/rigs")


def models_directory() -> Path:
    return _directory("_testbed/models", "testbed/models")


def campaigns_directory() -> Path:
    return _directory("_testbed/campaigns", "testbed/campaigns")


def shipped(directory: Path) -> list[str]:
    """Names of the TOML documents in one of these folders, sorted."""
    return sorted(path.stem for path in directory.glob("*.toml"))
