"""`codexpool status`: the same document for a terminal and for programs."""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from rich.console import Console

from codexpool.cli.commands.status import status as command
from codexpool.cli.status_view import StatusView
from codexpool.pool.identity import Status
from tests.cli.fakeproxy import DEAD, NOW, FakeProxy, fleet, identity, running, session, status
from tests.cli.terminals import Piped, Terminal, after_one_line, plain

LIMITED = identity(
    "third",
    status="limited",
    until=NOW + 1200,
    evidence="429 usage_limit_reached on codex/responses",
    limits=[{"family": "codex", "minutes": 300, "used_percent": 100.0, "resets_at": NOW + 1200}],
    limited={"codex": NOW + 1200},
)

HOSTILE = "\x1b[31mred\x07 [bold]x[/bold]\r\nnext\u202e\ud800"


def run(fake: FakeProxy, *arguments: str, columns: int = 80, code: int = 0) -> Result:
    """Run the command, with its output going into a file."""
    result = CliRunner().invoke(command, ["--proxy", fake.url, *arguments], env={"COLUMNS": str(columns)})
    assert result.exit_code == code, result.output
    return result


def shown(fake: FakeProxy, columns: int = 80, **changes: Any) -> str:
    """What is shown of a status document."""
    fake.status = status(**changes)
    return run(fake, columns=columns).stdout


def line_of(text: str, words: str) -> str:
    """The first line that has these words."""
    return next(line for line in text.splitlines() if words in line)


# -- the picture


def test_each_identity_has_its_status_and_needs(fake: FakeProxy) -> None:
    text = shown(fake, columns=120)

    assert re.search(r"^work\s+ready", text, re.MULTILINE)
    assert re.search(r"^spare\s+needs_replacement", text, re.MULTILINE)
    assert "codexpool replace spare" in text
    assert "401 token_revoked on codex/responses, confirmed by whoami" in text


@pytest.mark.parametrize("name", Status)
def test_each_status_is_named(fake: FakeProxy, name: Status) -> None:
    assert re.search(rf"^work\s+{name}", shown(fake, identities=[identity(status=str(name))]), re.MULTILINE)


def test_an_unknown_status_is_shown(fake: FakeProxy) -> None:
    assert "on holiday" in shown(fake, identities=[identity(status="on holiday")])


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_each_limit_has_its_bar_percent_and_reset(fake: FakeProxy, columns: int) -> None:
    text = shown(fake, columns=columns)

    short, long = line_of(text, "5 h"), line_of(text, "7 d")
    assert "18 %" in short
    assert "2 h 3 min" in short
    assert "76 %" in long
    assert "3 d" in long
    assert short.count("█") < long.count("█")


@pytest.mark.parametrize(("percent", "full"), [(0, 0), (-5, 0), (50, 4), (100, 8), (250, 8)])
def test_a_bar_shows_the_percentage(fake: FakeProxy, percent: float, full: int) -> None:
    limit = {"family": "codex", "minutes": 300, "used_percent": percent, "resets_at": None}

    text = shown(fake, columns=60, identities=[identity(limits=[limit])])

    assert line_of(text, "5 h").count("█") == full


def test_the_limit_of_another_family_is_named(fake: FakeProxy) -> None:
    limit = {"family": "gpt-mini", "minutes": 300, "used_percent": 1.0, "resets_at": None}

    assert "gpt-mini 5 h" in shown(fake, identities=[identity(limits=[limit])])


def test_a_limited_identity_shows_for_how_long(fake: FakeProxy) -> None:
    text = shown(fake, identities=[LIMITED])

    assert "for 20 min" in text
    assert "limited for codex until 16:20:00" in text


def test_a_narrow_terminal_has_numbers_instead_of_bars(fake: FakeProxy) -> None:
    narrow, wide = (shown(fake, columns=columns) for columns in (50, 80))

    assert "█" not in narrow.partition("requests")[0]
    assert re.search(r"5 h 18 % \(", narrow)
    assert re.search(r"5 h █░+ 18 % \(", wide)


