"""Histories that others recorded: a format is read whole or refused by its line, and `brownout check` judges them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from brownout.checkers.recorded import FormatError, read
from brownout.cli import main

LOG = """INFO  jepsen.util - 0\t:invoke\t:write\t1
INFO  jepsen.util - :nemesis\t:info\t:start\tnil
INFO  jepsen.util - 0\t:ok\t:write\t1
INFO  jepsen.util - 1\t:invoke\t:cas\t[1 2]
INFO  jepsen.util - 1\t:info\t:cas\t:timed-out
INFO  jepsen.util - 2\t:invoke\t:read\tnil
INFO  jepsen.util - 2\t:ok\t:read\t%s
"""
EDN = """{:process 0, :type :invoke, :f :put, :key "k", :value "a"}
{:type :ok :process 0 :f :put :value "a" :key "k" :time 12}
{:process :nemesis, :type :info, :f :start, :value nil}

{:process 1, :type :invoke, :f :get, :key "k", :value nil}
{:process 1, :type :ok, :f :get, :key "k", :value "%s"}
"""


def lines(*rows: tuple[object, ...]) -> str:
    """JSON lines of (process, type, f, value) on the key x, with further members behind."""
    made = []
    for process, kind, action, value, *more in rows:
        entry = {"process": process, "type": kind, "f": action, "key": "x", "value": value}
        made.append(json.dumps({**entry, **dict(more)}))
    return "\n".join(made) + "\n"


WRITTEN = ((0, "invoke", "write", 1), (0, "ok", "write", 1))


def verdict(tmp_path: Path, name: str, text: str, *arguments: str) -> int:
    (tmp_path / name).write_text(text)
    return main(["check", str(tmp_path / name), *arguments])


@pytest.mark.parametrize(
    ("name", "text", "model", "code"),
    [
        ("a.log", LOG % "1", "cas-register", 0),
        ("a.log", LOG % "2", "cas-register", 0),
        ("a.log", LOG % "3", "cas-register", 1),
        ("a.edn", EDN % "a", "kv-append", 0),
        ("a.edn", EDN % "", "kv-append", 1),
        ("a.jsonl", lines(*WRITTEN, (1, "invoke", "read", None), (1, "ok", "read", 1)), "cas-register", 0),
        ("a.jsonl", lines(*WRITTEN, (1, "invoke", "read", None), (1, "ok", "read", None)), "cas-register", 1),
        # A write that failed did not happen; one whose end is missing may have.
        ("a.jsonl", lines((0, "invoke", "write", 1), (0, "fail", "write", 1), *WRITTEN), "cas-register", 0),
        (
            "a.jsonl",
            lines((0, "invoke", "write", 2), (0, "fail", "write", 2), (1, "invoke", "read", 0), (1, "ok", "read", 2)),
            "cas-register",
            1,
        ),
        (
            "a.jsonl",
            lines((0, "invoke", "write", 2), (1, "invoke", "read", None), (1, "ok", "read", 2)),
            "cas-register",
            0,
        ),
        # A compare-and-set that failed for any reason says nothing; one that found another value is a look at it.
        ("a.jsonl", lines(*WRITTEN, (1, "invoke", "cas", [1, 2]), (1, "fail", "cas", None)), "cas-register", 0),
        (
            "a.jsonl",
            lines(*WRITTEN, (1, "invoke", "cas", [1, 2]), (1, "fail", "cas", None, ("error", "mismatch"))),
            "cas-register",
            1,
        ),
        (
            "a.jsonl",
            lines(*WRITTEN, (1, "invoke", "cas", [3, 2]), (1, "fail", "cas", None, ("found", 1))),
            "cas-register",
            0,
        ),
        (
            "a.jsonl",
            lines(*WRITTEN, (1, "invoke", "cas", [3, 2]), (1, "fail", "cas", None, ("found", 4))),
            "cas-register",
            1,
        ),
    ],
)
def test_a_recorded_history_has_a_verdict(tmp_path: Path, name: str, text: str, model: str, code: int) -> None:
    assert verdict(tmp_path, name, text, "--model", model) == code


def test_the_counter_example_names_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale = lines(
        *WRITTEN,
        (2, "invoke", "write", 2),
        (2, "ok", "write", 2),
        (1, "invoke", "read", None),
        (1, "ok", "read", 2),
        (1, "invoke", "read", None),
        (1, "ok", "read", 1),
    )
    assert verdict(tmp_path, "a.jsonl", stale, "--model", "cas-register") == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "key 'x' is not linearizable; of its calls these 3 fail already"
    assert [" ".join(line.split()) for line in shown[1:4]] == [
        "lines 1-2 process 0 write 1",
        "lines 3-4 process 2 write 2",
        "lines 7-8 process 1 read 1 no order explains this one",
    ]
    assert shown[-1].startswith("INVALID 4 operations on 1 keys")
    assert verdict(tmp_path, "a.jsonl", stale, "--model", "cas-register", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    (check,) = document["checks"]
    assert document["verdict"] == check["verdict"] == "invalid" and document["format"] == "jsonl"
    assert [entry["first_line"] for entry in check["evidence"]] == [1, 3, 7]
    assert check["metrics"]["operations"] == 4 and check["metrics"]["keys_not_linearizable"] == ["x"]


def test_a_search_that_is_given_up_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = lines(*WRITTEN, *WRITTEN, *WRITTEN)
    assert verdict(tmp_path, "a.jsonl", text, "--model", "cas-register", "--steps", "2") == 3
    assert "search given up after 2 steps" in capsys.readouterr().out
    assert verdict(tmp_path, "a.jsonl", text, "--model", "cas-register", "--steps", "3") == 0


BEGUN = '{"process": 0, "type": "invoke", "f": "write", "key": "x", "value": 1}\n'


@pytest.mark.parametrize(
    ("name", "text", "model", "words"),
    [
        ("a.log", "nonsense\n", "cas-register", "a.log: line 1: 'nonsense' is not a line of a Jepsen log; allowed is"),
        ("a.log", LOG % "{", "cas-register", "a.log: line 7: it is not one whole EDN value"),
        ("a.log", LOG % "2.5", "cas-register", "a.log: line 7: '2.5' is not EDN that is read here"),
        ("a.log", LOG % "1", "kv-append", "line 1: kv-append has no function 'write'; allowed: get, put, append"),
        ("a.edn", "{:process 0, :type}\n", "kv-append", "a.edn: line 1:"),
        ("a.edn", "[1 2]\n", "kv-append", "it is not a map"),
        ("a.edn", "{:process 0, :type :invoke, :f :put, :value 3}\n", "kv-append", "the value of put is a text, not 3"),
        ("a.jsonl", BEGUN + "{\n", "cas-register", "a.jsonl: line 2: '{' is not a JSON object"),
        ("a.jsonl", BEGUN + "[]\n", "cas-register", "line 2: '[]' is not a JSON object"),
        ("a.jsonl", '{"process": 0}\n', "cas-register", "line 1: no 'type'; needed are process, type, f"),
        ("a.jsonl", BEGUN + BEGUN, "cas-register", "line 2: process 0 begins an operation, and the one of line 1"),
        ("a.jsonl", BEGUN.replace("invoke", "ok"), "cas-register", "line 1: process 0 has begun nothing"),
        ("a.jsonl", BEGUN.replace("invoke", "done"), "cas-register", "unknown type 'done'; allowed: invoke, ok, fail"),
        ("a.jsonl", BEGUN.replace('"value": 1', '"value": true'), "cas-register", "value True is not a text"),
        ("a.jsonl", BEGUN.replace("write", "cas"), "cas-register", "the value of cas is a pair [expected, new], not 1"),
        ("a.jsonl", BEGUN.replace('"x"', "[1]"), "cas-register", "key [1] is not a text"),
        ("a.jsonl", BEGUN + BEGUN.replace("invoke", "ok").replace('"x"', '"y"'), "cas-register", "began at line 1"),
        ("a.jsonl", "\n", "cas-register", "no operation is in it"),
        ("a.txt", BEGUN, "cas-register", ".txt does not tell the format; give --format: jepsen-log, edn, jsonl"),
        ("a.jsonl", BEGUN, "", "a file with a history needs --model; allowed: cas-register, kv-append"),
    ],
)
def test_what_cannot_be_read_is_exit_2_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, model: str, words: str
) -> None:
    assert verdict(tmp_path, name, text, *(["--model", model] if model else [])) == 2
    captured = capsys.readouterr()
    assert words in captured.err and name in captured.err and captured.out == ""


def test_options_of_a_history_do_not_go_with_the_folder_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path), "--format", "edn"]) == 2
    assert "--format and --steps are for a file with a history" in capsys.readouterr().err
    assert main(["check", str(tmp_path), "--model", "kv-append"]) == 2
    assert main(["check", str(tmp_path / "none.edn"), "--model", "kv-append"]) == 2


def test_a_format_that_is_given_outranks_the_name(tmp_path: Path) -> None:
    assert verdict(tmp_path, "a.log", EDN % "a", "--model", "kv-append", "--format", "edn") == 0


def test_keys_are_judged_apart(tmp_path: Path) -> None:
    one = '{"process": 0, "type": "invoke", "f": "put", "key": "a", "value": "1"}'
    rows = [one, one.replace("invoke", "ok")]
    rows += [row.replace('"a"', '"b"').replace('"put"', '"get"').replace('"1"', '""') for row in rows]
    keys = read(rows, "jsonl", "kv-append")
    assert {key: len(calls) for key, calls in keys.items()} == {"a": 1, "b": 1}
    assert verdict(tmp_path, "a.jsonl", "\n".join(rows), "--model", "kv-append") == 0
    with pytest.raises(FormatError, match="line 5: process 0 has begun nothing"):
        read([*rows, rows[1]], "jsonl", "kv-append")
