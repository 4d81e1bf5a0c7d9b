"""Short names in the firmware's modules before they are compiled: a board keeps each name that it meets on its heap.

Some names are nobody's but one module's: what a function calls its arguments, what an object calls what only it touches
(`self._x`, methods too), and a module's own functions, classes and tables (`_x`). Where such a name means nothing else
it becomes one letter or two, the same ones in every module; an object's own stay behind a `_` and in the same order.
What modules know of each other keeps its name, and lines keep their numbers, so that tracebacks name places in the
sources. What the modules do must not change: where this file is in doubt about a name, the name stays.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, pairwise, product
from string import ascii_letters

from .firmware_syntax import parse

Edit = tuple[int, int, int, str]  # line, from and to in bytes, what stands there then


@dataclass
class Module:
    """One module's names. fixed: those that mean something beyond what may be renamed."""

    tree: ast.Module
    arguments: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)  # of self._x
    names: set[str] = field(default_factory=set)  # every bare one
    attributes: set[str] = field(default_factory=set)  # every other one
    globals: set[str] = field(default_factory=set)  # private ones of the module, but for constants
    fixed: set[str] = field(default_factory=set)
    bases: set[str] = field(default_factory=set)  # modules that classes of this one are derived from


def shortened(modules: Mapping[str, bytes], entry: Iterable[bytes] = ()) -> dict[str, bytes]:
    """All modules of a board, path -> text, with short names. entry: what else runs beside them and keeps its own."""
    try:
        read = {path: _read(parse(text)) for path, text in modules.items()}
        others = [_read(parse(text)) for text in entry]
    except SyntaxError:
        return dict(modules)  # the compiler says so, with the file and the line
    if any(isinstance(node, ast.keyword) and node.arg is None for one in read.values() for node in ast.walk(one.tree)):
        return dict(modules)  # f(**table): an argument's name may be any text
    known = [*read.values(), *others]
    kept = set(chain.from_iterable(module.fixed | module.attributes for module in known))
    every = set(chain.from_iterable(module.private for module in known))
    private = every - kept - set(chain.from_iterable(module.names | module.arguments for module in known))
    private -= set(chain.from_iterable(module.private for module in others))
    kept |= every - private
    result = {}
    for path, text in modules.items():
        module = read[path]
        arguments = module.arguments - kept - set(dir(builtins)) - {"self"}
        arguments |= module.globals - kept - every - module.arguments
        taken = kept | module.names | module.arguments
        mine = dict(zip(sorted(arguments), _free(taken), strict=False))
        # A class of this module may be derived from one of another: their objects have both one's names.
        family = _family(path, read)
        relatives = sorted(set(chain.from_iterable(read[name].private & private for name in family)))
        own = {old: new for old, new in _in_order(relatives, kept).items() if old in module.private}
        result[path] = _apply(text, _edits(module.tree, mine, own))
    return result


def _free(taken: set[str]) -> Iterator[str]:
    words = ("".join(letters) for length in (1, 2) for letters in product(ascii_letters, repeat=length))
    return (word for word in words if word not in taken and not hasattr(builtins, word) and word not in ("as", "if"))


def _in_order(names: Iterable[str], kept: set[str]) -> dict[str, str]:
    """Short names for names that begin with `_`. Sorted, they stand where the long ones stood, also between those that
    are kept: the flight recorder of a board and its replay on the host look at an object's fields in that order."""
    words = [word for word in map("_{}".format, _free(set())) if word not in kept]
    fences = ["_", *sorted(name for name in kept if _is_private(name)), "`"]
    result: dict[str, str] = {}
    for low, high in pairwise(fences):
        between = [name for name in sorted(names) if low < name < high]
        shorter = sorted([word for word in words if low < word < high][: len(between)])
        result.update(zip(between, shorter if len(shorter) == len(between) else between, strict=True))
    return result


# What a module says.


