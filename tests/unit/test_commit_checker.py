"""The checker of atomic commit: a true story of transfers, and each with its own thing gone wrong."""

from __future__ import annotations

import pytest
from brownout.checkers import commit, validity
from brownout.checkers.run import Run
from brownout.history import Check, Operation, Outcome, Verdict
from brownout_node.core import schema
from history_builder import World, is_event

SHARDS = {"ada": "b2", "bob": "b3", "cy": "b2"}
IDS = {"b1": 1, "b2": 2, "b3": 3}


class Bank(World):
    """Three boards: b1 coordinates, b2 and b3 have accounts of 100 each."""

    def __init__(self) -> None:
        super().__init__(3)
        self.held: dict[str, tuple[int, int]] = {}  # balance and version
        self.numbers = 0
        self.boot()

    def prepare(self, item: Operation, number: int, *keys: str) -> None:
        target, amount = (item.value or "").split(":")
        request = {"client": item.client, "request": item.request}
        for key in keys:
            self.tell(
                SHARDS[key],
                "commit_prepared",
                coordinator=1,
                number=number,
                source=item.key,
                target=target,
                amount=int(amount),
                **request,
            )

    def apply(self, item: Operation, number: int, key: str, change: int, told: bool = True) -> None:
        balance, version = self.held.get(key, (100, 0))
        self.held[key] = (balance + change, version + 1)
        fields = {"client": item.client, "request": item.request, "key": key, "change": change}
        if told:
            self.tell(
                SHARDS[key],
                "commit_applied",
                coordinator=1,
                number=number,
                balance=balance + change,
                version=version + 1,
                **fields,
            )

    def transfer(self, source: str, target: str, amount: int, untold: tuple[str, ...] = ()) -> Operation:
        """One that is committed and answered; `untold` accounts change, and the record does not say so."""
        item = self.ask("transfer", source, f"{target}:{amount}")
        self.numbers += 1
        self.prepare(item, self.numbers, source, target)
        self.decide_one(item, self.numbers, True)
        self.answer(item, "ok", None, 0)
        self.apply(item, self.numbers, source, -amount, source not in untold)
        self.apply(item, self.numbers, target, amount, target not in untold)
        return item

    def decide_one(self, item: Operation, number: int, commits: bool) -> None:
        request = {"client": item.client, "request": item.request}
        self.tell("b1", "commit_decided", number=number, commit=commits, **request)

    def abort(self, source: str, target: str, amount: int) -> Operation:
        item = self.ask("transfer", source, f"{target}:{amount}")
        self.numbers += 1
        self.prepare(item, self.numbers, source)
        self.decide_one(item, self.numbers, False)
        self.tell(SHARDS[source], "commit_aborted", coordinator=1, number=self.numbers)
        self.answer(item, "busy", None, 0)
        item.outcome = Outcome.FAIL
        return item

    def read(self, key: str, balance: int | None = None, version: int | None = None) -> Operation:
        item = self.ask("balance", key)
        known = self.held.get(key, (100, 0))
        self.answer(item, "ok", str(known[0] if balance is None else balance), known[1] if version is None else version)
        return item

    def settle(self, **totals: int) -> None:
        """All say what they hold, or another sum where a test says so; and the accounts are read."""
        for board in self.boards:
            held = [value[0] for key, value in self.held.items() if SHARDS[key] == board]
            total = totals.get(board, sum(held))
            self.tell(board, "commit_shard", total=total, accounts=len(held), prepared=0)
        self.wait(10.0)


def story() -> Bank:
    bank = Bank()
    bank.transfer("ada", "bob", 30)
    bank.abort("bob", "ada", 5)
    bank.transfer("bob", "ada", 10)
    bank.read("ada")
    return bank


def judged(bank: World, **options: int) -> Check:
    history = bank.history()
    history.plan["options"] = {"commit": options} if options else {}
    return commit.check(Run(history))


def fine(bank: Bank, **totals: int) -> Check:
    bank.settle(**totals)
    check = judged(bank)
    assert check.verdict is Verdict.VALID, check
    return check


