"""Reads TOML documents strictly: every fault is a UsageError that names the file, the key and what is allowed.

A Table wraps one table of a document together with its place, and hands out checked values. Readers first say with
`only` which keys exist, then take them. Must not know what any document means.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .contracts import UsageError

LARGEST_DOCUMENT_BYTES = 1_000_000
LARGEST_SEED = 2**63 - 1
_TYPE_NAMES = {
    str: "text",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "a table",
}


class _Required:
    """Marks a key without a default."""


REQUIRED: Final = _Required()


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A hint for a misspelt name, or nothing: " (did you mean 'x'?)"."""
    found = difflib.get_close_matches(name, sorted(allowed), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""


def shown(value: Any) -> str:
    """A value as it goes into a message, cut to a line."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."


def parse_seed(text: object) -> int:
    """A seed from the command line."""
    digits = str(text)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19 and int(digits) <= LARGEST_SEED):
        raise UsageError(f"seed: {shown(text)} is not a seed; allowed: an integer from 0 to 2**63 - 1")
    return int(digits)


def read_document(path: Path) -> dict[str, Any]:
    """The TOML document in a file."""
    try:
        if path.is_dir():
            raise UsageError(f"{path}: this is a folder; a TOML file is needed")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: not a regular file; a TOML file is needed")
        with path.open("rb") as file:
            data = file.read(LARGEST_DOCUMENT_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{str(path)!r}: cannot be read: {reason}") from None
    if len(data) > LARGEST_DOCUMENT_BYTES:
        raise UsageError(f"{path}: larger than {LARGEST_DOCUMENT_BYTES} bytes; this is no document of brownout")
    return parse_document(data, str(path))


def parse_document(data: bytes, source: str) -> dict[str, Any]:
    """The TOML document in `data`; `source` is how messages call it."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{source}: not a text file (byte {error.start} is not UTF-8); a TOML file is needed"
        ) from None
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{source}: nested too deeply to be read as TOML") from None
    except ValueError as error:  # bad TOML, or a number of thousands of digits
        raise UsageError(f"{source}: not valid TOML: {error}") from None