def _read(tree: ast.Module) -> Module:
    module = Module(tree)
    top = set(tree.body)
    methods = {node for one in ast.walk(tree) if isinstance(one, ast.ClassDef) for node in one.body if _is_method(node)}
    for statement in tree.body:
        (module.globals if _is_global(statement) else module.fixed).update(_bound(statement))
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            module.arguments.add(node.arg)
        elif isinstance(node, ast.Name):
            module.names.add(node.id)
        elif isinstance(node, ast.Attribute):
            (module.private if _is_own(node) else module.attributes).add(node.attr)
        elif node not in methods and not (node in top and _is_global(node)):
            module.fixed |= _meant(node)
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                (module.private if _is_method(statement) else module.fixed).update(_bound(statement))
    module.bases = _bases(tree)
    return module


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_own(node: ast.Attribute) -> bool:
    return _is_private(node.attr) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _is_method(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_private(node.name)


def _is_global(node: ast.AST) -> bool:
    """A module's own function, class or table; constants are not, which the compiler puts where they are used."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return _is_private(node.name)
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name) or len(node.targets) > 1:
        return False
    return _is_private(node.targets[0].id) and not ast.unparse(node.value).startswith("const(")


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement gives its module or class."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _meant(node: ast.AST) -> set[str]:
    """The names in a node that are texts, or that somebody else may know."""
    if isinstance(node, ast.keyword | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
        name = node.arg if isinstance(node, ast.keyword) else node.name
        return {name} if name else set()
    if isinstance(node, ast.Global | ast.Nonlocal):
        return set(node.names)
    if isinstance(node, ast.alias):
        return {*node.name.split("."), node.asname or node.name}
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        words = node.value.split()
        # What getattr and the like may be asked for.
        return {word for word in words if len(words) == 1 or word.startswith("_")}
    return set()


def _bases(tree: ast.Module) -> set[str]:
    """The last parts of the names of modules that this one imports what it derives a class from."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    derived = {
        base.id if isinstance(base, ast.Name) else ast.unparse(base).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) in derived - own:
                    found |= {(node.module or alias.name).split(".")[-1], alias.name}
    return found


def _family(path: str, read: Mapping[str, Module]) -> set[str]:
    """The modules whose classes are derived from each other, this one's among them."""
    family = {path}
    while True:
        bases = set(chain.from_iterable(read[name].bases for name in family))
        stems = {name.rsplit("/", 1)[-1].removesuffix(".py") for name in family}
        more = {
            name for name in read if name.rsplit("/", 1)[-1].removesuffix(".py") in bases or read[name].bases & stems
        }
        if more <= family:
            return family
        family |= more


# What becomes of it.


def _edits(tree: ast.Module, arguments: Mapping[str, str], private: Mapping[str, str]) -> Iterator[Edit]:
    top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.arg in arguments:
            yield node.lineno - 1, node.col_offset, node.col_offset + len(node.arg.encode()), arguments[node.arg]
        elif isinstance(node, ast.Name) and node.id in arguments:
            yield node.lineno - 1, node.col_offset, node.col_offset + len(node.id.encode()), arguments[node.id]
        elif isinstance(node, ast.Attribute) and _is_own(node) and node.attr in private:
            end = node.end_col_offset or 0
            yield (node.end_lineno or node.lineno) - 1, end - len(node.attr.encode()), end, private[node.attr]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in arguments and node in top:
            start = node.col_offset + len("def " if isinstance(node, ast.FunctionDef) else "class ")
            yield node.lineno - 1, start, start + len(node.name.encode()), arguments[node.name]
        if isinstance(node, ast.ClassDef):
            for one in node.body:
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name in private:
                    start = one.col_offset + len("async def " if isinstance(one, ast.AsyncFunctionDef) else "def ")
                    yield one.lineno - 1, start, start + len(one.name.encode()), private[one.name]


def _apply(text: bytes, edits: Iterable[Edit]) -> bytes:
    lines = text.splitlines(keepends=True)
    for line, start, end, name in sorted(set(edits), reverse=True):
        lines[line] = lines[line][:start] + name.encode() + lines[line][end:]
    return b"".join(lines)
