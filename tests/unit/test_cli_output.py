"""What the command line prints can be read by people, programs and spreadsheets."""

import json

import pyarrow as pa
import pytest

from wardstream.cli.output import Output, show, show_arrow, show_one

_ROWS: list[dict[str, object]] = [
    {"member": "anna", "writes": ["ecg", "ppg"], "rate": 72.123456789},
    {"member": "=cmd()", "writes": [], "rate": None},
]


def test_json_keeps_values(capsys: pytest.CaptureFixture[str]) -> None:
    show(_ROWS, Output.JSON)

    assert json.loads(capsys.readouterr().out) == _ROWS


def test_csv_quotes_what_a_spreadsheet_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    show(_ROWS, Output.CSV)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "member,writes,rate"
    assert lines[2].startswith("'=cmd()")


def test_a_table_names_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show(_ROWS, Output.TABLE)

    text = capsys.readouterr().out
    assert "member" in text
    assert "ecg, ppg" in text


def test_an_empty_result_says_so_beside_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    show([], Output.TABLE, empty="no members")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no members" in captured.err


def test_an_empty_table_still_shows_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show_arrow(pa.table({"a": pa.array([], pa.int64()), "b": pa.array([], pa.string())}), Output.TABLE)

    assert "columns: a, b" in capsys.readouterr().out


def test_one_thing_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    show_one({"principal": "icu__anna"}, Output.JSON)

    assert json.loads(capsys.readouterr().out) == {"principal": "icu__anna"}


@pytest.mark.parametrize("text", ["[bpm]", "[/x]", ":heart:", "[bold]x"])
def test_a_table_prints_text_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    show([{f"unit {text}": text}], Output.TABLE)
    show_one({f"unit {text}": text}, Output.TABLE)
    show_arrow(pa.table({f"unit {text}": pa.array([], pa.string())}), Output.TABLE)

    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines] == [f"unit {text}", text, f"unit {text}  {text}", f"no rows; columns: unit {text}"]


def test_json_has_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"rate": float("nan"), "inner": {"low": float("-inf")}, "list": [float("inf"), 1.5]}]

    show(rows, Output.JSON)
    show_one(rows[0], Output.JSON)

    whole, one = capsys.readouterr().out.split("]\n{", 1)
    expected = {"rate": None, "inner": {"low": None}, "list": [None, 1.5]}
    assert json.loads(whole + "]") == [expected]
    assert json.loads("{" + one) == expected


def test_an_empty_csv_still_names_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show_arrow(pa.table({"a": pa.array([], pa.int64()), "b": pa.array([], pa.string())}), Output.CSV)

    assert capsys.readouterr().out.splitlines() == ["a,b"]
