"""What is known of a run so far: its boards, links, votes, faults and curves, from the lines of its folder.

Pure: takes lines as they are in the files, gives a snapshot or what changed since the last look. Its size does not
grow with the run. Must not judge: that two boards decided differently is shown, and left to the checkers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from brownout_node.core import schema

from ..fault_kinds import HOST
from ..fault_kinds import KINDS as FAULT_KINDS
from ..faults import PlannedFault, link_rules
from ..history import FaultStage
from ..watch import CONVERGENT
from .curves import Curves, Histogram

MOST_HEIGHTS = 12  # shown
KEPT_HEIGHTS = 512  # compared with what boards decide late
MOST_LINES = 200
MOST_CONFLICTS = 20
IN_FORCE = (FaultStage.APPLIED, FaultStage.PROVEN, FaultStage.UNPROVEN)
POWER_GONE_AT_ONCE = ("cut", "cycle", "blackout")
MEMBER_STATES = {schema.ALIVE: "alive", schema.SUSPECT: "suspect", schema.DEAD: "dead"}
LINK_GROUPS = ("link", "message")
EVERYTHING_ELSE = "*"
# What is worth a line; votes and decisions have a table of their own.
TOLD = (
    "boot",
    "trapped",
    "safe_mode",
    "degraded",
    "lost_events",
    "rejected",
    "member",
    "round",
    "admitted",
    "caught_up",
    "adversary",
    "handed_over",
)
UNTOLD = (  # of a boot: what the board runs is in the report, and its votes are told again when they matter
    "implementation",
    "version",
    "firmware",
    "locked",
    "locked_round",
    "prevoted",
    "prevote_round",
    "precommitted",
    "precommit_round",
    "gossip_number",
)


class Seen:
    """Which numbers of one boot were seen: all up to `through`, and some above."""

    def __init__(self) -> None:
        self.through = 0
        self.above: set[int] = set()

    def add(self, number: int) -> bool:
        """Whether it is new."""
        if number <= self.through or number in self.above:
            return False
        self.above.add(number)
        while self.through + 1 in self.above:
            self.through += 1
            self.above.remove(self.through)
        return True

    def missing(self) -> int:
        """Numbers below the highest that have not come."""
        return max(self.above) - self.through - len(self.above) if self.above else 0


class Picture:
    """Feed it with `manifest`, `plan`, `event`, `operation`, `fault` and `gap`; ask `snapshot` or `changes`."""

    def __init__(self, name: str = "") -> None:
        self.run: dict[str, Any] = {"name": name, "state": "starting", "verdict": None, "checks": []}
        self.boards: dict[str, dict[str, Any]] = {}
        self.faults: dict[str, dict[str, Any]] = {}
        self.heights: dict[int, dict[str, Any]] = {}
        self.links: list[dict[str, Any]] = []
        self.conflicts: list[dict[str, Any]] = []  # the first; the lines above them move on
        self.digests: dict[str, dict[str, str | None]] = {}
        self.lines: deque[dict[str, Any]] = deque(maxlen=MOST_LINES)
        self.totals: dict[str, Any] = {
            "received": 0,
            "lost": 0,
            "missing": 0,
            "gaps": 0,
            "decisions": 0,
            "conflicts": 0,
            "operations": 0,
            "ok": 0,
            "fail": 0,
            "info": 0,
        }
        self.newest: dict[str, Any] | None = None
        self.curves = Curves()
        self.decision_latency = Histogram()
        self._names: list[str] = []
        self._planned: dict[str, PlannedFault] = {}
        self._seen: dict[tuple[str, int], Seen] = {}
        self._decided: dict[int, str | None] = {}
        self._at_height: dict[tuple[str, int], str | None] = {}
        self._proposals: dict[int, tuple[str, int, int]] = {}
        self._invoked: dict[int, int] = {}
        self._forgotten_missing = 0
        self.told = 0  # lines in all
        self._new_lines = 0
        self._dirty: set[str] = {"run"}
        self._dirty_boards: set[str] = set()
        self._dirty_faults: set[str] = set()

    # Documents.

    def manifest(self, document: Mapping[str, Any]) -> None:
        for key in ("campaign", "seed", "rung", "rig", "started_utc", "reason", "unhealed"):
            if key in document:
                self.run[key] = document[key]
        for number, name, weight in document.get("roster", ()):
            board = self._board(name)
            board["number"], board["role"] = number, f"voter, weight {weight}" if weight else "learner"
            self._dirty_boards.add(name)
        self._dirty.add("run")

    def plan(self, document: Mapping[str, Any]) -> None:
        self.run["duration_s"] = document.get("duration_s")
        for entry in document.get("faults", ()):
            fault = PlannedFault(
                entry["id"],
                entry["kind"],
                entry.get("at_s", 0.0),
                entry.get("for_s", 0.0),
                tuple(entry.get("boards", ())),
                entry.get("select"),
                entry.get("when"),
                entry.get("parameters", {}),
            )
            self._planned[fault.id] = fault
            self.faults.setdefault(
                fault.id,
                {
                    "id": fault.id,
                    "kind": fault.kind,
                    "boards": list(fault.boards),
                    "select": fault.select,
                    "stage": "to come",
                    "planned_s": fault.at_s,  # after the campaign began; what comes later is on the run's clock
                    "times": {},
                },
            )
            self._dirty_faults.add(fault.id)
        self._dirty.add("run")

    def verdict(self, document: Mapping[str, Any]) -> None:
        self.run["verdict"] = document.get("verdict")
        self.run["checks"] = [
            {"name": check["name"], "verdict": check["verdict"], "detail": str(check["detail"])}
            for check in document.get("checks", ())
        ]
        self._dirty.add("run")

    def state(self, state: str) -> None:
        """starting | running | judging | ended | interrupted | abandoned | unreadable."""
        if self.run["state"] != state:
            self.run["state"] = state
            self._dirty.add("run")

    # Lines.

    def event(self, line: Mapping[str, Any]) -> None:
        name, boot, kind, at_ns = line["board"], line["boot"], line["kind"], line["received_ns"]
        if not self._first_time(name, boot, line["sequence"]):
            return
        self.totals["received"] += 1
        self._dirty.add("totals")
        if self.newest is None or at_ns >= self.newest["received_ns"]:
            keys = ("board", "boot", "sequence", "kind", "received_ns")
            self.newest = {key: line[key] for key in keys}
            self._dirty.add("newest")  # told once: a page takes its delay by it
        self.curves.advance(at_ns)
        board = self._board(name)
        board["events"] += 1
        board["last"], board["last_ns"] = kind, max(at_ns, board["last_ns"] or 0)
        self._dirty_boards.add(name)
        fields = line["fields"]
        handler = getattr(self, "_on_" + kind.removeprefix("byzantine_"), None)
        if handler is not None:
            handler(board, line, fields)
        if kind in TOLD:
            told = {key: value for key, value in fields.items() if value is not None and key not in UNTOLD}
            if kind == "member":
                told = {"board": fields["board"], "seen": MEMBER_STATES[fields["state"]]}
            self._tell(at_ns, name, kind, ", ".join(f"{key} {value}" for key, value in told.items()))

    def _first_time(self, board: str, boot: int, sequence: int) -> bool:
        key = (board, boot)
        seen = self._seen.get(key)
        if seen is None:
            older = [other for other in self._seen if other[0] == board]
            for other in older[:-3]:  # what comes of a boot that long ago is counted anew; nobody sends it
                self._forgotten_missing += self._seen.pop(other).missing()
            seen = self._seen[key] = Seen()
        return seen.add(sequence)

    def _on_boot(self, board: dict[str, Any], line: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        board["boot"], board["boot_ns"] = line["boot"], line["received_ns"]
        if line["received_ns"] >= board["off_ns"]:
            board["state"] = "up"
        board["implementation"] = f"{fields['implementation']} {fields['version']}".strip()
        board["may_vote"], board["height"] = fields["may_vote"], fields["next_height"] - 1
        board["note"] = "" if fields["may_vote"] or board.get("role") == "learner" else "may not vote"

    def _on_degraded(self, board: dict[str, Any], line: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        board["note"] = f"degraded: {fields['reason']}"

    def _on_safe_mode(self, board: dict[str, Any], line: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        board["note"] = f"safe mode: {fields['reason']}"

    def _on_admitted(self, board: dict[str, Any], line: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        if fields["board"] == board.get("number"):
            board["may_vote"], board["note"] = True, ""

    def _on_lost_events(self, board: dict[str, Any], line: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        self.totals["lost"] += fields["last"] - fields["first"] + 1

    def _on_digest(self, board: dict[str, Any], line: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        protocol, digest = fields["protocol"], fields["digest"]
        board["digests"] = {**board["digests"], protocol: (digest or "")[:8]}
        if protocol in CONVERGENT:
            self.digests.setdefault(protocol, {})[board["name"]] = digest
            self.curves.differ(line["received_ns"], self.different())
            self._dirty.add("digests")
        elif fields["height"]:
            first = self._at_height.setdefault((protocol, fields["height"]), digest)
            if first != digest:
                self._conflict(line, f"{protocol} state at height {fields['height']} is {digest}, elsewhere {first}")
            if len(self._at_height) > KEPT_HEIGHTS:
                del self._at_height[next(iter(self._at_height))]

    def different(self) -> int:
        """How many different states the boards told last, of the protocol where it is the most."""
        return max((len(set(told.values())) for told in self.digests.values()), default=0)

    # Votes.

    def _on_proposed(self, board: dict[str, Any], line: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        height = self._height(fields["height"])
        if height is not None:
            height["proposer"], height["round"], height["value"] = (
                board["name"],
                fields.get("round"),
                fields["value_id"],
            )
        self._proposals[fields["height"]] = (board["name"], line["boot"], line["now_ms"])
        if len(self._proposals) > KEPT_HEIGHTS:
            del self._proposals[next(iter(self._proposals))]

    def _on_prevoted(self, board: dict[str, Any], line: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        self._voted("prevotes", board["name"], fields)

    def _on_precommitted(self, board: dict[str, Any], line: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        self._voted("precommits", board["name"], fields)

    def _voted(self, what: str, board: str, fields: Mapping[str, Any]) -> None:
        height = self._height(fields["height"])
        if height is not None:
            height["round"] = max(height["round"] or 0, fields.get("round", 0))
            height[what] = {**height[what], board: (fields["value_id"] or "nothing")[:8]}

    def _on_decided(self, board: dict[str, Any], line: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        number, value, at_ns = fields["height"], fields["value_id"], line["received_ns"]
        board["height"] = max(board["height"] or 0, number)
        known = number in self._decided
        if not known and (not self._decided or number > next(iter(self._decided))):
            self._decided[number] = value
            self.totals["decisions"] += 1
            self.curves.count(at_ns)
            if len(self._decided) > KEPT_HEIGHTS:
                del self._decided[next(iter(self._decided))]  # heights are decided in their order, near enough
        elif known and self._decided[number] != value:
            self._conflict(line, f"decided {value} at height {number}, where {self._decided[number]} was decided")
        height = self._height(number)
        if height is not None:
            height["decided"] = {**height["decided"], board["name"]: (value or "nothing")[:8]}
        proposed = self._proposals.get(number)
        if proposed is not None and proposed[:2] == (board["name"], line["boot"]):
            took_ms = line["now_ms"] - proposed[2]
            del self._proposals[number]
            if height is not None:
                height["took_ms"] = took_ms
            self.decision_latency.add(took_ms)
            self.curves.take(at_ns, "decision_ms", took_ms)

    def _height(self, number: int) -> dict[str, Any] | None:
        """The row of a height; None of one that is no longer shown."""
        row = self.heights.get(number)
        if row is None:
            if len(self.heights) >= MOST_HEIGHTS and number < min(self.heights):
                return None
            row = self.heights[number] = {
                "height": number,
                "round": None,
                "proposer": None,
                "value": None,
                "prevotes": {},
                "precommits": {},
                "decided": {},
                "took_ms": None,
            }
            while len(self.heights) > MOST_HEIGHTS:
                del self.heights[min(self.heights)]
        self._dirty.add("heights")
        return row

    def _conflict(self, line: Mapping[str, Any], text: str) -> None:
        self.totals["conflicts"] += 1
        if len(self.conflicts) < MOST_CONFLICTS:
            self.conflicts.append({"at_ns": line["received_ns"], "who": line["board"], "text": text})
            self._dirty.add("conflicts")
        self._tell(line["received_ns"], line["board"], "conflict", text)

    # Clients, faults, gaps.

    def operation(self, line: Mapping[str, Any]) -> None:
        self._dirty.add("totals")
        if line["type"] == "invoke":
            self.totals["operations"] += 1
            self._invoked[line["index"]] = line["time_ns"]
            self.curves.advance(line["time_ns"])
            return
        began_ns = self._invoked.pop(line["index"], None)
        self.totals[line["type"]] += 1
        if line["type"] == "ok" and began_ns is not None and line["time_ns"] is not None:
            self.curves.take(line["time_ns"], "operation_ms", (line["time_ns"] - began_ns) / 1e6)

    def fault(self, line: Mapping[str, Any]) -> None:
        number, stage, at_ns = line["id"], line["stage"], line["at_ns"]
        entry = self.faults.setdefault(number, {"id": number, "kind": line["kind"], "select": None, "times": {}})
        entry |= {"stage": stage, "boards": list(line["boards"]), "support": line["support"]}
        entry["planned_ns"] = line["planned_ns"]
        entry["times"] = {**entry["times"], stage: at_ns}
        self._dirty_faults.add(number)
        self.curves.advance(at_ns)
        kind = FAULT_KINDS.get(line["kind"])
        entry["group"] = "" if kind is None else kind.group
        if line["kind"] == "trap" or (kind is not None and kind.group == "power"):
            for name in line["boards"]:
                self._power(self._board(name), line)
        self.links = self._links()
        self._dirty.add("links")
        self._tell(at_ns, ", ".join(line["boards"]) or "rig", f"fault {stage}", f"{number} {line['kind']}")

    def _power(self, board: dict[str, Any], line: Mapping[str, Any]) -> None:
        """What a stage of a power fault says of one board."""
        stage, at_ns = line["stage"], line["at_ns"]
        gone = (stage == FaultStage.APPLIED and line["kind"] in POWER_GONE_AT_ONCE) or (
            stage == FaultStage.PROVEN and _is_off(line["evidence"].get(board["name"]))
        )
        if gone and (board["boot_ns"] or 0) < at_ns:  # faults and events are two files: a boot may be read first
            board["state"], board["off_ns"] = "off", at_ns
        elif stage == FaultStage.HEALED and board["state"] == "off":
            board["state"] = "up"
        self._dirty_boards.add(board["name"])

    def _links(self) -> list[dict[str, Any]]:
        """Every directed pair that a fault in force bends, once for each fault."""
        found = []
        for number, entry in self.faults.items():
            planned = self._planned.get(number)
            kind = FAULT_KINDS.get(entry["kind"])
            if planned is None or kind is None or entry["stage"] not in IN_FORCE or kind.group not in LINK_GROUPS:
                continue
            try:
                rules = link_rules(planned, entry["boards"], self._names)
            except (KeyError, ValueError):
                continue  # what no rule between boards carries out, as a cut between sites: it is named below the links
            for rule in rules:
                for source in self._ends(rule.sources, rule.targets):
                    for target in self._ends(rule.targets, rule.sources):
                        if source != target:
                            found.append(
                                {
                                    "from": source,
                                    "to": target,
                                    "action": rule.action,
                                    "amount": rule.amount,
                                    "only": bool(rule.kinds or rule.height or rule.nth),
                                    "fault": number,
                                }
                            )
        return found

    def _ends(self, ends: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
        if EVERYTHING_ELSE not in ends:
            return list(ends)
        return [name for name in (*self._names, HOST) if name not in others]

    def gap(self, line: Mapping[str, Any]) -> None:
        self.totals["gaps"] += 1
        text = f"boot {line['boot']}, events {line['first']} to {line['last']}: {line['reason']}"
        self._tell(None, line["board"], "gap", text)
        self._dirty.add("totals")

    # Looking.

    def _board(self, name: str) -> dict[str, Any]:
        board = self.boards.get(name)
        if board is None:
            board = self.boards[name] = {
                "name": name,
                "number": None,
                "role": "",
                "state": "not heard",
                "boot": None,
                "boot_ns": None,
                "off_ns": 0,
                "height": None,
                "digests": {},
                "events": 0,
                "last": None,
                "last_ns": None,
                "may_vote": None,
                "note": "",
            }
            self._names.append(name)
        return board

    def _tell(self, at_ns: int | None, who: str, what: str, text: str) -> None:
        self.lines.append({"at_ns": at_ns, "who": who, "what": what, "text": text})
        self._new_lines += 1
        self.told += 1

    def advance(self, at_ns: int) -> None:
        """The host's clock, of a run that goes on."""
        self.curves.advance(at_ns)

    def snapshot(self) -> dict[str, Any]:
        """Everything that is shown."""
        self.totals["missing"] = self._forgotten_missing + sum(seen.missing() for seen in self._seen.values())
        return {
            "run": self.run,
            "boards": self.boards,
            "faults": self.faults,
            "heights": [self.heights[number] for number in sorted(self.heights, reverse=True)],
            "links": self.links,
            "digests": self.digests,
            "lines": list(self.lines),
            "conflicts": self.conflicts,
            "totals": self.totals,
            "newest": self.newest,
            "curves": list(self.curves.points.values()),
        }

    def changes(self) -> dict[str, Any] | None:
        """What changed since the last call; boards, faults, seconds and lines alone, the rest as a whole."""
        points = self.curves.changes()
        if not (points or self._dirty or self._dirty_boards or self._dirty_faults or self._new_lines):
            return None
        whole = self.snapshot()
        changed = {name: whole[name] for name in self._dirty}
        if self._dirty_boards:
            changed["boards"] = {name: self.boards[name] for name in self._dirty_boards}
        if self._dirty_faults:
            changed["faults"] = {number: self.faults[number] for number in self._dirty_faults}
        if self._new_lines:
            changed["lines"] = list(self.lines)[-min(self._new_lines, MOST_LINES) :]
        if points:
            changed["curves"] = points
        self._dirty.clear()
        self._dirty_boards.clear()
        self._dirty_faults.clear()
        self._new_lines = 0
        return changed


def _is_off(evidence: Any) -> bool:
    return isinstance(evidence, Mapping) and evidence.get("on") is False