def breach(bank: Bank, *words: str, **totals: int) -> Check:
    bank.settle(**totals)
    check = judged(bank)
    assert check.verdict is Verdict.INVALID, check
    for word in words:
        assert word in check.detail, check.detail
    assert check.evidence
    return check


def test_the_story_as_it_should_be() -> None:
    bank = story()
    check = fine(bank)
    assert check.metrics["transfers_committed"] == check.metrics["transfers_answered"] == 2
    assert check.metrics["transactions_aborted"] == 1
    assert (check.metrics["accounts"], check.metrics["money"]) == (2, 200)
    assert judged(bank, initial=50).verdict is Verdict.INVALID


def test_a_transaction_that_one_board_aborted() -> None:
    bank = story()
    bank.tell("b3", "commit_aborted", coordinator=1, number=1)
    breach(bank, "transaction 1 of b1 was committed by", "aborted by b3")


def test_a_coordinator_that_decided_twice() -> None:
    bank = story()
    bank.tell("b1", "commit_decided", number=3, commit=False, client=0, request=0)
    breach(bank, "transaction 3 of b1", "aborted by b1")


def test_a_log_that_says_something_else() -> None:
    bank = story()
    for height, value, verdict in ((1, "1 commit 2 3", Verdict.VALID), (2, "2 commit 2 3", Verdict.INVALID)):
        bank.tell(
            "b2",
            "applied",
            height=height,
            client=schema.FIRST_OWN + 1,
            request=height,
            operation=schema.CAS,
            key="txn/1/0",
            value=value,
            expected=None,
            status=schema.OK,
            result=None,
        )
        assert validity.check(Run(bank.history())).verdict is Verdict.VALID
        bank.settle()
        assert judged(bank).verdict is verdict


def test_a_transfer_that_only_one_side_did() -> None:
    bank = Bank()
    item = bank.ask("transfer", "ada", "bob:30")
    bank.prepare(item, 1, "ada", "bob")
    bank.decide_one(item, 1, True)
    bank.answer(item, "ok", None, 0)
    bank.apply(item, 1, "ada", -30)
    bank.held["bob"] = (100, 0)
    breach(bank, "of money was lost")


def test_a_sure_transfer_that_a_read_does_not_show() -> None:
    bank = Bank()
    item = bank.ask("transfer", "ada", "bob:30")
    bank.prepare(item, 1, "ada", "bob")
    bank.decide_one(item, 1, True)
    bank.answer(item, "ok", None, 0)
    bank.apply(item, 1, "ada", -30)
    bank.read("bob")
    breach(bank, "'bob' cannot be derived")


def test_money_that_is_made_and_lost() -> None:
    breach(story(), "30 of money was made", b3=150)
    breach(story(), "20 of money was lost", b2=60)


def test_money_is_not_counted_while_a_transfer_is_open() -> None:
    bank = story()
    bank.settle()
    item = bank.ask("transfer", "ada", "bob:7")
    bank.prepare(item, 9, "ada", "bob")
    bank.apply(item, 9, "ada", -7)
    assert "money" not in judged(bank).metrics


def test_a_transaction_that_is_done_twice() -> None:
    bank = story()
    item = bank.operations[0]
    bank.apply(item, 1, "ada", -30)
    breach(bank, "b2 did transaction 1 of b1 twice")


def test_a_request_that_two_transactions_did() -> None:
    bank = story()
    item = bank.operations[0]
    bank.apply(item, 7, "ada", -30)
    bank.apply(item, 7, "bob", 30)
    breach(bank, "request 1 of client 1000 was committed more than once")


def test_a_change_that_nobody_asked_for() -> None:
    bank = story()
    bank.change(is_event("b2", "commit_applied", number=1), change=-40)
    breach(bank, "changed 'ada' by -40")
    bank = story()
    bank.change(is_event("b2", "commit_applied", number=1), client=77)
    bank.change(is_event("b3", "commit_applied", number=1), client=77)
    bank.change(is_event("b2", "commit_prepared", number=1), client=77)
    bank.change(is_event("b3", "commit_prepared", number=1), client=77)
    bank.change(is_event("b1", "commit_decided", number=1), client=77)
    breach(bank, "client 77 never asked")