def test_reset_credits_are_shown_with_the_expiry_of_the_first(fake: FakeProxy) -> None:
    some = identity(reset_credits={"available": 2, "expires_at": NOW + 86_400})
    one, none = ({"available": number, "expires_at": None} for number in (1, 0))

    assert "work: 2 reset credits, the first expires in 1 d" in shown(fake, identities=[some])
    last = identity(reset_credits={"available": 1, "expires_at": NOW + 86_400})
    assert "work: 1 reset credit, which expires in 1 d" in shown(fake, identities=[last])
    assert "work: 1 reset credit\n" in shown(fake, identities=[identity(reset_credits=one)])
    for unknown in (identity(reset_credits=none), identity(reset_credits=None), identity()):
        assert "reset credit" not in shown(fake, identities=[unknown])


def test_pinned_sessions_are_shown_with_their_identity(fake: FakeProxy) -> None:
    pins = [
        {"session": "0199a213-81c0-7000-8000-aabbccddeeff", "identity": "work", "at": NOW - 60},
        {"session": "ann/0199a213-92d1-7000-8000-aabbccddeeff", "identity": "spare", "at": NOW - 7200},
    ]

    text = shown(fake, pins=pins, pins_total=7)

    assert "7 sessions, last pinned:" in line_of(text, "pinned")
    assert "0199a213-81c0… to work, 1 min ago" in text
    assert "ann/0199a213-92d1… to spare, 2 h ago" in text
    assert "pinned" not in shown(fake, pins=[], pins_total=0)
    assert "pinned" not in shown(fake)


def test_models_that_an_account_lacks_are_named(fake: FakeProxy) -> None:
    assert "work: without gpt-a, gpt-b, which others have" in shown(
        fake, identities=[identity(lacks=["gpt-a", "gpt-b"])]
    )


def test_unknown_limits_are_shown_as_unknown(fake: FakeProxy) -> None:
    assert "not known yet" in shown(fake, columns=120, identities=[identity(limits=[])])


def test_a_reminder_is_shown(fake: FakeProxy) -> None:
    assert "in 3 days" in shown(fake, identities=[identity(reminder="its token is expected to expire in 3 days")])


def test_an_open_breaker_is_above_the_table(fake: FakeProxy) -> None:
    text = shown(fake, breaker={"open": True, "until": NOW + 30, "names": ["work", "spare"]}, columns=200)

    assert "until 16:00:30" in text
    assert "codexpool breaker --close" in text
    assert text.index("the breaker is open") < text.index("ready")


def test_a_closed_proxy_is_reported_above_the_table(fake: FakeProxy) -> None:
    text = shown(fake, proxy={"closed": "pool.toml:3 is wrong"})

    assert text.index("no requests are served: pool.toml:3 is wrong") < text.index("ready")


def test_observe_mode_is_shown(fake: FakeProxy) -> None:
    assert "observe mode" in shown(fake, proxy={"observe": True})
    assert "observe mode" not in shown(fake)


def test_an_empty_pool_is_reported(fake: FakeProxy) -> None:
    assert "the pool has no identities: no request is served" in shown(fake, identities=[])
    text = shown(fake, identities=[], proxy={"pool": None}, pool_file=None)
    assert "there is no pool: requests keep the client's own login" in text


def test_another_version_that_is_installed_is_reported(fake: FakeProxy) -> None:
    assert "is installed" not in shown(fake)
    assert "0.1.0 runs, 0.2.0 is installed: restart the proxy" in shown(fake, proxy={"installed": "0.2.0"})


def test_a_pool_toml_that_is_not_in_use_as_it_is_now_is_reported(fake: FakeProxy) -> None:
    file = {"path": "/home/me/pool.toml", "read_at": NOW, "missing": False, "problem": "it is invalid: line 3"}
    assert "the pool.toml in use was read at" not in shown(fake, pool_file={**file, "problem": ""})
    assert "invalid: line 3" in shown(fake, pool_file=file, columns=200)
    unread = {**file, "read_at": None, "problem": "cannot be used, so there is still no pool"}
    assert "\ncannot be used, so there is still no pool" in shown(fake, pool_file=unread, columns=200)
    assert "there is no /home/me/pool.toml" in shown(fake, pool_file={**file, "missing": True}, columns=200)


def test_the_last_hour_is_a_line_of_bars(fake: FakeProxy) -> None:
    hour = [
        {"at": NOW + 60 * i, "requests": 8 if i == 59 else i == 0, "refusals": 0, "failures": 0} for i in range(60)
    ]

    line = line_of(shown(fake, hour=hour), "requests      9")

    assert re.fullmatch(r"requests\s+9 ▁ {58}█\s*", line)


