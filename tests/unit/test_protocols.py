"""A protocol that is one file: its rows, operations and options reach boards, clients, telemetry and campaigns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from brownout import protocols
from brownout.campaign_file import parse_campaign
from brownout.campaign_text import campaign_text
from brownout.contracts import UsageError
from brownout.document import Table, parse_document
from brownout.faults import plan
from brownout.operations import closing_reads, default_mix, in_mixes, of_clients
from brownout.rig import load_rig
from brownout.sim.explicit import read_plan
from brownout.skeleton import new_protocol
from brownout_node.core.config import Config
from brownout_node.core.errors import ConfigError
from hypothesis import given
from hypothesis import strategies as st

BOARD = {"cluster": 1, "board": 1, "bed": "bed", "seed": 0, "roster": [[1, "b1", 1], [2, "b2", 1]]}

COUNTER = '''
"""A board's own counter, told to everybody: made for a test."""
from hashlib import sha256
from . import codec, schema

MESSAGES = ((210, "tally", "count:u"),)
EVENTS = ((211, "counted", "count:u step:u"),)
OPERATIONS = ((212, "bump"),)
OPTIONS = "step:1:1:100"
KEYS = True
_KEY = 0x30000


class Counter:
    kinds = (210,)
    operations = (212,)

    def __init__(self, node, stored):
        self.node = node
        self.step = node.config.options_of("counter", OPTIONS)["step"]
        packed = stored.get(_KEY)
        self.count = 0 if packed is None else codec.unpack("u", packed)[0]
        assert len(node.config.keys) == len(node.config.roster) - 1

    def on_message(self, source, kind, fields):
        pass

    def on_tick(self):
        pass

    def on_command(self, client, request, operation, key, value, expected):
        self.count += self.step
        self.node.persist(_KEY, codec.pack("u", (self.count,)))
        self.node.send(schema.ALL, 210, (self.count,))
        self.node.emit(211, (self.count, self.step))
        self.node.reply(client, request, schema.OK, str(self.count), 0)

    def digest(self):
        return sha256(str(self.count).encode()).digest()[:8]


