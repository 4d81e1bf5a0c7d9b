"""Judges histories that somebody else recorded: `judge`, or a folder of them with known answers, from the shell.

    python -m brownout.checkers.histories DIR

compares our answers to the folder's `linearizable.json`, a map of file names to whether each is linearizable; exit 1
where one differs. Must not read lines itself: recorded.py does.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .linearizability import Answer, Finding, check_keys
from .models import MODELS, Call
from .recorded import FormatError, Recorded, read

VERDICTS = {Answer.YES: "valid", Answer.NO: "invalid", Answer.OPEN: "unknown"}


@dataclass(frozen=True)
class Judgement:
    """Every key's finding; answer is the worst of them."""

    answer: Answer
    findings: dict[Any, Finding]
    operations: int
    took_s: float  # reading and searching

    @property
    def steps(self) -> int:
        return sum(finding.steps for finding in self.findings.values())

    @property
    def failed(self) -> list[Any]:
        """The keys that have a counter-example."""
        return [key for key, finding in self.findings.items() if finding.answer is Answer.NO]

    @property
    def given_up(self) -> list[tuple[Any, Finding]]:
        return [(key, finding) for key, finding in self.findings.items() if finding.answer is Answer.OPEN]

    def counter_example(self, key: Any) -> list[str]:
        """Lines to read: what failed, and the calls that it takes."""
        finding = self.findings[key]
        rows = [_told(call, call is finding.culprit) for call in finding.counter_example]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        lines = [f"key {key!r} is not linearizable; of its calls these {len(rows)} fail already"]
        if not finding.minimal:
            lines[0] += " (the limit of shrinking was reached: fewer may do)"
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)]
            lines.append("  " + "  ".join([*cells, row[3]]).rstrip())
        return lines


def _told(call: Call, culprit: bool) -> tuple[str, str, str, str]:
    """(lines of the file, process, what was done, a note), as text."""
    name: Recorded = call.name
    last = "" if name.last_line is None else str(name.last_line)
    if call.action == "mismatch":
        done = f"cas {call.argument[0]!r} to {call.argument[1]!r} found " + (
            "another value" if call.result is None else repr(call.result)
        )
    elif call.action == "cas":
        done = f"cas {call.argument[0]!r} to {call.argument[1]!r}"
    else:
        value = call.result if call.action in ("read", "get") else call.argument
        done = f"{call.action} {value!r}"
    if culprit:
        note = "no order explains this one"
    elif call.end is not None:
        note = ""
    else:
        note = "nobody knows whether it happened" if name.last_line is None else "not known to have happened by then"
    return f"lines {name.first_line}-{last}", f"process {name.process}", done, note


def _entry(key: Any, call: Call, culprit: bool) -> dict[str, Any]:
    """The same for a document."""
    name: Recorded = call.name
    entry = {
        "key": key,
        "process": name.process,
        "first_line": name.first_line,
        "last_line": name.last_line,
        "function": call.action,
        "value": call.argument,
        "result": call.result,
        "known": call.end is not None,
    }
    return entry | ({"note": "no order explains this one"} if culprit else {})


def document(judgement: Judgement) -> dict[str, Any]:
    """What `brownout check --json` prints of a history: a verdict and one check, as of a run."""
    failed = judgement.failed
    given_up = [key for key, _finding in judgement.given_up]
    if failed:
        detail = f"{len(failed)} of {len(judgement.findings)} keys are not linearizable, {failed[0]!r} first"
    elif given_up:
        detail = f"the search was given up for {len(given_up)} keys, {given_up[0]!r} first"
    else:
        detail = f"{judgement.operations} operations on {len(judgement.findings)} keys have an order that explains them"
    evidence = [
        _entry(key, call, call is judgement.findings[key].culprit)
        for key in failed
        for call in judgement.findings[key].counter_example
    ]
    check = {
        "name": "linearizability",
        "verdict": VERDICTS[judgement.answer],
        "detail": detail,
        "evidence": evidence,
        "metrics": {
            "operations": judgement.operations,
            "keys": len(judgement.findings),
            "keys_not_linearizable": failed,
            "keys_given_up": given_up,
            "keys_not_minimal": [key for key in failed if not judgement.findings[key].minimal],
            "search_steps": judgement.steps,
            "seconds": round(judgement.took_s, 3),
        },
    }
    return {"verdict": check["verdict"], "checks": [check]}


def judge(path: Path, form: str, model: str, steps: int | None = None) -> Judgement:
    """Judge one file. FormatError, which names file and line, where it cannot be read."""
    began = time.perf_counter()
    try:
        with path.open(encoding="utf-8") as file:
            keys = read(file, form, model)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not a text in UTF-8: {error}") from None
    operations = sum(len(calls) for calls in keys.values())
    if not operations:
        raise FormatError(f"{path}: no operation is in it")
    findings = check_keys(keys, MODELS[model], steps)
    answers = {finding.answer for finding in findings.values()}
    worst = next((answer for answer in (Answer.NO, Answer.OPEN) if answer in answers), Answer.YES)
    return Judgement(worst, findings, operations, time.perf_counter() - began)


def judge_file(path: Path) -> Answer:
    """Whether every key of one file of a folder is linearizable: the first character tells the format apart."""
    edn = path.read_text(encoding="utf-8").lstrip().startswith("{")
    return judge(path, *(("edn", "kv-append") if edn else ("jepsen-log", "cas-register"))).answer


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
