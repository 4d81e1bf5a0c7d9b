"""The search for a linearization agrees with trying every order, and its counter-examples are small and still fail."""

from __future__ import annotations

from itertools import chain, combinations, pairwise, permutations
from pathlib import Path

import pytest
from brownout.bench import checking
from brownout.checkers import histories
from brownout.checkers.linearizability import Answer, Search, check_key, check_keys, prune, search, shrink, unseen
from brownout.checkers.models import ANY, CAS_REGISTER, KV_APPEND, REFUSED, Call, Model
from hypothesis import given, settings
from hypothesis import strategies as st


def brute_force(calls: list[Call], model: Model) -> bool:
    """Every subset of the unknown calls, in every order that respects real time."""
    known = [call for call in calls if call.end is not None]
    unknown = [call for call in calls if call.end is None]
    subsets = chain.from_iterable(combinations(unknown, size) for size in range(len(unknown) + 1))
    return any(_some_order(known + list(subset), model) for subset in subsets)


def _some_order(calls: list[Call], model: Model) -> bool:
    return any(_holds(order, model) for order in permutations(calls))


def _holds(order: tuple[Call, ...], model: Model) -> bool:
    state = model.initial
    latest_start = -1
    for call in order:
        if call.end is not None and call.end < latest_start:
            return False
        latest_start = max(latest_start, call.start)
        state = model.step(state, call)
        if state is REFUSED:
            return False
    return True


VALUES = st.sampled_from(["a", "b", None])


@st.composite
def register_calls(draw: st.DrawFn) -> list[Call]:
    calls = []
    for index in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, 12))
        end = draw(st.one_of(st.none(), st.integers(start, 14), st.integers(start, start + 2)))
        action = draw(st.sampled_from(["read", "write", "cas", "mismatch"]))
        argument = (draw(VALUES), draw(VALUES)) if action in {"cas", "mismatch"} else draw(VALUES)
        calls.append(Call(start, end, action, argument, draw(VALUES), index))
    return [call for call in calls if call.end is not None or call.action != "mismatch"]


@st.composite
def append_calls(draw: st.DrawFn) -> list[Call]:
    calls = []
    for index in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, 10))
        end = draw(st.one_of(st.none(), st.integers(start, 12)))
        action = draw(st.sampled_from(["get", "put", "append"]))
        calls.append(Call(start, end, action, draw(st.sampled_from("xy")), draw(st.text("xy", max_size=3)), index))
    return calls


@settings(max_examples=600)
@given(register_calls())
def test_the_search_agrees_with_every_order_of_a_register(calls: list[Call]) -> None:
    expected = brute_force(calls, CAS_REGISTER)
    finding = check_key(calls, CAS_REGISTER)
    assert finding.answer is (Answer.YES if expected else Answer.NO)
    if not expected:
        assert not brute_force(list(finding.counter_example), CAS_REGISTER), "the counter-example must itself fail"


@settings(max_examples=300)
@given(append_calls())
def test_the_search_agrees_with_every_order_of_appends(calls: list[Call]) -> None:
    assert check_key(calls, KV_APPEND).answer is (Answer.YES if brute_force(calls, KV_APPEND) else Answer.NO)


def test_a_stale_read_fails_and_the_counter_example_names_only_what_matters() -> None:
    calls = [
        Call(0, 1, "write", "old", None, "w1"),
        Call(1, 2, "read", None, "old", "r0"),
        Call(2, 3, "write", "new", None, "w2"),
        Call(4, 5, "read", None, "old", "stale"),
        Call(6, 7, "read", None, "new", "later"),
    ]
    finding = check_key(calls, CAS_REGISTER)
    assert finding.answer is Answer.NO and finding.culprit is not None and finding.culprit.name == "stale"
    assert [call.name for call in finding.counter_example] == ["w1", "w2", "stale"]


def test_an_unknown_write_may_take_effect_late_but_only_once() -> None:
    lost = Call(0, None, "write", "x", None)
    reads = [Call(1, 2, "read", None, None), Call(3, 4, "read", None, "x")]
    assert check_key([lost, *reads], CAS_REGISTER).answer is Answer.YES
    again = [Call(5, 6, "write", "y", None), Call(7, 8, "read", None, "x")]
    assert check_key([lost, *reads, *again], CAS_REGISTER).answer is Answer.NO


def test_a_hundred_unknown_writes_do_not_stop_the_search() -> None:
    unknown = [Call(index, None, "write", f"u{index}", None) for index in range(100)]
    known = [Call(200, 201, "write", "a", None), Call(202, 203, "read", None, "u7"), Call(204, 205, "read", None, "u9")]
    assert check_key(unknown + known, CAS_REGISTER).answer is Answer.YES
    assert check_key([*unknown, *known, Call(206, 207, "read", None, "u7")], CAS_REGISTER).answer is Answer.NO


