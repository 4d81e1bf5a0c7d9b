"""TOML documents are read strictly, and what is wrong is named with file, key and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from brownout.contracts import UsageError
from brownout.document import Table, parse_document, parse_seed, read_document
from hypothesis import given
from hypothesis import strategies as st


def table(text: str) -> Table:
    return Table(parse_document(text.encode(), "x.toml"), "x.toml")


def test_a_missing_file_a_folder_and_a_device_are_named(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "none.toml", "no such file"),
        (tmp_path, "is a folder"),
        (Path("/dev/zero"), "not a regular file"),
        (Path("a\0b.toml"), "cannot be read"),
        (Path("x" * 5000), "cannot be read"),
    ):
        with pytest.raises(UsageError, match=words):
            read_document(path)


def test_bytes_that_are_no_text_and_text_that_is_no_toml_say_where(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\x7fELF\x02\x01\x00\xff\xfe")
    with pytest.raises(UsageError, match=r"c\.toml: not a text file \(byte 7 is not UTF-8\)"):
        read_document(path)
    path.write_text("[campaign\nname = 1")
    with pytest.raises(UsageError, match=r"c\.toml: not valid TOML: .*line 1"):
        read_document(path)
    path.write_bytes(b"x = 0\n" * 200_000)
    with pytest.raises(UsageError, match="larger than"):
        read_document(path)


@pytest.mark.parametrize("text", ["x = " + "[" * 20_000, "x = " + "9" * 5_000, "x = " + "{a=" * 5_000])
def test_documents_made_to_break_a_parser_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_document(text.encode(), "x.toml")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_a_usage_error(data: bytes) -> None:
    try:
        parse_document(data, "x.toml")
    except UsageError as error:
        assert str(error).startswith("x.toml: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("duraton_s = 1", "x.toml: duraton_s: unknown key (did you mean 'duration_s'?); allowed: duration_s, kind"),
        ("kind = 'a'", "x.toml: duration_s: is missing; allowed: a number of seconds from 0 to 60"),
        ("duration_s = -3", "x.toml: duration_s: -3; allowed: a number of seconds from 0 to 60"),
        ("duration_s = '3s'", "x.toml: duration_s: '3s' is text; allowed: a number of seconds from 0 to 60"),
        ("duration_s = true", "x.toml: duration_s: True is a boolean; allowed: a number of seconds from 0 to 60"),
        ("duration_s = nan", "x.toml: duration_s: nan; allowed: a number of seconds from 0 to 60"),
        ("duration_s = 1979-05-27", "datetime.date(1979, 5, 27) is date; allowed: a number of seconds from 0 to 60"),
        ("duration_s = 1\nkind = 'ct'", "x.toml: kind: unknown kind 'ct' (did you mean 'cut'?); allowed: cut, split"),
    ],
)
def test_messages_name_file_key_and_what_is_allowed(text: str, message: str) -> None:
    document = table(text)
    with pytest.raises(UsageError) as caught:
        document.only("duration_s", "kind")
        document.seconds("duration_s", 0, 60)
        document.choice("kind", ("cut", "split"))
    assert message in str(caught.value)


def test_places_inside_tables_and_lists_are_named() -> None:
    document = table("[[fault]]\nselect = ['b1', 'b1']\n[[fault]]\nevery_s = [2, 1]\ngroups = [['a'], ['a']]")
    first, second = document.tables("fault")
    for call, words in (
        (lambda: first.texts("select"), "fault[0].select[1]: 'b1' comes twice"),
        (lambda: second.interval("every_s", 0, 9), "fault[1].every_s: [2, 1] is the wrong way round"),
        (lambda: second.groups("groups"), "fault[1].groups[1]: 'a' comes twice"),
        (lambda: document.table("fault"), "fault: [{'select': ['b1', 'b1']}"),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert words in str(caught.value)


def test_seeds() -> None:
    assert parse_seed("0") == 0
    assert parse_seed(str(2**63 - 1)) == 2**63 - 1
    for bad in ("", "-1", "1.5", "one", "1_0", " 1", "٣", str(2**63), "9" * 5000, "0x10"):
        with pytest.raises(UsageError, match="allowed: an integer"):
            parse_seed(bad)
