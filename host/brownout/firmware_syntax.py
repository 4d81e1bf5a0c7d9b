"""Parses modules of the firmware, one thread at a time: boards are built for in several threads at once.

CPython up to 3.12 counts the depth of the tree that it makes in one place for all threads, and a second one that comes
between (a finalizer in the collector is enough) ends the first with a SystemError (CPython issue 106905).
"""

from __future__ import annotations

import ast
import threading

_TURN = threading.Lock()


def parse(source: bytes) -> ast.Module:
    """The tree of a module. SyntaxError where it is none."""
    with _TURN:
        return ast.parse(source)
