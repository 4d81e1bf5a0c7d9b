"""Judges a folder of recorded histories with known answers: `python -m brownout.checkers.histories DIR`.

The folder's `linearizable.json` maps file names to whether each is linearizable. Two formats are read: the log of a
Jepsen run on one register (`INFO  jepsen.util - 0 :invoke :read nil`), and EDN maps of a key-value store with `get`,
`put` and `append` (`{:process 0, :type :ok, :f :get, :key "7", :value ""}`). Exit 1 where an answer differs.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .linearizability import CAS_REGISTER, KV_APPEND, Answer, Call, Model, check_key

JEPSEN_LINE = re.compile(r"jepsen\.util - (\d+)\s+:(\w+)\s+:(\w+)\s+(.*\S)\s*$")
EDN_LINE = re.compile(r'\{:process (\d+), :type :(\w+), :f :(\w+), :key "([^"]*)", :value (nil|"(?:[^"\\]|\\.)*")\}')


class FormatError(Exception):
    """A line that is in neither format. Names the file and the line."""


def _value(text: str) -> Any:
    if text == "nil":
        return None
    if text.startswith("["):
        return tuple(_value(part) for part in text[1:-1].split())
    return json.loads(text)


def read_jepsen(lines: Iterable[str]) -> dict[str, list[Call]]:
    """One register: {"": calls}."""
    calls: list[Call] = []
    open_calls: dict[str, tuple[int, str, Any]] = {}
    for index, line in enumerate(lines):
        match = JEPSEN_LINE.search(line)
        if match is None:
            raise FormatError(f"line {index + 1}: {line.strip()!r} is not a line of a Jepsen log")
        process, kind, action, text = match.groups()
        if kind == "invoke":
            open_calls[process] = (index, action, _value(text))
            continue
        start, action, argument = open_calls.pop(process)
        if kind == "fail":
            if action == "cas":  # the only failure of these runs: the register held something else
                calls.append(Call(start, index, "mismatch", argument, None, start))
            continue
        end = index if kind == "ok" else None
        result = _value(text) if kind == "ok" and action == "read" else None
        calls.append(Call(start, end, action, argument, result, start))
    calls.extend(Call(start, None, action, argument, None, start) for start, action, argument in open_calls.values())
    return {"": calls}


def read_edn(lines: Iterable[str]) -> dict[str, list[Call]]:
    """A key-value store: key -> calls."""
    keys: dict[str, list[Call]] = {}
    open_calls: dict[str, tuple[int, str, str, Any]] = {}
    for index, line in enumerate(lines):
        match = EDN_LINE.search(line)
        if match is None:
            raise FormatError(f"line {index + 1}: {line.strip()!r} is not an EDN map of an operation")
        process, kind, action, key, text = match.groups()
        if kind == "invoke":
            open_calls[process] = (index, action, key, _value(text))
            continue
        start, action, key, argument = open_calls.pop(process)
        if kind == "fail":
            continue
        end = index if kind == "ok" else None
        keys.setdefault(key, []).append(Call(start, end, action, argument, _value(text), start))
    for start, action, key, argument in open_calls.values():
        keys.setdefault(key, []).append(Call(start, None, action, argument, None, start))
    return keys


def judge_file(path: Path) -> Answer:
    """Whether every key of one file is linearizable."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    edn = bool(lines) and lines[0].startswith("{")
    model: Model = KV_APPEND if edn else CAS_REGISTER
    try:
        keys = read_edn(lines) if edn else read_jepsen(lines)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    answers = [check_key(calls, model).answer for calls in keys.values()]
    for worst in (Answer.NO, Answer.OPEN):
        if worst in answers:
            return worst
    return Answer.YES


def main(arguments: list[str]) -> int:
    """Compare our answers to the folder's; 0 when all agree, 1 when one differs, 2 when the folder cannot be read."""
    if len(arguments) != 1:
        print("usage: python -m brownout.checkers.histories DIR", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    try:
        answers = json.loads((folder / "linearizable.json").read_text())
    except (OSError, ValueError) as error:
        print(f"{folder / 'linearizable.json'}: {error}", file=sys.stderr)
        return 2
    differing = 0
    for name, expected in sorted(answers.items()):
        began = time.perf_counter()
        try:
            answer = judge_file(folder / name)
        except (OSError, FormatError) as error:
            print(error, file=sys.stderr)
            return 2
        agrees = answer is (Answer.YES if expected else Answer.NO)
        differing += not agrees
        spent_ms = (time.perf_counter() - began) * 1000
        print(f"{'agrees ' if agrees else 'DIFFERS'}  {name:28} {answer.value:18} {spent_ms:8.1f} ms")
    print(f"{len(answers) - differing} of {len(answers)} answers agree")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