def test_a_balance_that_does_not_follow() -> None:
    bank = story()
    bank.change(is_event("b3", "commit_applied", number=3), balance=140)
    breach(bank, "'bob' moved by +20 beside its change 2")


def test_a_version_that_is_made_twice_is_a_lost_change() -> None:
    bank = story()
    bank.held["ada"] = (100, 0)
    bank.transfer("ada", "bob", 1)
    breach(bank, "change 1 of 'ada' was made twice")


@pytest.mark.parametrize(("balance", "version"), [(70, 2), (81, 2), (95, 0)])
def test_a_read_of_what_was_not_so(balance: int, version: int) -> None:
    bank = story()
    bank.read("ada", balance, version)
    breach(bank, "the balance of 'ada' was read as")


def test_a_read_before_its_time() -> None:
    bank = story()
    bank.read("ada", 70, 1)
    breach(bank, "did not hold a transfer that had been answered")


def test_an_answer_that_is_not_so() -> None:
    bank = story()
    bank.operations[0].outcome = Outcome.FAIL
    bank.operations[0].status = "mismatch"
    breach(bank, "was told mismatch of a transfer that was done")


def test_an_answered_transfer_that_is_gone() -> None:
    bank = story()
    bank.answer(bank.ask("transfer", "ada", "bob:3"), "ok", None, 0)
    bank.read("ada")
    breach(bank, "'ada' cannot be derived: 0 changes")


def test_what_power_took_of_the_record_is_made_up_for() -> None:
    for balance, verdict in ((60, Verdict.VALID), (65, Verdict.INVALID)):
        bank = story()
        bank.transfer("ada", "bob", 20, untold=("ada",))
        bank.held["ada"] = (balance, bank.held["ada"][1])
        bank.read("ada")
        bank.settle()
        assert judged(bank).verdict is verdict


def test_a_transfer_in_doubt_may_have_been_done_or_not() -> None:
    for balance, version, verdict in ((80, 2, Verdict.VALID), (75, 3, Verdict.VALID), (75, 2, Verdict.INVALID)):
        bank = story()
        bank.ask("transfer", "ada", "bob:5").outcome = Outcome.INFO
        bank.wait(1.0)
        bank.read("ada", balance, version)
        moved = 5 * (version == 3)
        bank.settle(b2=80 - moved, b3=120 + moved)
        assert judged(bank).verdict is verdict, (balance, version)


def test_a_shard_that_stays_in_doubt() -> None:
    bank = story()
    bank.tell("b2", "commit_blocked", coordinator=1, number=8, blocked_ms=600)
    breach(bank, "b2 is still in doubt of transaction 8")


def test_the_blocked_time_is_added_up() -> None:
    bank = story()
    for name, board, blocked_ms in ((8, "b2", 4000), (8, "b3", 700)):
        bank.tell(board, "commit_blocked", coordinator=1, number=name, blocked_ms=600)
        bank.tell(board, "commit_resolved", coordinator=1, number=name, commit=False, blocked_ms=blocked_ms)
    check = fine(bank)
    assert check.metrics["blocked"] == 2
    assert check.metrics["blocked_ms"] == 4700 and check.metrics["blocked_longest_ms"] == 4000
    assert "2 times, 4.70 s in all, 4.00 s at most" in check.detail


def test_a_lost_journal_leaves_the_money_open() -> None:
    bank = story()
    bank.cut("f01", "b3", kind="wipe", journal=1)
    bank.tell("b2", "commit_blocked", coordinator=3, number=8, blocked_ms=600)
    bank.settle()
    check = judged(bank)
    assert check.verdict is Verdict.UNKNOWN and "b3 lost the journal" in check.detail


def test_a_board_that_says_nothing_leaves_the_sum_open() -> None:
    bank = story()
    bank.settle()
    bank.drop(is_event("b3", "commit_shard"))
    assert judged(bank).verdict is Verdict.UNKNOWN