class Table:
    """One table of a document. `source` is the file, `place` the dotted path of the table within it."""

    def __init__(self, values: Mapping[str, Any], source: str, place: str = "") -> None:
        self.values = values
        self.source = source
        self.place = place

    @classmethod
    def read(cls, path: Path) -> Table:
        return cls(read_document(path), str(path))

    def key(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name

    def error(self, name: str, what: str, allowed: str) -> UsageError:
        """The error about key `name` of this table."""
        return UsageError(f"{self.source}: {self.key(name)}: {what}; allowed: {allowed}")

    def only(self, *names: str) -> None:
        """Refuse every key but these."""
        for name in self.values:
            if name not in names:
                raise self.error(name, f"unknown key{nearest(name, names)}", ", ".join(sorted(names)) or "none")

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def _take(self, name: str, default: Any, allowed: str) -> Any:
        """The raw value of a key, or its default; `allowed` goes into the error where it is missing."""
        if name in self.values:
            return self.values[name]
        if default is REQUIRED:
            raise self.error(name, "is missing", allowed)
        return default

    def _typed(self, name: str, value: Any, types: tuple[type, ...], allowed: str) -> Any:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            kind = _TYPE_NAMES.get(type(value), type(value).__name__)
            raise self.error(name, f"{shown(value)} is {kind}", allowed)
        return value

    # Values.

    def text(self, name: str, default: Any = REQUIRED, *, most: int = 256) -> Any:
        allowed = f"text of 1 to {most} characters"
        if name not in self.values and default is not REQUIRED:
            return default
        value = self._typed(name, self._take(name, default, allowed), (str,), allowed)
        if not 0 < len(value) <= most:
            raise self.error(name, f"{shown(value)} has {len(value)} characters", allowed)
        return value

    def word(self, name: str, default: Any = REQUIRED) -> Any:
        """A name as it goes into topics, files and ids."""
        value = self.text(name, default, most=32)
        if name in self.values:
            self._check_word(name, value)
        return value

    def _check_word(self, name: str, value: str) -> None:
        if not value.isascii() or not value.replace("-", "").replace("_", "").isalnum() or value != value.lower():
            raise self.error(name, shown(value), "lower-case letters a-z, digits, - and _, at most 32")
        if value.startswith("-"):  # it becomes an argument of programs, which would take it for an option
            raise self.error(name, shown(value), "a name that does not begin with -")

    def choice(self, name: str, choices: Sequence[str], default: Any = REQUIRED) -> Any:
        allowed = ", ".join(choices)
        if name not in self.values and default is not REQUIRED:
            return default
        value = self._typed(name, self._take(name, default, allowed), (str,), allowed)
        if value not in choices:
            raise self.error(name, f"unknown {name} {shown(value)}{nearest(value, choices)}", allowed)
        return value

    def boolean(self, name: str, default: Any = REQUIRED) -> Any:
        return self._typed(name, self._take(name, default, "true or false"), (bool,), "true or false")

    def integer(self, name: str, low: int, high: int, default: Any = REQUIRED, *, what: str = "an integer") -> Any:
        allowed = f"{what} from {low} to {high}"
        if name not in self.values and default is not REQUIRED:
            return default
        value = self._typed(name, self._take(name, default, allowed), (int,), allowed)
        if not low <= value <= high:
            raise self.error(name, shown(value), allowed)
        return value

    def number(self, name: str, low: float, high: float, default: Any = REQUIRED, *, what: str = "a number") -> Any:
        allowed = f"{what} from {low:g} to {high:g}"
        if name not in self.values and default is not REQUIRED:
            return default
        return self._number(name, self._take(name, default, allowed), low, high, allowed)

    def seconds(self, name: str, low: float, high: float, default: Any = REQUIRED) -> Any:
        return self.number(name, low, high, default, what="a number of seconds")

    def _number(self, name: str, raw: Any, low: float, high: float, allowed: str) -> float:
        value = self._typed(name, raw, (int, float), allowed)
        if isinstance(value, float) and not math.isfinite(value) or not low <= value <= high:
            raise self.error(name, shown(value), allowed)
        return float(value)

    def interval(self, name: str, low: float, high: float, default: Any = REQUIRED) -> Any:
        """Two numbers of seconds, the first not above the second."""
        allowed = f"[least, most], two numbers of seconds from {low:g} to {high:g}"
        if name not in self.values and default is not REQUIRED:
            return default
        value = self._typed(name, self._take(name, default, allowed), (list,), allowed)
        if len(value) != 2:
            raise self.error(name, f"{shown(value)} has {len(value)} elements", allowed)
        least, most = (self._number(f"{name}[{at}]", entry, low, high, allowed) for at, entry in enumerate(value))
        if least > most:
            raise self.error(name, f"{shown(value)} is the wrong way round", allowed)
        return least, most

    def texts(self, name: str, default: Any = REQUIRED, *, choices: Sequence[str] | None = None, what: str = "") -> Any:
        """A list of one or more different texts, each one of `choices` if those are given."""
        allowed = what or ("a list of " + (", ".join(choices) if choices else "texts"))
        if name not in self.values and default is not REQUIRED:
            return default
        value = self._typed(name, self._take(name, default, allowed), (list,), allowed)
        return self._texts(name, value, choices, allowed)

    def _texts(self, name: str, value: list[Any], choices: Sequence[str] | None, allowed: str) -> tuple[str, ...]:
        if not value:
            raise self.error(name, "the list is empty", allowed)
        for at, entry in enumerate(value):
            place = f"{name}[{at}]"
            self._typed(place, entry, (str,), allowed)
            if choices is not None and entry not in choices:
                raise self.error(place, f"unknown {shown(entry)}{nearest(entry, choices)}", allowed)
            if entry in value[:at]:
                raise self.error(place, f"{shown(entry)} comes twice", allowed)
        return tuple(value)

    def groups(self, name: str, default: Any = REQUIRED) -> Any:
        """Two or more lists of texts, no text twice."""
        allowed = 'two or more lists of board names, such as [["b1"], ["b2", "b3"]], no board twice'
        if name not in self.values and default is not REQUIRED:
            return default
        value = self._typed(name, self._take(name, default, allowed), (list,), allowed)
        if len(value) < 2:
            raise self.error(name, f"{shown(value)} has {len(value)} elements", allowed)
        seen: list[str] = []
        result = []
        for at, entry in enumerate(value):
            place = f"{name}[{at}]"
            group = self._texts(place, self._typed(place, entry, (list,), allowed), None, allowed)
            for member in group:
                if member in seen:
                    raise self.error(place, f"{shown(member)} comes twice", allowed)
                seen.append(member)
            result.append(group)
        return tuple(result)

    # Tables within.

    def table(self, name: str, default: Any = REQUIRED) -> Table:
        """The table of that name; an absent one is empty where a default is given."""
        value = self._typed(name, self._take(name, default, "a table"), (dict,), "a table")
        return Table(value, self.source, self.key(name))

    def tables(self, name: str) -> list[Table]:
        """The tables of an array such as [[fault]]; none where it is absent."""
        allowed = f"an array of tables, each begun by [[{self.key(name)}]]"
        value = self._typed(name, self.values.get(name, []), (list,), allowed)
        for at, entry in enumerate(value):
            self._typed(f"{name}[{at}]", entry, (dict,), allowed)
        return [Table(entry, self.source, f"{self.key(name)}[{at}]") for at, entry in enumerate(value)]

    def named_tables(self, name: str) -> dict[str, Table]:
        """The tables [name.x], by x, sorted."""
        outer = self.table(name, {})
        result = {}
        for key in sorted(outer.values):
            outer._check_word(key, key)
            result[key] = outer.table(key)
        return result
