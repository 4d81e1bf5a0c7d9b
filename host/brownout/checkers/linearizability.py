"""Whether operations on one key could have happened one at a time, each between its invocation and its completion.

The search is Wing and Gong's with Lowe's memoisation (as in Knossos and porcupine): walk the history in order of time,
try each operation that may come next, remember every (set of operations done, state) that was reached, go back where an
operation had to be complete and could not be placed. An operation whose end is unknown may take effect at any time
after its invocation, or never. Keys are searched in turns on one budget of steps, so that a hard key starves no other.
Must know nothing of boards, telemetry or files: `register.py` brings a run here, `histories.py` somebody else's record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from .models import ANY, REFUSED, Call, Model

DEFAULT_STEPS = 4_000_000  # about 15 s for all keys together; a search that needs more says so: the verdict is unknown
STEPS_PER_CALL = 10  # a long history has that many more: where nothing is concurrent, a call takes one
FIRST_SLICE = 1_000  # steps of a key's first turn; each next one has twice as many
SHRINK_STEPS = 1_000_000  # about 4 s for all keys that fail; what is not found by then stays in the counter-examples


class Answer(Enum):
    YES = "linearizable"
    NO = "not linearizable"
    OPEN = "search given up"


@dataclass(frozen=True)
class Finding:
    """The answer, and for NO a small sub-history that already fails, in order of invocation, ending in `culprit`.

    minimal: without any one of its calls it would not fail any more, or lack what one of them may have seen.
    """

    answer: Answer
    counter_example: tuple[Call, ...] = ()
    culprit: Call | None = None
    steps: int = 0
    minimal: bool = True


Key = TypeVar("Key")


def check_key(calls: Iterable[Call], model: Model, steps: int | None = None) -> Finding:
    """Judge the calls of one key."""
    return check_keys({"": calls}, model, steps)[""]


def check_keys(keys: Mapping[Key, Iterable[Call]], model: Model, steps: int | None = None) -> dict[Key, Finding]:
    """Judge every key, in turns. steps: for all of them together; where None, DEFAULT_STEPS or more by the calls."""
    searches = {key: Search(prune(sorted(calls, key=_by_start), model), model) for key, calls in keys.items()}
    if steps is None:
        steps = max(DEFAULT_STEPS, STEPS_PER_CALL * sum(len(search.history) for search in searches.values()))
    waiting = dict(searches)
    size = FIRST_SLICE
    while waiting and steps > 0:
        for key, search in list(waiting.items()):
            before = search.steps
            if search.go_on(min(size, steps)) is not Answer.OPEN:
                del waiting[key]
            steps -= search.steps - before
        size *= 2
    findings = {key: Finding(search.answer, steps=search.steps) for key, search in searches.items()}
    failed = [key for key, finding in findings.items() if finding.answer is Answer.NO]
    for key in failed:
        prefix, culprit = _shortest_failing_prefix(searches[key])
        kept, minimal = shrink(prune(prefix, model), culprit, model, SHRINK_STEPS // len(failed))
        findings[key] = Finding(Answer.NO, tuple(kept), culprit, searches[key].steps, minimal)
    return findings


def _by_start(call: Call) -> tuple[int, int]:
    return call.start, -1 if call.end is None else call.end


def prune(history: Sequence[Call], model: Model) -> list[Call]:
    """Leave out what cannot change the answer: unknown reads, and unknown updates whose value nobody can have seen.

    "It never happened" is always a way out for the latter, and no other call needs their value. Without this a broker
    that was away for a second leaves dozens of unknown writes, each of which doubles the search.
    """
    history = [call for call in history if call.end is not None or call.action not in model.looks]
    unknown = [call for call in history if call.end is None]
    if not unknown:
        return history
    seen = _Seen(model, (call for call in history if call.end is not None))
    needed: set[int] = set()
    grown = True
    while grown:
        grown = False
        for call in unknown:
            if id(call) not in needed and seen.shows(call):
                needed.add(id(call))
                seen.add(call)
                grown = True
    return [call for call in history if call.end is not None or id(call) in needed]


class _Seen:
    """The values that some calls prove to have been there."""

    def __init__(self, model: Model, calls: Iterable[Call]) -> None:
        self._model = model
        self._values: Counter[Any] = Counter()
        for call in calls:
            self.add(call)

    def add(self, call: Call) -> None:
        self._values.update(self._model.observed(call))

    def remove(self, call: Call) -> None:
        for value in self._model.observed(call):
            self._values[value] -= 1
            if not self._values[value]:
                del self._values[value]

    def shows(self, call: Call) -> bool:
        """Whether one of these calls may have seen what `call` made."""
        value = self._model.made(call)
        if self._model.parts:
            return any(value in seen for seen in self._values)
        return value in self._values or ANY in self._values


class _Node:
    """One edge of a call in the list that the search walks: its start, or its end."""

    __slots__ = ("call", "end", "index", "next", "order", "previous")

    def __init__(self, call: Call | None, index: int) -> None:
        self.call = call  # None: this is an end
        self.index = index  # of the call, among those whose end is known, or among the others
        self.order = 0
        self.end: _Node | None = None
        self.previous: _Node | None = None
        self.next: _Node | None = None


def _linked(history: Sequence[Call]) -> _Node:
    """Starts and ends in order of time; at the same instant a start comes first, which makes the calls concurrent."""
    edges: list[tuple[int, int, int, _Node]] = []
    counts = [0, 0]
    for place, call in enumerate(history):
        known = call.end is not None
        start = _Node(call, counts[known])
        counts[known] += 1
        edges.append((call.start, 0, place, start))
        if call.end is not None:
            start.end = _Node(None, place)
            edges.append((call.end, 1, place, start.end))
    edges.sort(key=lambda edge: edge[:3])
    head = last = _Node(None, 0)
    for order, (*_, node) in enumerate(edges, 1):
        node.order = order
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


class Search:
    """The search of one key, which may be left and gone on with. `answer` is OPEN until it is known.

    The set of calls done is kept as (how many of the first are all done, bits of those behind them, bits of unknown
    ones), so that it stays small however long the history is. furthest: the last end that the search could not pass.

    A look that fits the state is placed at once, before any update, and never tried elsewhere: it changes nothing, so
    whatever order works with it later works with it here.
    """

    def __init__(self, history: Sequence[Call], model: Model) -> None:
        self.history = history
        self.answer = Answer.OPEN
        self.steps = 0
        self.furthest: _Node | None = None
        self._model = model
        self._head = _linked(history)
        self._node = self._head.next
        self._state: Any = model.initial
        self._required = sum(call.end is not None for call in history)
        self._looking = True
        self._done = (0, 0, 0)
        self._reached: set[tuple[int, int, int, Any]] = set()
        self._placed: list[tuple[_Node, Any, tuple[int, int, int]]] = []

    def go_on(self, steps: int) -> Answer:
        """Search on for so many steps of the model at most."""
        step, looks, head, placed, reached = (
            self._model.step,
            self._model.looks,
            self._head,
            self._placed,
            self._reached,
        )
        node, state, done, required, looking = self._node, self._state, self._done, self._required, self._looking
        left = steps
        while required:
            call = None if node is None else node.call
            if node is not None and call is not None:
                if (call.action in looks) is not looking or (looking and node.end is None):
                    node = node.next
                    continue
                if not left:
                    break
                left -= 1
                following = step(state, call)
                # An unknown call that changes nothing is as good as one that never happened: do not branch on it.
                if following is REFUSED or (node.end is None and following == state):
                    node = node.next
                    continue
                after = _with(done, node)
                place = (*after, following)
                if place not in reached:
                    reached.add(place)
                    placed.append((node, state, done))
                    state, done = following, after
                    _unlink(node)
                    if node.end is not None:
                        _unlink(node.end)
                        required -= 1
                    node, looking = head.next, True
                    continue
                if not looking:
                    node = node.next
                    continue
                # What comes of this look here has been tried, and nothing else here could do better: take back.
            elif looking:
                node, looking = head.next, False
                continue
            elif node is not None and (self.furthest is None or node.order > self.furthest.order):
                self.furthest = node  # a call had to be complete here and was not placed
            taken = _take_back(placed, looks)
            if taken is None:
                self.answer = Answer.NO
                break
            required += taken[0]
            node, state, done, looking = taken[1].next, taken[2], taken[3], False
        self._node, self._state, self._done, self._required, self._looking = node, state, done, required, looking
        self.steps += steps - left
        if not required:
            self.answer = Answer.YES
        return self.answer


def _take_back(
    placed: list[tuple[_Node, Any, tuple[int, int, int]]], looks: frozenset[str]
) -> tuple[int, _Node, Any, tuple[int, int, int]] | None:
    """Undo what was placed, down to the last update: how many known calls, that update, and what was before it."""
    known = 0
    while placed:
        node, state, done = placed.pop()
        if node.end is not None:
            _relink(node.end)
            known += 1
        _relink(node)
        assert node.call is not None
        if node.call.action not in looks:
            return known, node, state, done
    return None


def _with(done: tuple[int, int, int], node: _Node) -> tuple[int, int, int]:
    first, later, unknown = done
    if node.end is None:
        return first, later, unknown | 1 << node.index
    if node.index != first:
        return first, later | 1 << (node.index - first), unknown
    first += 1
    later >>= 1
    while later & 1:
        first += 1
        later >>= 1
    return first, later, unknown


def search(history: Sequence[Call], model: Model, limit: int = DEFAULT_STEPS) -> tuple[Answer, int]:
    """One search on its own; returns the answer and how many steps of the model it took."""
    alone = Search(history, model)
    return alone.go_on(limit), alone.steps


# Counter-examples.


def _shortest_failing_prefix(failed: Search) -> tuple[list[Call], Call]:
    """What was known at the last end that the search could not pass: later ends are unknown yet, later calls are not.

    The search never looked behind that end and passed every one before it, so this prefix fails and no shorter one.
    """
    assert failed.furthest is not None
    culprit = failed.history[failed.furthest.index]
    assert culprit.end is not None
    until = (culprit.end, failed.furthest.index)
    prefix = []
    for place, call in enumerate(failed.history):
        if call.end is None or (call.end, place) <= until:
            known = call
        else:
            known = Call(call.start, None, call.action, call.argument, call.result, call.name)
        if call.start <= until[0]:
            prefix.append(known)
    return prefix, culprit


def shrink(calls: list[Call], culprit: Call, model: Model, steps: int = SHRINK_STEPS) -> tuple[list[Call], bool]:
    """Leave out calls while what remains still fails; and whether nothing more could go, within so many steps.

    Only what cannot itself be the cause may go: looks, and updates that no remaining call has seen. A history without
    those would be linearizable if it were with them, so what is left is a counter-example of the whole. Larger pieces
    are tried first, later calls before earlier ones, because reads come after what they read. Single calls go in order
    of time, so that of updates to the same value the last one stays.
    """
    kept = list(calls)
    seen = _Seen(model, kept)
    size = max(1, len(kept) // 2)
    while True:
        shrunk = False
        pieces = [kept[max(0, end - size) : end] for end in range(len(kept), 0, -size)]
        for piece in pieces if size > 1 else reversed(pieces):
            gone = _take_out(piece, culprit, model, seen)
            if not gone and size == 1 and piece[0] is not culprit and _replaced(piece[0], kept, model):
                gone = piece
                seen.remove(piece[0])
            steps -= 1 + len(kept) // 8 if size == 1 else 1  # what looking costs, in steps of a search
            if gone:
                left = {id(call) for call in gone}
                rest = [call for call in kept if id(call) not in left]
                alone = Search(rest, model)
                alone.go_on(max(0, steps))
                steps -= alone.steps + len(rest)  # laying out a call takes about as long as a step
                if alone.answer is Answer.NO:
                    kept, shrunk = rest, True
                else:
                    for call in gone:
                        seen.add(call)
            if steps <= 0:
                return kept, False
        if size > 1:
            size //= 2
        elif not shrunk:
            return kept, True


def _take_out(piece: list[Call], culprit: Call, model: Model, seen: _Seen) -> list[Call]:
    """Those calls of a piece that may go together; what they saw is taken out of `seen`."""
    gone = []
    for call in reversed(piece):
        if call is culprit:
            continue
        seen.remove(call)
        if call.action in model.looks or not seen.shows(call):
            gone.append(call)
        else:
            seen.add(call)
    return gone


def _replaced(update: Call, calls: Sequence[Call], model: Model) -> bool:
    """Whether nobody can have seen this update, and another one explains where its value may come from."""
    value = model.made(update)
    return unseen(update, calls, model) and any(
        call is not update and call.action not in model.looks and model.made(call) == value for call in calls
    )


def unseen(update: Call, calls: Sequence[Call], model: Model) -> bool:
    """Whether each of `calls` that saw such a value was over before the update began, or began after another update.

    That one has to begin after this one's end, and to end itself before, so that it is in between in every order.
    """
    others = [call for call in calls if call is not update]
    over: int | None = None
    if update.end is not None:
        after = [
            call.end
            for call in others
            if call.action in model.replaces and call.end is not None and call.start > update.end
        ]
        over = min(after, default=None)
    return all(
        (call.end is not None and call.end < update.start)
        or (over is not None and call.start > over)
        or not _Seen(model, (call,)).shows(update)
        for call in others
    )
