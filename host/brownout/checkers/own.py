"""A check that a campaign brings along: a file beside it with `check(run) -> Check`, run from the text in the plan.

It runs with the rights of whoever judges: judge only runs whose checks you would run yourself. Must not hide an error
of the check: it is named with its line.
"""

from __future__ import annotations

from types import ModuleType

from ..contracts import UsageError
from ..history import Check
from ..protocols import line_of, run_source
from .run import Run


def check(run: Run, file: str, source: str) -> Check:
    """Judge `run` by the check in `source`, the text of `file`. UsageError where that is none, or fails."""
    module = ModuleType(f"brownout_own_{file.removesuffix('.py')}")
    run_source(file, source, module)
    judge = getattr(module, "check", None)
    if not callable(judge):
        raise UsageError(f"{file}: not a check; it has to define check(run)")
    try:
        found = judge(run)
    except Exception as error:
        raise UsageError(f"{line_of(error, file)}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Check):
        raise UsageError(f"{file}: check(run) returned {type(found).__name__}; it has to return a Check")
    return found
