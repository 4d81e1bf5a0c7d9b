"""Whether operations on one key could have happened one at a time, each between its invocation and its completion.

The search is Wing and Gong's with Lowe's memoisation (as in Knossos and porcupine): walk the history in order of time,
try each operation that may come next, remember every (set of operations done, state) that was reached, go back where an
operation had to be complete and could not be placed. An operation whose end is unknown may take effect at any time
after its invocation, or never. Must know nothing of boards or telemetry: `checkers/register.py` brings a history here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

DEFAULT_STEPS = 4_000_000  # about 15 s; a search that needs more says so and the verdict is unknown
SHRINK_AT_MOST = 400  # calls; shrinking searches once a call


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
    """`observed` lists the values that a call proves to have been there; `made` the one it may leave (for pruning)."""

    initial: Hashable
    step: Step
    observed: Callable[[Call], Sequence[Any]] | None = None
    made: Callable[[Call], Any] | None = None


class Answer(Enum):
    YES = "linearizable"
    NO = "not linearizable"
    OPEN = "search given up"


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


ANY: Any = object()
CAS_REGISTER = Model(None, _register_step, _register_observed, _register_made)
KV_APPEND = Model("", _append_step)
MODELS = {"cas-register": CAS_REGISTER, "kv-append": KV_APPEND}


@dataclass(frozen=True)
class Finding:
    """The answer, and for NO a small sub-history that already fails, in order of invocation, ending in `culprit`."""

    answer: Answer
    counter_example: tuple[Call, ...] = ()
    culprit: Call | None = None
    steps: int = 0


def check_key(calls: Iterable[Call], model: Model, steps: int = DEFAULT_STEPS) -> Finding:
    """Judge the calls of one key."""
    history = prune(sorted(calls, key=_by_start), model)
    answer, used = search(history, model, steps)
    if answer is not Answer.NO:
        return Finding(answer, steps=used)
    prefix, culprit = _shortest_failing_prefix(history, model, steps)
    return Finding(answer, tuple(_shrink(prefix, culprit, model, steps)), culprit, used)


def _by_start(call: Call) -> tuple[int, int]:
    return call.start, -1 if call.end is None else call.end


def prune(history: Sequence[Call], model: Model) -> list[Call]:
    """Leave out what cannot change the answer: unknown reads, and unknown updates whose value nobody can have seen.

    "It never happened" is always a way out for the latter, and no other call needs their value. Without this a broker
    that was away for a second leaves dozens of unknown writes, each of which doubles the search.
    """
    reads = {"read", "get", "mismatch"}
    history = [call for call in history if call.end is not None or call.action not in reads]
    if model.observed is None or model.made is None:
        return history
    needed: set[Any] = set()
    for call in history:
        if call.end is not None:
            needed.update(model.observed(call))
    if ANY in needed:
        return history
    unknown = [call for call in history if call.end is None]
    grown = True
    while grown:
        grown = False
        for call in unknown:
            if model.made(call) in needed:
                before = len(needed)
                needed.update(model.observed(call))
                grown = grown or len(needed) > before
    return [call for call in history if call.end is not None or model.made(call) in needed]


class _Node:
    """One edge of a call in the list that the search walks: its start, or its end."""

    __slots__ = ("bit", "call", "end", "next", "previous")

    def __init__(self, call: Call | None, bit: int) -> None:
        self.call = call  # None: this is an end
        self.bit = bit
        self.end: _Node | None = None
        self.previous: _Node | None = None
        self.next: _Node | None = None


def _linked(history: Sequence[Call]) -> _Node:
    """Starts and ends in order of time; at the same instant a start comes first, which makes the calls concurrent."""
    edges: list[tuple[int, int, int, _Node]] = []
    for index, call in enumerate(history):
        start = _Node(call, 1 << index)
        edges.append((call.start, 0, index, start))
        if call.end is not None:
            start.end = _Node(None, 1 << index)
            edges.append((call.end, 1, index, start.end))
    edges.sort(key=lambda edge: edge[:3])
    head = last = _Node(None, 0)
    for *_, node in edges:
        last.next, node.previous = node, last
        last = node
    return head


def _unlink(node: _Node) -> None:
    assert node.previous is not None
    node.previous.next = node.next
    if node.next is not None:
        node.next.previous = node.previous


def _relink(node: _Node) -> None:
    assert node.previous is not None
    node.previous.next = node
    if node.next is not None:
        node.next.previous = node


def search(history: Sequence[Call], model: Model, limit: int = DEFAULT_STEPS) -> tuple[Answer, int]:
    """The search itself; returns the answer and how many steps of the model it took."""
    head = _linked(history)
    step = model.step
    state: Any = model.initial
    required = sum(call.end is not None for call in history)
    done = 0
    reached: set[tuple[int, Any]] = set()
    placed: list[tuple[_Node, Any]] = []
    steps = 0
    node = head.next
    while required:
        if node is not None and node.call is not None:
            steps += 1
            if steps > limit:
                return Answer.OPEN, steps
            following = step(state, node.call)
            # An unknown call that changes nothing is as good as one that never happened: do not branch on it.
            useful = following is not REFUSED and (node.end is not None or following != state)
            if useful and (done | node.bit, following) not in reached:
                reached.add((done | node.bit, following))
                placed.append((node, state))
                state = following
                done |= node.bit
                _unlink(node)
                if node.end is not None:
                    _unlink(node.end)
                    required -= 1
                node = head.next
            else:
                node = node.next
            continue
        # A call had to be complete here and was not placed: take back the last choice.
        if not placed:
            return Answer.NO, steps
        node, state = placed.pop()
        done &= ~node.bit
        if node.end is not None:
            _relink(node.end)
            required += 1
        _relink(node)
        node = node.next
    return Answer.YES, steps


# Counter-examples.


def _prefix(history: Sequence[Call], until: int) -> list[Call]:
    """What was known at the instant `until`: later ends are unknown yet, later calls do not exist."""
    return [
        call
        if call.end is not None and call.end <= until
        else Call(call.start, None, call.action, call.argument, call.result, call.name)
        for call in history
        if call.start <= until
    ]


def _shortest_failing_prefix(history: Sequence[Call], model: Model, steps: int) -> tuple[list[Call], Call | None]:
    """A prefix of a linearizable history is linearizable, so the first failing one is found by bisection."""
    ends = sorted({call.end for call in history if call.end is not None})
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if search(prune(_prefix(history, ends[middle]), model), model, steps)[0] is Answer.NO:
            high = middle
        else:
            low = middle + 1
    prefix = prune(_prefix(history, ends[low]), model)
    culprit = next((call for call in prefix if call.end == ends[low]), None)
    return prefix, culprit


def _shrink(prefix: list[Call], culprit: Call | None, model: Model, steps: int) -> list[Call]:
    """Leave out calls while what remains still fails.

    Only what cannot itself be the cause may go: completed reads, and unknown calls or writes whose value no remaining
    call has seen; so what is left is a counter-example of the whole history too.
    """
    reads = {"read", "get", "mismatch"}
    kept = list(prefix)
    if len(prefix) > SHRINK_AT_MOST:
        return kept
    for call in prefix:
        if call is culprit:
            continue
        rest = [other for other in kept if other is not call]
        if call.action not in reads and _seen(call, rest, model):
            continue
        if search(rest, model, steps)[0] is Answer.NO:
            kept = rest
    return kept


def _seen(call: Call, others: Sequence[Call], model: Model) -> bool:
    if model.observed is None or model.made is None:
        return True
    value = model.made(call)
    return any(seen is ANY or seen == value for other in others for seen in model.observed(other))