def test_a_search_beyond_its_limit_says_so() -> None:
    calls = [Call(0, 100, "write", str(index), None) for index in range(30)] + [Call(101, 102, "read", None, "gone")]
    assert search(calls, CAS_REGISTER, 1000)[0] is Answer.OPEN


JEPSEN = """INFO  jepsen.util - 0\t:invoke\t:write\t1
INFO  jepsen.util - 0\t:ok\t:write\t1
INFO  jepsen.util - 1\t:invoke\t:cas\t[2 3]
INFO  jepsen.util - 1\t:fail\t:cas\t[2 3]
INFO  jepsen.util - 2\t:invoke\t:write\t3
INFO  jepsen.util - 2\t:info\t:write\t:timed-out
INFO  jepsen.util - 0\t:invoke\t:read\tnil
INFO  jepsen.util - 0\t:ok\t:read\t%s
"""
EDN = """{:process 0, :type :invoke, :f :append, :key "k", :value "a"}
{:process 0, :type :ok, :f :append, :key "k", :value "a"}
{:process 1, :type :invoke, :f :get, :key "k", :value nil}
{:process 1, :type :ok, :f :get, :key "k", :value "%s"}
"""


@pytest.mark.parametrize(("value", "exit_code"), [("1", 0), ("3", 0), ("2", 1)])
def test_a_folder_of_jepsen_logs_is_judged(tmp_path: Path, value: str, exit_code: int) -> None:
    (tmp_path / "a.log").write_text(JEPSEN % value)
    (tmp_path / "linearizable.json").write_text('{"a.log": true}')
    assert histories.main([str(tmp_path)]) == exit_code


@pytest.mark.parametrize(("value", "exit_code"), [("a", 0), ("", 1)])
def test_a_folder_of_edn_maps_is_judged(tmp_path: Path, value: str, exit_code: int) -> None:
    (tmp_path / "a.txt").write_text(EDN % value)
    (tmp_path / "linearizable.json").write_text('{"a.txt": true}')
    assert histories.main([str(tmp_path)]) == exit_code


def test_a_folder_that_cannot_be_read_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert histories.main([str(tmp_path)]) == 2
    (tmp_path / "linearizable.json").write_text('{"a.log": true}')
    (tmp_path / "a.log").write_text("nonsense\n")
    assert histories.main([str(tmp_path)]) == 2
    assert "a.log: line 1" in capsys.readouterr().err


def may_be_seen(call: Call, calls: list[Call], model: Model) -> bool:
    """Whether another call may have seen what this one made, or only this one explains a value that was seen.

    Not seen by a call that was over before, nor by one that came after another update for sure.
    """
    made = model.made(call)
    others = [other for other in calls if other is not call]
    for other in others:
        values = model.observed(other)
        match = any(made in value for value in values) if model.parts else made in values or ANY in values
        before = other.end is not None and other.end < call.start
        between = call.end is not None and any(
            update.action in model.replaces
            and update.end is not None
            and call.end < update.start
            and update.end < other.start
            for update in others
        )
        origins = [update for update in others if update.action not in model.looks and model.made(update) == made]
        if match and (not origins or not (before or between)):
            return True
    return False


@settings(max_examples=600)
@given(st.one_of(st.tuples(st.just(CAS_REGISTER), register_calls()), st.tuples(st.just(KV_APPEND), append_calls())))
def test_no_call_of_a_counter_example_can_be_left_out(case: tuple[Model, list[Call]]) -> None:
    model, calls = case
    finding = check_key(calls, model)
    kept = list(finding.counter_example)
    assert finding.minimal
    assert bool(kept) is (finding.answer is Answer.NO)
    assert not kept or not brute_force(kept, model)
    for call in kept:
        rest = [other for other in kept if other is not call]
        if call.action in model.looks or not may_be_seen(call, kept, model):
            assert brute_force(rest, model), f"{call} could have been left out"


@settings(max_examples=600)
@given(st.one_of(st.tuples(st.just(CAS_REGISTER), register_calls()), st.tuples(st.just(KV_APPEND), append_calls())))
def test_what_may_be_left_out_of_a_counter_example_cannot_be_the_cause(case: tuple[Model, list[Call]]) -> None:
    model, calls = case
    if not brute_force(calls, model):
        return
    for call in calls:
        rest = [other for other in calls if other is not call]
        if call.action in model.looks or unseen(call, calls, model):
            assert brute_force(rest, model), f"without {call} it fails, and with it does not"


@settings(max_examples=300)
@given(register_calls(), st.integers(1, 4))
def test_a_search_that_is_left_and_gone_on_with_comes_to_the_same(calls: list[Call], slice_steps: int) -> None:
    history = prune(sorted(calls, key=lambda call: call.start), CAS_REGISTER)
    turns = Search(history, CAS_REGISTER)
    while turns.go_on(slice_steps) is Answer.OPEN:
        assert turns.steps < 100_000
    assert (turns.answer, turns.steps) == search(history, CAS_REGISTER)


