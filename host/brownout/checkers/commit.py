"""Atomic commit: a transfer is done on both boards or on none, once, and the money of all accounts stays the same.

Judged from what shards told of their accounts, from what coordinators and the log decided, and from clients' answers
and reads. An account counts its changes: what power took along of the record leaves a gap in that count, and then the
transfers that nobody told of have to fill it exactly. What hangs on a board that lost its journal is not judged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from brownout_node.core import commit, schema

from ..history import BoardEvent, Check, Operation, Outcome
from ..protocols import PROTOCOLS
from .evidence import Findings, operation, step
from .run import Run

Name = tuple[int, int]  # coordinator and number
Request = tuple[int, int]  # client and request


@dataclass
class Transaction:
    """What the record says of one transaction."""

    commits: list[BoardEvent] = field(default_factory=list)
    aborts: list[BoardEvent] = field(default_factory=list)
    applied: list[BoardEvent] = field(default_factory=list)
    request: Request | None = None


@dataclass
class Transfer:
    """A client's operation, with what the record says of it. parts: account -> change."""

    asked: Operation
    parts: dict[str, int]
    committed_ns: int | None = None  # by then at the latest
    names: set[Name] = field(default_factory=set)
    versions: dict[str, int] = field(default_factory=dict)

    @property
    def sure(self) -> bool:
        return self.committed_ns is not None


