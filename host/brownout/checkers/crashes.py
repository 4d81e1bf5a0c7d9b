"""The firmware never ends with an error, whatever happens around it. Only a rung that sees such an end records any.

A board whose supervisor starts it again would hide the error otherwise. Must not accuse firmware that was switched off.
"""

from __future__ import annotations

from ..history import Check
from .evidence import Findings
from .run import Run


def check(run: Run) -> Check:
    findings = Findings("crashes")
    crashes = run.history.manifest.get("crashes")
    for crash in crashes or ():
        at_s = round(crash["at_ns"] / 1e9, 6)
        findings.wrong(
            f"the firmware of {crash['board']} ended with {crash['error']}",
            {"board": crash["board"], "at_s": at_s, "error": crash["error"], "trace": crash["trace"]},
        )
    return findings.check("no firmware ended with an error" if crashes is not None else "this rung does not tell")