def hard_key(writes: int = 40) -> list[Call]:
    """Writes that are all concurrent, then two reads that fit: too many orders to try in a few steps."""
    calls = [Call(index, 1000, "write", index, None) for index in range(writes)]
    return [*calls, Call(1001, 1002, "read", None, 1), Call(1003, 1004, "read", None, 2)]


def test_a_hard_key_starves_no_other() -> None:
    stale = [Call(0, 1, "write", "a", None), Call(2, 3, "write", "b", None), Call(4, 5, "read", None, "a")]
    fine = [Call(0, 1, "write", "a", None), Call(2, 3, "read", None, "a")]
    keys = {"hard": hard_key(), "fine": fine, "stale": stale, "harder": hard_key(60), "last": fine}
    findings = check_keys(keys, CAS_REGISTER, steps=20_000)
    assert {key: finding.answer for key, finding in findings.items()} == {
        "hard": Answer.OPEN,
        "fine": Answer.YES,
        "stale": Answer.NO,
        "harder": Answer.OPEN,
        "last": Answer.YES,
    }
    assert sum(finding.steps for finding in findings.values()) <= 20_000
    assert findings["hard"].steps > 5_000 and findings["harder"].steps > 5_000, "the rest is for those who need it"


def test_a_key_that_takes_more_than_its_first_turn_is_judged_in_a_later_one() -> None:
    long = [Call(2 * index, 2 * index + 1, "write", index, None) for index in range(10_000)]
    keys = {"a": long, "b": [*long, Call(30_000, 30_001, "read", None, 5)]}
    findings = check_keys(keys, CAS_REGISTER)
    assert (findings["a"].answer, findings["b"].answer) == (Answer.YES, Answer.NO)
    first, *_, last = findings["b"].counter_example
    assert len(findings["b"].counter_example) == 3 and first.argument == last.result == 5


def test_shrinking_stops_at_its_limit_with_what_still_fails() -> None:
    writes = [Call(2 * index, 2 * index + 1, "write", index, None, index) for index in range(200)]
    stale = Call(1000, 1001, "read", None, 7, "stale")
    kept, minimal = shrink([*writes, stale], stale, CAS_REGISTER, steps=500)
    assert not minimal and len(kept) > 3 and search(kept, CAS_REGISTER)[0] is Answer.NO
    kept, minimal = shrink([*writes, stale], stale, CAS_REGISTER)
    assert minimal and len(kept) == 3 and kept[0].name == 7 and kept[-1] is stale


def test_an_append_that_nobody_saw_does_not_make_the_search_longer() -> None:
    lost = [Call(index, None, "append", f"<{index}>", None) for index in range(60)]
    seen = [Call(100, 101, "append", "x", None), Call(102, 103, "get", None, "<7>x")]
    assert check_key([*lost, *seen], KV_APPEND, 1000).answer is Answer.YES
    finding = check_key([*lost, *seen, Call(104, 105, "get", None, "x<7>", "turned")], KV_APPEND, 1000)
    assert finding.answer is Answer.NO and finding.culprit is not None and finding.culprit.name == "turned"


def test_of_two_calls_that_end_together_the_one_that_fails_is_the_culprit() -> None:
    calls = [
        Call(0, 1, "write", "a", None, "write"),
        Call(2, 5, "read", None, "a", "fine"),
        Call(3, 5, "read", None, "wrong", "wrong"),
        Call(4, 5, "read", None, "odd", "odd"),
    ]
    finding = check_key(calls, CAS_REGISTER)
    assert [call.name for call in finding.counter_example] == ["wrong"]


@pytest.mark.parametrize("seed", range(3))
def test_histories_made_for_the_bench_are_concurrent_and_are_what_they_are_said_to_be(seed: int) -> None:
    keys = checking.history(seed, operations=3000, keys=5)
    assert sum(map(len, keys.values())) == 3000
    overlaps = sum(
        second.start < first.end
        for calls in keys.values()
        for first, second in pairwise(sorted(calls, key=lambda call: call.start))
        if first.end is not None
    )
    assert overlaps > 1000
    assert {finding.answer for finding in check_keys(keys, CAS_REGISTER).values()} == {Answer.YES}
    checking.plant_stale_read(keys[2])
    findings = check_keys(keys, CAS_REGISTER)
    assert [key for key, finding in findings.items() if finding.answer is not Answer.YES] == [2]
    assert findings[2].answer is Answer.NO and findings[2].minimal
    names = [call.name for call in findings[2].counter_example]
    assert names[-1] == "stale" and len(names) <= 4


def test_ten_clients_that_are_never_idle_on_one_key_are_within_the_budget() -> None:
    """A look that fits is placed at once; to try it in each later place as well would double the search each time."""
    keys = checking.history(1, operations=4000, clients=10, keys=1)
    (finding,) = check_keys(keys, CAS_REGISTER, 200_000).values()
    assert finding.answer is Answer.YES