@dataclass
class Account:
    """balances: by version, each with who says so; changes: those that were told."""

    balances: dict[int, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    changes: dict[int, BoardEvent] = field(default_factory=dict)
    last_read: Operation | None = None  # that was begun last


def check(run: Run) -> Check:
    findings = Findings("commit")
    transactions = _transactions(run)
    transfers = _transfers(run)
    lost = [board for board in run.boots if any(boot.lost_journal for boot in run.boots[board])]
    _atomic(run, transactions, findings)
    _as_asked(transactions, transfers, findings)
    _answers(transfers, findings)
    accounts = _accounts(run, transfers, findings)
    if lost:
        findings.open(f"{', '.join(lost)} lost the journal, and the accounts with it")
    else:
        for key, account in sorted(accounts.items()):
            _derived(run, key, account, transfers, findings)
        _total(run, findings)
    _blocked(run, lost, findings)
    committed = sum(transfer.sure for transfer in transfers.values())
    findings.metrics["transfers_committed"] = committed
    findings.metrics["transactions_aborted"] = sum(
        not row.commits and bool(row.aborts) for row in transactions.values()
    )
    blocked, longest = findings.metrics["blocked_ms"] / 1000, findings.metrics["blocked_longest_ms"] / 1000
    return findings.check(
        f"{committed} transfers are done on both sides or on none, and the money is all there; shards were blocked"
        f" {findings.metrics['blocked']} times, {blocked:.2f} s in all, {longest:.2f} s at most"
    )


def initial_of(run: Run) -> int:
    """What every account holds at first."""
    row = next(row for row in PROTOCOLS["commit"].options.split() if row.startswith("initial:"))
    return int(run.history.plan.get("options", {}).get("commit", {}).get("initial", row.split(":")[1]))


# What the record says.


def _transactions(run: Run) -> dict[Name, Transaction]:
    found: dict[Name, Transaction] = defaultdict(Transaction)
    for event in run.of("commit_prepared", "commit_applied", "commit_aborted", "commit_decided", "commit_resolved"):
        fields = event.fields
        row = found[fields.get("coordinator", run.ids[event.board]), fields["number"]]
        if fields.get("client"):
            row.request = (fields["client"], fields["request"])
        if event.kind == "commit_applied":
            row.applied.append(event)
        if event.kind == "commit_applied" or fields.get("commit") is True:
            row.commits.append(event)
        elif event.kind == "commit_aborted" or fields.get("commit") is False:
            row.aborts.append(event)
    for event in run.of("applied"):
        words = (event.fields["value"] or "").split()
        place = event.fields["key"].split("/")
        own = schema.FIRST_OWN <= event.fields["client"] <= schema.LAST_OWN
        if own and words and event.fields["status"] == schema.OK:
            row = found[int(place[1]), int(words[0])]
            (row.aborts if words[1] == "abort" else row.commits).append(event)
    return found


def _transfers(run: Run) -> dict[Request, Transfer]:
    found = {}
    for item in run.history.operations:
        target = commit.parsed(item.value) if item.operation == "transfer" else None
        if target is not None and target[0] != item.key:
            parts = {item.key: -target[1], target[0]: target[1]}
            found[item.client, item.request] = Transfer(item, parts)
    return found


# Each transaction.


def _atomic(run: Run, transactions: dict[Name, Transaction], findings: Findings) -> None:
    """One outcome on every board, in the log too; and nothing is done twice."""
    for (coordinator, number), row in sorted(transactions.items()):
        if row.commits and row.aborts:
            done, undone = row.commits[0], row.aborts[0]
            findings.wrong(
                f"transaction {number} of {run.names.get(coordinator, coordinator)} was committed by {done.board} and"
                f" aborted by {undone.board}",
                step(done),
                step(undone),
            )
        first: dict[str, BoardEvent] = {}
        for event in row.applied:
            earlier = first.setdefault(event.fields["key"], event)
            if earlier is not event:
                findings.wrong(
                    f"{event.board} did transaction {number} of {run.names.get(coordinator, coordinator)} twice",
                    step(earlier),
                    step(event),
                )


def _as_asked(transactions: dict[Name, Transaction], transfers: dict[Request, Transfer], findings: Findings) -> None:
    """What was done is what a client asked for, and no request was done by two transactions."""
    for name, row in sorted(transactions.items()):
        if row.request is None or not row.commits:
            continue
        transfer = transfers.get(row.request)
        if transfer is None:
            findings.wrong(f"client {row.request[0]} never asked for what was committed", step(row.commits[0]))
            continue
        transfer.names.add(name)
        done_ns = min(event.received_ns for event in row.commits)
        transfer.committed_ns = min(done_ns, transfer.committed_ns or done_ns)
        for event in row.applied:
            key, change = event.fields["key"], event.fields["change"]
            transfer.versions[key] = event.fields["version"]
            if transfer.parts.get(key) != change:
                findings.wrong(
                    f"{event.board} changed {key!r} by {change}; that is not what was asked",
                    operation(transfer.asked),
                    step(event),
                )
        if len(transfer.names) > 1:
            evidence = [step(transactions[other].commits[0]) for other in sorted(transfer.names)]
            findings.wrong(
                f"request {row.request[1]} of client {row.request[0]} was committed more than once",
                operation(transfer.asked),
                *evidence,
            )


def _answers(transfers: dict[Request, Transfer], findings: Findings) -> None:
    """Ok: it is committed. Anything else that is definite: it is not."""
    for transfer in transfers.values():
        asked = transfer.asked
        if asked.outcome is Outcome.FAIL and transfer.sure:
            findings.wrong(
                f"client {asked.client} was told {asked.status} of a transfer that was done", operation(asked)
            )
        elif asked.outcome is Outcome.OK and asked.finished_ns is not None:
            transfer.committed_ns = min(asked.finished_ns, transfer.committed_ns or asked.finished_ns)
    findings.metrics["transfers_answered"] = sum(row.asked.outcome is Outcome.OK for row in transfers.values())


# Each account.


def _accounts(run: Run, transfers: dict[Request, Transfer], findings: Findings) -> dict[str, Account]:
    accounts: dict[str, Account] = defaultdict(Account)
    start: tuple[int, dict[str, Any]] = (initial_of(run), {"note": "the initial balance"})
    for transfer in transfers.values():
        for key in transfer.parts:
            accounts[key].balances[0] = start
    for event in run.of("commit_applied"):
        fields = event.fields
        account = accounts[fields["key"]]
        account.balances.setdefault(0, start)
        earlier = account.changes.setdefault(fields["version"], event)
        if earlier is not event:
            findings.wrong(
                f"change {fields['version']} of {fields['key']!r} was made twice: the first is lost",
                step(earlier),
                step(event),
            )
        account.balances[fields["version"]] = (fields["balance"], step(event))
    for item in run.history.operations:
        if item.operation != "balance" or item.outcome is not Outcome.OK:
            continue
        account = accounts[item.key]
        account.balances.setdefault(0, start)
        balance, version = int(item.result or 0), item.height or 0
        known = account.balances.setdefault(version, (balance, operation(item)))
        if known[0] != balance:
            findings.wrong(
                f"the balance of {item.key!r} was read as {balance}, and was {known[0]} after change {version}",
                known[1],
                operation(item),
            )
        _not_stale(item, version, transfers, findings)
        if account.last_read is None or account.last_read.invoked_ns < item.invoked_ns:
            account.last_read = item
    return accounts


def _not_stale(item: Operation, version: int, transfers: dict[Request, Transfer], findings: Findings) -> None:
    """A read holds what was answered before it was asked for."""
    for transfer in transfers.values():
        asked = transfer.asked
        answered = asked.outcome is Outcome.OK and asked.finished_ns is not None and asked.finished_ns < item.invoked_ns
        if answered and transfer.versions.get(item.key, 0) > version:
            findings.wrong(
                f"a read of {item.key!r} did not hold a transfer that had been answered",
                operation(asked),
                operation(item),
            )
            return


def _derived(run: Run, key: str, account: Account, transfers: dict[Request, Transfer], findings: Findings) -> None:
    """Every balance is the one before and the change; gaps are filled by transfers that no board told of here."""
    missing = money = 0
    points = sorted(account.balances)
    for before, after in zip(points, points[1:], strict=False):
        told = account.changes.get(after)
        gap = after - before - (told is not None)
        change = account.balances[after][0] - account.balances[before][0] - (told.fields["change"] if told else 0)
        if not gap and change:
            findings.wrong(
                f"the balance of {key!r} moved by {change:+d} beside its change {after}",
                account.balances[before][1],
                account.balances[after][1],
            )
            return
        missing += gap
        money += change if gap else 0
    last = points[-1]
    read = account.last_read
    sure: list[Transfer] = []
    doubtful: list[Transfer] = []
    for transfer in transfers.values():
        if key not in transfer.parts or key in transfer.versions or transfer.asked.outcome is Outcome.FAIL:
            continue
        if read is not None and read.height == last and (transfer.committed_ns or run.ended_ns) < read.invoked_ns:
            sure.append(transfer)
        else:
            doubtful.append(transfer)
    if (missing, money) not in _sums(sure, doubtful, key):
        findings.wrong(
            f"the balance of {key!r} cannot be derived: {missing} changes that no board told of make {money:+d}; there"
            f" are {len(sure)} transfers that are done and {len(doubtful)} that may be",
            account.balances[last][1],
            *[operation(transfer.asked) for transfer in sure[:4]],
        )


def _sums(sure: Iterable[Transfer], doubtful: Iterable[Transfer], key: str) -> set[tuple[int, int]]:
    """(how many, by how much) they can have changed an account: the sure ones all, of the others any."""
    parts = [transfer.parts[key] for transfer in sure]
    sums = {(len(parts), sum(parts))}
    for transfer in doubtful:
        sums |= {(count + 1, money + transfer.parts[key]) for count, money in sums}
    return sums


# All together.


def _total(run: Run, findings: Findings) -> None:
    """At the end all boards hold together what the accounts held at first."""
    initial = initial_of(run)
    total = accounts = 0
    told = []
    for board in run.boards:
        boot = run.last_boot(board)
        said = [event for event in boot.events if event.kind == "commit_shard"] if boot is not None else []
        if boot is None or not said or run.is_dark_at_end(board):
            findings.open(f"{board} did not say at the end what it holds")
            return
        fields = said[-1].fields
        after = [event for event in boot.events if event.sequence > said[-1].sequence]
        if _in_doubt(said[-1], after):
            return  # half of a transfer may be done; whether that is wrong, the blocked ones say
        later = [event for event in after if event.kind == "commit_applied"]
        total += fields["total"] + sum(event.fields["change"] for event in later)
        new = sum(event.fields["version"] == 1 for event in later)
        total += new * initial
        accounts += fields["accounts"] + new
        told.append(step(said[-1]))
    findings.metrics["accounts"] = accounts
    findings.metrics["money"] = total
    if total != initial * accounts:
        what = "made" if total > initial * accounts else "lost"
        findings.wrong(
            f"{abs(total - initial * accounts)} of money was {what}: {accounts} accounts hold {total} at the end", *told
        )


def _in_doubt(told: BoardEvent, later: Iterable[BoardEvent]) -> bool:
    """Whether the board held accounts for transactions at the end, as far as it told."""
    left = set()
    for event in later:
        name = (event.fields.get("coordinator"), event.fields.get("number"))
        if event.kind == "commit_prepared":
            left.add(name)
        elif event.kind in ("commit_aborted", "commit_applied"):
            left.discard(name)
    return bool(left or told.fields["prepared"])


def _blocked(run: Run, lost: list[str], findings: Findings) -> None:
    """How long shards did not know what became of a transaction; none is left by a bound after the faults."""
    lengths: Counter[tuple[str, Name]] = Counter()
    for board, boots in run.boots.items():
        for boot in boots:
            open_now: dict[Name, BoardEvent] = {}
            for event in boot.events:
                name = (event.fields.get("coordinator", 0), event.fields.get("number", 0))
                if event.kind == "commit_blocked":
                    open_now[name] = event
                elif event.kind == "commit_resolved":
                    open_now.pop(name, None)
                    lengths[board, name] += event.fields["blocked_ms"]
            for name, event in open_now.items():
                lengths[board, name] += event.fields["blocked_ms"] + boot.events[-1].now_ms - event.now_ms
                last = boot is boots[-1] and not run.is_dark_at_end(board)
                if last and run.names.get(name[0]) not in lost:
                    _still(run, board, event, findings)
    findings.metrics["blocked"] = len(lengths)
    findings.metrics["blocked_ms"] = sum(lengths.values())
    findings.metrics["blocked_longest_ms"] = max(lengths.values(), default=0)


def _still(run: Run, board: str, event: BoardEvent, findings: Findings) -> None:
    since_ns = max(event.received_ns, run.healed_ns)
    detail = f"{board} is still in doubt of transaction {event.fields['number']} at the end"
    if run.finished and run.ended_ns - since_ns >= run.converge_ns:
        findings.wrong(f"{detail}, {(run.ended_ns - since_ns) / 1e9:.1f} s after the faults", step(event))
    elif run.finished and run.is_dark_at_end(run.names.get(event.fields["coordinator"], "")):
        findings.open(f"{detail}, and its coordinator is without power", step(event))
