"""What boards do without, taken out of the firmware's modules before they are compiled: 13 KiB of a board's heap.

Names of rows and of fields are for people, hosts and whoever reads telemetry; so are the rows of protocols that a board
does not load; and the numbers of schema.py stand where they are used. Lines keep their numbers, so that tracebacks name
places in the sources. What the modules do must not change.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from .firmware_syntax import parse

CORE = "brownout_node/core/"
SCHEMA = CORE + "schema.py"
# The kinds of messages and of events that schema.py names for protocols which a board may or may not load.
SCHEMA_KINDS = {"membership": range(16, 32), "gossip": range(32, 48), "vote": range(48, 64)}
FIELD = re.compile(rb"\b([a-z][a-z0-9_]*):(?=[a-z\[])")
ROW_NAME = re.compile(rb'(\(\s*\w+,\s*|^\s*)"[a-z_]+"(?=,)')


def slimmed(modules: Mapping[str, bytes], entry: Iterable[bytes] = ()) -> dict[str, bytes]:
    """All modules of a board, path -> text, without what it does not need. entry: what else runs beside them."""
    named = {word for text in modules.values() for word in _named(text)}
    left_out = _left_out(modules)
    slim_ones = {name: slim(text, named, left_out if name == SCHEMA else ()) for name, text in modules.items()}
    if SCHEMA not in modules:
        return slim_ones
    numbers = _numbers(modules[SCHEMA])
    imported = {name for text in modules.values() for name in _imported(text)}
    imported |= {found.decode() for text in entry for found in re.findall(rb"schema\.(\w+)", text)}
    folded = {name: fold(text, numbers) for name, text in slim_ones.items()}
    return {name: _own(text, imported, folded if name != SCHEMA else {}) for name, text in folded.items()}


def _own(source: bytes, imported: Collection[str], others: Mapping[str, bytes]) -> bytes:
    """A module with its own numbers where they are used, and without the names of those that no other asks for."""
    numbers = _numbers(source)
    asked = {name for name in numbers if any(re.search(rb"\.%s\b" % name.encode(), text) for text in others.values())}
    return _without(fold(source, numbers, own=True), set(numbers) - asked - set(imported))


# Numbers.


def _numbers(source: bytes) -> dict[str, int]:
    """The integers that a module gives names once and for all."""
    found = {}
    names = [node for node in _walk(source) if isinstance(node, ast.Name)]
    given = Counter(node.id for node in names if not isinstance(node.ctx, ast.Load))
    changed = {name for node in _walk(source) if isinstance(node, ast.Global) for name in node.names}
    changed |= {name for name, times in given.items() if times > 1}
    for node in _assignments(source):
        value = _integer(node.value)
        name = node.targets[0].id if isinstance(node.targets[0], ast.Name) else ""
        if value is not None and name.isupper() and not name.startswith("_") and name not in changed:
            found[name] = value
    return found


def _integer(node: ast.expr) -> int | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return value if type(value) is int else None


def _imported(source: bytes) -> set[str]:
    """The names that a module imports one by one."""
    return {alias.name for node in _walk(source) if isinstance(node, ast.ImportFrom) for alias in node.names}


def fold(source: bytes, numbers: Mapping[str, int], *, own: bool = False) -> bytes:
    """`schema.NAME` becomes its number; in schema.py itself (`own`) NAME does."""
    lines = source.splitlines(keepends=True)
    found = []
    for node in _walk(source):
        if own:
            name = node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else None
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "schema":
            name = node.attr
        else:
            name = None
        if name is not None and name in numbers and isinstance(node, ast.expr) and node.lineno == node.end_lineno:
            found.append((node.lineno - 1, node.col_offset, node.end_col_offset or 0, numbers[name]))
    for line, start, end, number in sorted(found, reverse=True):
        lines[line] = lines[line][:start] + str(number).encode() + lines[line][end:]
    return b"".join(lines)


def _without(source: bytes, names: Collection[str]) -> bytes:
    """Empty lines instead of the assignments of those names."""
    lines = source.splitlines(keepends=True)
    for node in _assignments(source, names):
        lines[node.lineno - 1 : node.end_lineno] = [b"\n"] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    return b"".join(lines)


def _walk(source: bytes) -> list[ast.AST]:
    try:
        return list(ast.walk(parse(source)))
    except SyntaxError:
        return []  # the compiler says so, with the file and the line


# Rows.


def _named(source: bytes) -> list[str]:
    """The names of fields that a module looks for at run time: its FIELD_NAMES."""
    for node in _assignments(source, ("FIELD_NAMES",)):
        if isinstance(node.value, ast.Constant):
            return str(node.value.value).split()
    return []


def slim(source: bytes, named: Collection[str] = (), left_out: Collection[int] = ()) -> bytes:
    """A module without the names in its rows, those of `named` fields kept, and without tables that only hosts read.

    Lines keep their numbers. In MESSAGES and EVENTS `(3, "ping", "probe:u")` becomes `(3, "", ":u")`; the rows of kinds
    that are `left_out` become empty lines.
    """
    lines = source.splitlines(keepends=True)
    for node in _assignments(source, ("MESSAGES", "EVENTS")):
        for row in node.value.elts if isinstance(node.value, ast.Tuple) else ():
            own_lines = node.lineno < row.lineno and (row.end_lineno or 0) < (node.end_lineno or 0)
            if own_lines and left_out and _kind(source, row) in left_out:
                lines[row.lineno - 1 : row.end_lineno] = [b"\n"] * ((row.end_lineno or row.lineno) - row.lineno + 1)
    for node in _rows(source):
        for place in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[place] = FIELD.sub(lambda found: found[0] if found[1].decode() in named else b":", lines[place])
            lines[place] = ROW_NAME.sub(rb'\1""', lines[place])
    for node in _assignments(source, ("OPERATIONS", "STATUSES")):
        first, last = node.lineno - 1, node.end_lineno or node.lineno
        name = lines[first].split(b"=")[0].rstrip()
        lines[first:last] = [name + b" = ()\n", *[b"\n"] * (last - first - 1)]
    return b"".join(lines)


def _left_out(modules: Collection[str]) -> set[int]:
    """The kinds of the protocols in schema.py that a board with these modules cannot load."""
    return {kind for name, kinds in SCHEMA_KINDS.items() if f"{CORE}{name}.py" not in modules for kind in kinds}


def _kind(source: bytes, row: ast.expr) -> int | None:
    """The number of a row that stands on lines of its own, by its name in the module."""
    first = row.elts[0] if isinstance(row, ast.Tuple) and row.elts else None
    if not isinstance(first, ast.Name):
        return None
    for node in _assignments(source, (first.id,)):
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, int):
            return node.value.value
    return None


def _rows(source: bytes) -> list[ast.Assign]:
    """The assignments of rows, and of texts that are the fields of one."""
    texts = [
        node
        for node in _assignments(source)
        if isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and re.fullmatch(r"([a-z][a-z0-9_]*:[a-z0-9\[\]]+ ?)+", node.value.value)
    ]
    return [*_assignments(source, ("MESSAGES", "EVENTS")), *texts]


def _assignments(source: bytes, names: Collection[str] | None = None) -> list[ast.Assign]:
    """Those of a module's top level that give one of the names, or any, its value; none where it does not parse."""
    try:
        body = parse(source).body
    except SyntaxError:
        return []  # the compiler says so, with the file and the line
    return [
        node
        for node in body
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and (names is None or target.id in names) for target in node.targets)
    ]
