"""What one key is, done one operation at a time: a register with compare-and-set, or a text that grows.

A model says which results can come of which state, and what a call proves of others. Must not know of time or search.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Call:
    """One operation on one key. `end` is None where nobody knows whether, or when, it took effect.

    action: a model's own word; argument and result as that model reads them. name: what evidence calls it.
    """

    start: int
    end: int | None
    action: str
    argument: Any
    result: Any
    name: Any = None


# A model's step takes (state, call) and returns the next state, or REFUSED where that result cannot come of that state.
REFUSED: Any = object()
Step = Callable[[Any, Call], Hashable]


@dataclass(frozen=True)
class Model:
    """How operations change and show one key.

    looks: actions that change nothing. observed: the values that a call proves to have been there, or ANY. made: the
    value that a call leaves, or, where values grow, adds. parts: whether an observed value shows all that it contains.
    replaces: the actions after which nothing of the state before is seen.
    """

    initial: Hashable
    step: Step
    looks: frozenset[str]
    observed: Callable[[Call], Sequence[Any]]
    made: Callable[[Call], Any]
    replaces: frozenset[str]
    parts: bool = False


def _register_step(state: Any, call: Call) -> Hashable:
    action = call.action
    if action == "read":
        return state if call.end is None or call.result == state else REFUSED
    if action == "write":
        return call.argument
    expected, new = call.argument
    if action == "cas":
        return new if state == expected else REFUSED
    # mismatch: a cas that found another value; its result is that value where it was told.
    if state == expected or (call.result is not None and call.result != state):
        return REFUSED
    return state


def _register_observed(call: Call) -> Sequence[Any]:
    if call.action == "cas":
        return (call.argument[0],)
    if call.action == "write":
        return ()
    # Of a mismatch that was told no value it is only known what the register did not hold: any value may be the proof.
    return (call.result,) if call.action == "read" or call.result is not None else (ANY,)


def _register_made(call: Call) -> Any:
    return call.argument if call.action == "write" else call.argument[1]


def _append_step(state: Any, call: Call) -> Hashable:
    if call.action == "get":
        return state if call.end is None or call.result == state else REFUSED
    return call.argument if call.action == "put" else state + call.argument


def _append_observed(call: Call) -> Sequence[Any]:
    return (call.result,) if call.action == "get" else ()


def _append_made(call: Call) -> Any:
    return call.argument


ANY: Any = object()
CAS_REGISTER = Model(
    None,
    _register_step,
    looks=frozenset({"read", "mismatch"}),
    observed=_register_observed,
    made=_register_made,
    replaces=frozenset({"write", "cas"}),
)
KV_APPEND = Model(
    "",
    _append_step,
    looks=frozenset({"get"}),
    observed=_append_observed,
    made=_append_made,
    replaces=frozenset({"put"}),
    parts=True,
)
MODELS = {"cas-register": CAS_REGISTER, "kv-append": KV_APPEND}