PROTOCOL = Counter
'''

CAMPAIGN = """
[campaign]
name = "own"
duration_s = 4.0
voters = 3
protocols = ["membership", "counter.py"]

[protocol.counter]
step = 7

[[fault]]
kind = "cycle"
select = ["b2"]
at_s = 1.0
for_s = 1.0
"""


def campaign(text: str, source: str = "own.toml"):  # noqa: ANN201
    return parse_campaign(Table(parse_document(text.encode(), source), source))


def brownout(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: what it loads stays there."""
    command = [sys.executable, "-c", "import sys; from brownout.cli import main; sys.exit(main())", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_a_file_beside_the_campaign_is_a_protocol(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(CAMPAIGN)
    (tmp_path / "counter.py").write_text(COUNTER)
    ended = brownout(tmp_path, "run", "own.toml", "--rig", "sim", "--seed", "1", "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    verdict = json.loads(ended.stdout)
    assert verdict["verdict"] == "valid"
    names = [entry["name"] for entry in verdict["checks"]]
    assert "liveness" in names and "membership" in names
    assert not {"agreement", "linearizability", "gossip"} & set(names), "nothing is said of what was not loaded"
    (folder,) = (tmp_path / "runs").iterdir()
    counted, asked = told(folder)
    assert set(asked) == {"bump"} and len(asked) > 20
    assert len(counted) > 20
    assert all(step == 7 and count % 7 == 0 for count, step in counted)


RECORD = """
import json, pathlib, sys
from brownout.store import load
history = load(pathlib.Path(sys.argv[1]))
counted = [[event.fields["count"], event.fields["step"]] for event in history.events if event.kind == "counted"]
print(json.dumps([counted, [operation.operation for operation in history.operations]]))
"""


def told(folder: Path) -> list[list]:
    """What the boards counted, and what clients asked, as another process reads it from the folder alone."""
    command = [sys.executable, "-c", RECORD, str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MESSAGES = ((32, 'mine', 'count:u'),)", "rows.py: MESSAGES: 32 is taken by schema.py; take another"),
        ("EVENTS = ((230, 'boot', 'count:u'),)", "rows.py: EVENTS: 'boot' is taken by schema.py"),
        ("EVENTS = ((230, 'seen', 'rings:[u]8'),)", "rows.py: EVENTS: 'seen' has a list; the host reads flat events"),
        ("OPERATIONS = ((1, 'bump'),)", "rows.py: OPERATIONS: 1 is taken by schema.py"),
        ("Rows.operations = (251,)", "rows.py: operation 251 has no row"),
        ("del PROTOCOL", "rows.py: not a protocol; it has to name its class PROTOCOL"),
        ("class :", "rows.py:6: invalid syntax"),
        ("1 / 0", "rows.py:6: ZeroDivisionError"),
    ],
)
def test_a_file_that_is_no_protocol_is_named_with_its_line(text: str, message: str) -> None:
    known = dict(protocols.PROTOCOLS), dict(protocols.MESSAGES), dict(protocols.EVENTS), dict(protocols.OPERATIONS)
    source = f"class Rows:\n    operations = ()\n\n\nPROTOCOL = Rows\n{text}\n"
    with pytest.raises(UsageError) as refused:
        protocols.add("rows.py", source)
    assert message in str(refused.value)
    assert known == (protocols.PROTOCOLS, protocols.MESSAGES, protocols.EVENTS, protocols.OPERATIONS)


def test_the_firmwares_own_names_are_taken() -> None:
    for name in ("vote", "codec"):
        with pytest.raises(UsageError, match=f"{name}.py: there is a protocol or a file {name} already"):
            protocols.add(f"{name}.py", "")


def test_options_are_checked_alike_on_board_and_host() -> None:
    rows = "bits:12:1:24 window_ms:100:10:1000"
    config = Config({**BOARD, "protocols": ["work"], "options": {"work": {"bits": 3}}})
    assert config.options_of("work", rows) == {"bits": 3, "window_ms": 100}
    assert config.options_of("other", rows) == {"bits": 12, "window_ms": 100}
    with pytest.raises(ConfigError, match="options.work.bits: 3; allowed: integer, 4 to 9"):
        config.options_of("work", "bits:5:4:9")
    with pytest.raises(ConfigError, match="options.work: 'bits'; allowed: other"):
        config.options_of("work", "other:1:1:1")
    with pytest.raises(ConfigError, match="options: 'sleep'; allowed: work"):
        Config({**BOARD, "protocols": ["work"], "options": {"sleep": {}}})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([], "keys"),
        ([[2]], "keys: 'a row'"),
        ([[2, "00"]], "keys: 'a key'"),
        ([[2, "z" * 64]], "keys: 'a key'"),
        ([[0, "00" * 32]], "keys: 0"),
        ({"2": "00" * 32}, "keys"),
    ],
)
def test_keys_are_checked_and_never_shown(keys: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        Config({**BOARD, "keys": keys})
    assert "zz" not in str(refused.value)


@given(st.integers(0, 2**40), st.lists(st.integers(1, 200), min_size=2, max_size=12, unique=True))
def test_two_boards_and_only_they_share_a_key(seed: int, boards: list[int]) -> None:
    rows = {}
    for board in boards:
        roster = [[other, f"b{other}", 1] for other in boards]
        keys = protocols.pairwise_keys(seed, board, boards)
        rows[board] = Config({**BOARD, "board": board, "roster": roster, "keys": keys}).keys
    assert all(rows[one][other] == rows[other][one] for one in boards for other in boards if one != other)
    distinct = {key for keys in rows.values() for key in keys.values()}
    assert len(distinct) == len(boards) * (len(boards) - 1) // 2


def test_protocols_without_keys_get_none() -> None:
    assert protocols.keys_of(["membership", "unheard-of"], 1, 1, [1, 2]) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('protocols = ["vote", "vode"]', "campaign.protocols: unknown 'vode' (did you mean 'vote'?)"),
        ('protocols = ["not-there.py"]', "campaign.protocols: 'not-there.py'; allowed: a file of Python"),
        ('protocols = ["absent.py"]', "campaign.protocols: absent.py: [Errno 2]"),
        ('[checks]\nfile = "absent.py"', "checks.file: absent.py: [Errno 2]"),
        ("protocols = []", "campaign.protocols: the list is empty"),
        ('protocols = ["vote"]\n[protocol.gossip]\nx = 1', "protocol.gossip: unknown key"),
        ('protocols = ["vote"]\n[protocol.vote]\nspeed = 1', "own.toml: protocol.vote: 'speed'; allowed:"),
        ('protocols = ["gossip"]\n[workload]\nmix = { put = 1 }', "workload.mix.put: unknown key"),
        ('protocols = ["gossip"]\n[[operation]]\nat_s = 1\noperation = "cas"\nkey = "k"', "operation[0].operation"),
    ],
)
def test_what_a_campaign_cannot_say_of_protocols(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        campaign(f'[campaign]\nname = "own"\nduration_s = 4.0\n{text}\n')
    assert message in str(refused.value)


def test_operations_follow_from_the_protocols() -> None:
    assert of_clients(protocols.DEFAULT) == ("write", "delete", "put", "get", "cas")
    assert in_mixes(protocols.DEFAULT) == ("put", "get", "cas")
    assert default_mix(protocols.DEFAULT) == {"put": 4, "get": 4, "cas": 2}
    assert default_mix(["membership", "gossip"]) == {}
    assert closing_reads(["gossip"], 3) == []
    assert closing_reads(["vote"], 2) == [("get", "k0"), ("get", "k1")]


def test_a_campaign_and_a_plan_keep_their_protocols() -> None:
    text = CAMPAIGN.replace('"counter.py"', '"vote"').replace("[protocol.counter]\nstep = 7\n", "")
    read = campaign(text)
    assert read.protocols == ("membership", "vote")
    assert read.workload.rumours_per_s == 0, "nobody takes rumours"
    assert campaign(campaign_text(read)) == read
    planned = plan(read, load_rig("sim"), 1)
    assert planned.configuration["protocols"] == ["membership", "vote"]
    assert read_plan(json.loads(json.dumps(planned.to_document()))).protocols == planned.protocols


def test_a_new_protocol_runs_at_once_and_its_check_can_fail(tmp_path: Path) -> None:
    folder = tmp_path / "last_word"
    begun = brownout(tmp_path, "new", "protocol", "last_word")
    assert begun.returncode == 0, begun.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "check_last_word.py",
        "last_word.py",
        "last_word.toml",
        "test_last_word.py",
    ]
    run = ("run", "last_word/last_word.toml", "--rig", "sim", "--seed", "1")
    assert brownout(tmp_path, *run).returncode == 0
    explored = brownout(tmp_path, "explore", "last_word/last_word.toml", "--seeds", "1..6", "--jobs", "2")
    assert explored.returncode == 0, explored.stdout + explored.stderr

    source = (folder / "last_word.py").read_text()
    (folder / "last_word.py").write_text(source.replace("            self._keep(fields)", "            pass"))
    ended = brownout(tmp_path, *run, "--json")
    assert ended.returncode == 1, "a board that ignores what it is told"
    verdicts = {entry["name"]: entry["verdict"] for entry in json.loads(ended.stdout)["checks"]}
    assert verdicts["last_word"] == "invalid"
    newest = max((tmp_path / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    assert brownout(tmp_path, "check", str(newest)).returncode == 1, "the folder holds what judges it"
    shrunk = brownout(tmp_path, "shrink", str(newest), "--check", "last_word", "--out", "least.toml")
    assert shrunk.returncode == 1, shrunk.stdout + shrunk.stderr
    assert brownout(tmp_path, "run", "least.toml", "--rig", "sim").returncode == 1


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("x = 1", "check.py: not a check; it has to define check(run)"),
        ("def check(run):\n    return run.nothing", "check.py:2: AttributeError"),
        ("def check(run):\n    return True", "check.py: check(run) returned bool"),
    ],
)
def test_a_check_that_fails_is_named_with_its_line(check: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "check.py").write_text(check)
    (tmp_path / "own.toml").write_text(
        '[campaign]\nname = "own"\nduration_s = 1.0\nvoters = 3\n[checks]\nfile = "check.py"\n'
    )
    ended = brownout(tmp_path, "run", "own.toml", "--rig", "sim", "--seed", "1")
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert message in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["Tally", "9lives", "a-b", "", "x" * 17, "vote", "é"])
def test_a_name_that_is_none_of_a_protocol(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="allowed"):
        new_protocol(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is there already"):
        new_protocol("tally", tmp_path)
    assert list(tmp_path.iterdir()) == []
