"""`codexpool usage`: a table, JSON or CSV of turns and tokens; it changes no file."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click import unstyle
from click.testing import CliRunner, Result

from codexpool.cli.commands.usage import usage
from codexpool.members.ledger import Ledger
from codexpool.protocol.token_usage import Tokens
from codexpool.state.sqlite import SqliteState

TOKENS = Tokens(12_345, 10_000, 678, 300)
DAY = 86_400.0


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "state.sqlite3"
    monkeypatch.setenv("CODEXPOOL_STATE", str(path))
    monkeypatch.delenv("COLUMNS", raising=False)
    return path


@pytest.fixture
def noon() -> float:
    """Of today."""
    return (time.time() // DAY + 0.5) * DAY


def counted(path: Path, count: Callable[[Ledger], None], pool: str = "/p/pool.toml") -> None:
    """What a proxy counts, written."""
    state = SqliteState(path)
    ledger = Ledger(state.put_spent)
    ledger.pool = pool
    count(ledger)
    state.close()


@pytest.fixture
def team(path: Path, noon: float) -> None:
    def count(ledger: Ledger) -> None:
        for days in (0, 0, 3):
            ledger.count_begun("ann", noon - days * DAY)
            ledger.count_served("ann", "work", "gpt-5", TOKENS, noon - days * DAY)
        ledger.count_served("ann", "spare", "gpt-5", None, noon + 60)
        ledger.count_served("", "work", "gpt-5-mini", Tokens(1, 0, 2, 0), noon)
        ledger.count_served("bob", "work", "gpt-5", TOKENS, noon - 40 * DAY)

    counted(path, count)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(usage, list(arguments))
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> Result:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    return run()


def document(*arguments: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(run("--json", *arguments).stdout)
    return made


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.usefixtures("team")
def test_the_table_has_each_member_and_a_total(noon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    told = at_a_terminal(monkeypatch, 160)
    lines = unstyle(told.stdout).splitlines()

    head, *rows = [re.split(r"\s{2,}", line.strip()) for line in lines if "  " in line]
    assert head == ["member", "turns", "tokens in", "cached", "tokens out", "reasoning", "first used", "last used"]
    first, middle, last = (moment(at)[:16].replace("T", " ") for at in (noon - 3 * DAY, noon, noon + 60))
    assert rows == [
        ["(no key)", "1", "1", "0", "2", "0", middle, middle],
        ["ann", "4", "37,035", "30,000", "2,034", "900", first, last],
        ["total", "5", "37,036", "30,000", "2,036", "900", first, last],
    ]
    assert told.stderr == "codexpool: 1 turn has no token count\n"


@pytest.mark.usefixtures("team")
def test_into_a_pipe_there_are_tabs_plain_numbers_and_no_total(noon: float) -> None:
    first, middle, last = (moment(at)[:16].replace("T", " ") for at in (noon - 3 * DAY, noon, noon + 60))

    rows = [line.split("\t") for line in run().stdout.splitlines()]

    assert rows == [
        ["member", "turns", "tokens in", "cached", "tokens out", "reasoning", "first used", "last used"],
        ["(no key)", "1", "1", "0", "2", "0", middle, middle],
        ["ann", "4", "37035", "30000", "2034", "900", first, last],
    ]


@pytest.mark.usefixtures("team")
def test_counts_are_by_the_columns_given_in_order(noon: float) -> None:
    made = document("--by", "identity", "--by", "day", "--by", "identity", "--since", "3d")
    today = moment(noon)[:10]

    assert (made["version"], made["by"]) == (1, ["identity", "day"])
    assert [(row["identity"], row["day"], row["turns"]) for row in made["rows"]] == [
        ("spare", today, 1),
        ("work", today, 3),
    ]
    assert {row["model"] for row in document("--by", "model")["rows"]} == {"gpt-5", "gpt-5-mini"}
    assert [row["pool"] for row in document("--by", "pool")["rows"]] == ["/p/pool.toml"]


@pytest.mark.usefixtures("team")
def test_json_has_every_number_and_times_in_utc(noon: float) -> None:
    made = document()

    assert made["since"] == moment(noon - 29 * DAY)[:10]
    assert made["rows"][1] == {
        "member": "ann",
        "turns": 4,
        "unmetered": 1,
        "input_tokens": 37_035,
        "cached_tokens": 30_000,
        "output_tokens": 2_034,
        "reasoning_tokens": 900,
        "first_at": moment(noon - 3 * DAY),
        "last_at": moment(noon + 60),
    }
    assert made["rows"][0]["member"] is None  # nobody's key
    assert (made["total"]["turns"], made["total"]["input_tokens"]) == (5, 37_036)


@pytest.mark.usefixtures("team")
def test_csv_has_a_header_and_rows() -> None:
    text = run("--csv", "--by", "member", "--by", "identity").stdout_bytes.decode()

    assert text.endswith("\r\n")
    assert text.count("\n") == text.count("\r\n") == 4
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert list(rows[0]) == [
        *("member", "identity", "turns", "unmetered"),
        *("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "first_at", "last_at"),
    ]
    assert [(row["member"], row["identity"], row["turns"]) for row in rows] == [
        ("(no key)", "work", "1"),
        ("ann", "spare", "1"),
        ("ann", "work", "3"),
    ]


@pytest.mark.parametrize("since", ["{day}", "4d"])
@pytest.mark.usefixtures("team")
def test_since_takes_a_day_or_a_number_of_days(noon: float, since: str) -> None:
    day = moment(noon - 3 * DAY)[:10]
    assert document("--since", since.format(day=day))["since"] == day
    assert document("--since", since.format(day=day))["total"]["turns"] == 5
    assert document("--since", "3d")["total"]["turns"] == 4
    assert document("--since", "400d")["total"]["turns"] == 6


@pytest.mark.parametrize(
    "since", ["0d", "-1d", "yesterday", "2026-13-01", "d", "999999999d", "999999d", "1 d", "\x1b[2J"]
)
def test_an_invalid_day_is_refused(path: Path, since: str) -> None:
    result = run("--since", since, code=2)
    assert "neither a day" in result.stderr
    assert "\x1b" not in result.stderr


def test_csv_and_json_cannot_be_combined(path: Path) -> None:
    assert "cannot be combined" in run("--csv", "--json", code=2).stderr


def test_no_usage_is_reported(path: Path, noon: float) -> None:
    assert run("--since", "2026-11-25").stderr == "codexpool: no turns since 2026-11-25 (UTC)\n"
    made = document()
    assert (made["rows"], made["total"]["turns"], made["total"]["first_at"]) == ([], 0, None)
    assert run("--csv").stdout_bytes.count(b"\r\n") == 1
    assert list(path.parent.iterdir()) == []

    counted(path, lambda ledger: ledger.count_begun("ann", noon))  # and nobody has served it
    assert run().stderr.startswith("codexpool: no turns since")


@pytest.mark.parametrize(
    ("model", "in_csv"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ('a,"b"', 'a,"b"'),
        ("[red]x[/red]", "[red]x[/red]"),
        ("\x1b[2J\ta", "\\x1b[2J\\ta"),
        ("\r=1", "\\r=1"),
        ("", "(unknown)"),
    ],
)
def test_a_hostile_model_name_is_harmless(path: Path, noon: float, model: str, in_csv: str) -> None:
    # given: a model as the ledger would never have it, but another program may have written it
    counted(path, lambda ledger: ledger.count_served("ann", "work", "m", TOKENS, noon))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE spent SET model = ?", (model,))
    connection.close()

    made = run("--csv", "--by", "model").stdout_bytes.decode()
    assert next(csv.DictReader(io.StringIO(made, newline="")))["model"] == in_csv

    table = run("--by", "model").stdout
    assert table.isprintable() or set(filter(lambda c: not c.isprintable(), table)) == {"\n", "\t"}
    assert in_csv.removeprefix("'") in table
    assert [row["model"] for row in document("--by", "model")["rows"]] == [model or None]


def test_a_narrow_table_omits_the_times(path: Path, noon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    many = Tokens(987_654_321, 876_543_210, 12_345_678, 1_234_567)
    counted(path, lambda ledger: ledger.count_served("somebody-with-a-long-name", "work", "m", many, noon))

    shown = unstyle(at_a_terminal(monkeypatch, 80).stdout)

    assert max(map(len, shown.splitlines())) <= 80
    assert "first used" not in shown
    assert "987,654,321" in shown


def test_an_unreadable_state_fails_with_the_reason(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to be one" * 30)
    result = run(code=1)
    assert f"{path} cannot be read (file is not a database)" in result.stderr


def test_usage_changes_no_file(path: Path, noon: float) -> None:
    counted(path, lambda ledger: ledger.count_served("ann", "work", "m", TOKENS, noon))
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    run()
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