def test_refusals_have_a_line_if_there_were_any(fake: FakeProxy) -> None:
    quiet = [{"at": NOW, "requests": 1, "refusals": 0, "failures": 0}] * 60

    assert line_of(shown(fake), "refusals").split()[1] == "1"
    assert not any(line.startswith("refusals") for line in shown(fake, hour=quiet).splitlines())


def test_an_hour_without_requests_is_an_empty_line(fake: FakeProxy) -> None:
    quiet = [{"at": NOW, "requests": 0, "refusals": 0, "failures": 0}] * 60

    assert line_of(shown(fake, hour=quiet), "requests      0").rstrip() == "requests      0"


def test_sessions_are_counted_and_the_newest_shown(fake: FakeProxy) -> None:
    text = shown(fake, sessions=[session(moves=1), session(key="another")], columns=100)

    assert "01a1fc00-1234… with work, moved 1 time, 4 requests, 5 s ago, gpt-5" in text
    assert "sessions 17, last used:" in text
    assert "another with work" in text


def test_totals_are_shown(fake: FakeProxy) -> None:
    text = shown(fake, columns=200)

    assert "1,234 requests, 12 refusals, 3 failures, 15 sent again" in text
    assert "3.4 MB sent, 12.0 MB received" in text


def test_narrow_terminals_show_fewer_columns(fake: FakeProxy) -> None:
    assert re.search(r"(?m)^identity +status +limits \(reset in\) +requests", shown(fake, columns=80))
    assert re.search(r"(?m)^identity +status +limits \(reset in\)$", shown(fake, columns=60))


def test_wide_terminals_show_more(fake: FakeProxy) -> None:
    narrow, wide = shown(fake, columns=80), shown(fake, columns=160)

    assert "acc-work" not in narrow
    assert "acc-work" in wide
    assert "1a2b3c4d5e6f" in wide


MANY = [
    identity(),
    DEAD,
    LIMITED,
    identity("a-name-that-somebody-has-made-very-long-indeed-" * 3, limits=identity()["limits"] * 3),
    identity("日本語の名前", reminder="its token is expected to expire on 2026-12-31, in 14 days"),
]


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_name_is_whole_at_any_width(fake: FakeProxy, columns: int) -> None:
    name = "a-name-of-forty-columns-and-not-one-more"

    text = shown(fake, columns=columns, identities=[identity(name), DEAD])

    assert any(line.startswith(name) for line in text.splitlines())


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 132, 200])
def test_no_line_is_wider_than_the_terminal(fake: FakeProxy, columns: int) -> None:
    breaker = {"open": True, "until": NOW + 30, "names": ["work", "spare"]}

    text = shown(fake, columns=columns, identities=MANY, breaker=breaker)

    assert max(cell_len(line) for line in text.splitlines()) <= columns
    assert re.search(r"needs_replacement", text)
    assert "100 %" in text


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_values_cannot_control_the_terminal(fake: FakeProxy, columns: int) -> None:
    hostile = identity(
        HOSTILE,
        status=HOSTILE,
        evidence=HOSTILE,
        needs=HOSTILE,
        reminder=HOSTILE,
        plan=HOSTILE,
        account_id=HOSTILE,
        limits=[{"family": HOSTILE, "minutes": 300, "used_percent": 1.0, "resets_at": None}],
        limited={HOSTILE: NOW + 5},
    )

    text = shown(
        fake,
        columns=columns,
        identities=[hostile],
        sessions=[session(key=HOSTILE, identity=HOSTILE, model=HOSTILE)],
        breaker={"open": True, "until": None, "names": [HOSTILE]},
        proxy={"closed": HOSTILE, "pool": HOSTILE, "listens": [HOSTILE]},
    )

    assert all(line.isprintable() for line in text.splitlines())
    assert "[bold]x" in text.replace("\n", "")


def test_bars_are_ascii_on_an_ascii_terminal(fake: FakeProxy, tmp_path: Path) -> None:
    environ = {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    with Piped(tmp_path, "status", "--proxy", fake.url, more=environ) as piped:
        assert piped.process.wait(20) == 0
        piped.prints("in all")

    assert "###" in "".join(piped.lines)
    assert "".join(piped.lines).isascii()


# -- the fleet


def test_the_proxies_of_a_fleet_are_listed(fake: FakeProxy) -> None:
    shared = fleet("pool-a", "pool-b", "pool-c")
    shared["fleet"][2].update(alive=False, seen_at=NOW - 40)

    text = shown(fake, columns=120, **shared)

    assert re.search(r"^proxies +2 connected to postgresql://db.example/codexpool$", text, re.MULTILINE)
    assert "pool-a this one, codexpool 0.1.0, process 4711, up 3 h 20 min, 5 sessions\n" in text
    assert "pool-b codexpool 0.1.0, process 4711, up 3 h 20 min, 5 sessions\n" in text
    assert "pool-c codexpool 0.1.0, process 4711, up 3 h 20 min, 5 sessions, no heartbeat for 40 s" in text


def test_a_proxy_with_a_file_of_its_own_lists_no_fleet(fake: FakeProxy) -> None:
    assert "proxies" not in shown(fake, **fleet("here", engine="sqlite", where="/state.sqlite3"))


def test_a_lost_state_is_told_with_what_it_means(fake: FakeProxy) -> None:
    text = " ".join(shown(fake, **fleet("pool-a", connected=False, since=NOW - 60, waiting=3)).split())

    assert "the state is lost since 15:59:00: postgresql://db.example/codexpool does not answer" in text
    assert "goes on with what it knows, and keeps 3 rows to write" in text
    assert "1 were connected to" in text


# -- for programs


def seconds(node: Any) -> Iterator[float]:
    """The numbers that may be unix seconds, of our days."""
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from seconds(value)
    elif isinstance(node, int | float) and 1e9 < node < 3e9:
        yield node


def test_json_is_the_proxys_document_with_times_in_iso_8601(fake: FakeProxy) -> None:
    fake.status |= {"identities": [identity(limited={"codex": NOW + 0.5})], **fleet("pool-a")}

    told = json.loads(run(fake, "--json").stdout)

    assert told.keys() == fake.status.keys()
    assert told["at"] == "2025-11-24T16:00:00Z"
    assert told["identities"][0]["limited"] == {"codex": "2025-11-24T16:00:00.500Z"}
    assert told["totals"] == fake.status["totals"]
    assert list(seconds(fake.status))
    assert list(seconds(told)) == []


def test_without_a_proxy_the_exit_code_is_1() -> None:
    result = CliRunner().invoke(command, ["--proxy", "http://127.0.0.1:1", "--json"])

    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("codexpool: no proxy is running at 127.0.0.1:1")


def test_help_names_the_options() -> None:
    result = CliRunner().invoke(command, ["--help"])

    assert result.exit_code == 0
    assert all(word in result.output for word in ("--watch", "--json", "--proxy", "CODEXPOOL_PROXY"))


@pytest.mark.parametrize(
    "arguments", [("--watch", "0"), ("--watch", "-1"), ("--watch", "often"), ("--proxy", "x://")]
)
def test_a_usage_error_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(command, list(arguments)).exit_code == 2


# -- terminals and pipes


def test_a_terminal_gets_colours(fake: FakeProxy, tmp_path: Path) -> None:
    with Terminal(tmp_path, "status", "--proxy", fake.url) as terminal:
        assert terminal.wait() == 0

        assert "\x1b[32m" in terminal.output
        assert "ready" in plain(terminal.output)


def test_no_color_is_respected(fake: FakeProxy, tmp_path: Path) -> None:
    with Terminal(tmp_path, "status", "--proxy", fake.url, NO_COLOR="1") as terminal:
        assert terminal.wait() == 0

        assert "\x1b[32m" not in terminal.output


def test_a_pipe_gets_no_colours(fake: FakeProxy) -> None:
    assert "\x1b" not in run(fake).stdout


def test_a_pipe_gets_tabs_and_what_belongs_together_on_a_line(
    fake: FakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = CliRunner().invoke(command, ["--proxy", fake.url]).stdout

    assert re.search(r"^work\tready\t", text, re.MULTILINE)
    assert re.search(r"^sessions\t\d+, last used: [^,:]", text, re.MULTILINE)


# -- watching


def test_watching_updates_the_screen(fake: FakeProxy, tmp_path: Path) -> None:
    with Terminal(tmp_path, "status", "--watch", "0.2", "--proxy", fake.url) as terminal:
        terminal.shows("ready")
        fake.status = status(identities=[identity(status="paused")])

        terminal.shows("paused")


def test_ctrl_c_ends_watching_and_restores_the_terminal(fake: FakeProxy, tmp_path: Path) -> None:
    with Terminal(tmp_path, "status", "--watch", "0.2", "--proxy", fake.url) as terminal:
        terminal.shows("ready")
        terminal.press("\x03")

        assert terminal.wait() == 130
        output = terminal.output
        assert output.count("\x1b[?1049h") == output.count("\x1b[?1049l") == 1
        assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
        assert "ready" in output[output.rindex("\x1b[?1049l") :]  # the last picture stays
        assert "Traceback" not in output
        assert terminal.settings == dict(enumerate(terminal.before))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_another_signal_restores_the_terminal(fake: FakeProxy, tmp_path: Path, number: signal.Signals) -> None:
    with Terminal(tmp_path, "status", "--watch", "0.2", "--proxy", fake.url) as terminal:
        terminal.shows("ready")
        terminal.process.send_signal(number)

        assert terminal.wait() == 128 + number
        output = terminal.output
        assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
        assert "\x1b[?1049l" in output


def test_watching_survives_a_restart(tmp_path: Path) -> None:
    with running() as first:
        watched = Terminal(tmp_path, "status", "--watch", "0.2", "--proxy", first.url, columns=120)
        with watched as terminal:
            terminal.shows("ready")
            first.stop()
            terminal.shows("does not answer since ")
            with running(first.port) as second:
                second.status = status(identities=[identity(status="paused")])

                terminal.shows("paused")


def test_watching_in_json_prints_a_document_a_line(fake: FakeProxy, tmp_path: Path) -> None:
    with Piped(tmp_path, "status", "--watch", "0.2", "--json", "--proxy", fake.url) as piped:
        piped.prints("\n")
        fake.status = status(sessions_total=18)
        piped.prints('"sessions_total": 18')

        assert piped.end(signal.SIGINT) == 130
        assert [json.loads(line)["version"] for line in piped.lines] == [1] * len(piped.lines)
        assert piped.said == []


def test_in_json_errors_go_to_standard_error_once(tmp_path: Path) -> None:
    with (
        running() as first,
        Piped(tmp_path, "status", "--watch", "0.2", "--json", "--proxy", first.url) as piped,
    ):
        piped.prints("\n")
        first.stop()
        piped.says("does not answer since")
        with running(first.port):
            piped.says("answers again")

        assert "".join(piped.said).count("does not answer since") == 1
        assert all(json.loads(line)["version"] == 1 for line in piped.lines)


def test_watching_into_a_pipe_has_no_control_sequences(fake: FakeProxy, tmp_path: Path) -> None:
    with Piped(tmp_path, "status", "--watch", "0.2", "--proxy", fake.url) as piped:
        piped.prints("in all")

        assert piped.end(signal.SIGINT) == 130
        assert "\x1b" not in "".join(piped.lines)


def test_watching_ends_quietly_when_the_reader_is_gone(fake: FakeProxy, tmp_path: Path) -> None:
    arguments = ("--watch", "0.2", "--proxy", fake.url)

    assert after_one_line(tmp_path, "status", *arguments) == (0, "")


def test_watching_without_a_proxy_ends_at_once() -> None:
    result = CliRunner().invoke(command, ["--proxy", "http://127.0.0.1:1", "--watch"])

    assert result.exit_code == 1


def test_the_interval_is_optional(fake: FakeProxy, tmp_path: Path) -> None:
    with Piped(tmp_path, "status", "--proxy", fake.url, "--watch") as piped:
        piped.prints("in all")

        assert piped.end(signal.SIGINT) == 130


def test_members_are_shown_with_turns_or_key_status() -> None:
    idle = {"turns_under_way": 0, "turns_at_once": None, "turns_today": 0, "turns_a_day": None, "key": "valid"}
    members = [
        {**idle, "name": "ann", "turns_under_way": 2, "turns_today": 14, "turns_a_day": 500},
        {**idle, "name": "bob", "key": "revoked"},
        {**idle, "name": "cid"},
    ]
    document = {**status(), "members": members}
    document["proxy"] = {**document["proxy"], "access": "members"}

    with Console(width=100, record=True, file=io.StringIO()) as console:
        console.print(StatusView(document, console).drawn())

    shown = console.export_text()
    assert "members: ann 2 under way, 14 of 500 turns today, bob revoked, cid" in shown
