"""`codexpool tail`: what happens in a running proxy, one line each, over restarts, until somebody ends it."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from codexpool.cli.commands.tail import EventLines
from codexpool.cli.commands.tail import tail as command
from codexpool.traces.events import Kind
from tests.cli.fakeproxy import FakeProxy, event, running
from tests.cli.terminals import Piped, Terminal, after_one_line, plain
from tests.running import until
from tests.traces.documents import document

HOSTILE = "\x1b[31mred\x07 [bold]x[/bold]\r\nnext\u202e\ud800"

OF_A_SESSION = {"session": "another-session", "identity": "work", "refusals": []}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def tail(folder: Path, fake: FakeProxy, *arguments: str) -> Piped:
    return Piped(folder, "tail", "--proxy", fake.url, *arguments)


def numbers(piped: Piped) -> list[int]:
    """The numbers of the events that were printed as JSON."""
    return [json.loads(line)["number"] for line in piped.lines]


def one_line(**changes: Any) -> str:
    """The lines of an event as one text."""
    return "\n".join(text.plain for text in EventLines(120).of(event(**changes)))


# -- a line


def test_a_request_is_one_line_with_refusals_below() -> None:
    line, refusal = one_line().splitlines()

    assert re.fullmatch(
        r"16:00:00 127\.0\.0\.1 01a1fc00-1234… spare POST codex/responses 200 843 ms 5\.1 kB 2 attempts flow-1", line
    )
    assert refusal.strip() == "work: 401 token_revoked on codex/responses"


def test_a_request_without_an_answer() -> None:
    assert " no answer" in one_line(status=None)


def test_a_request_to_another_host_shows_the_host() -> None:
    assert "POST api.example/backend-api/x" in one_line(host="api.example", path="/backend-api/x")


@pytest.mark.parametrize("kind", [str(kind) for kind in Kind])
def test_each_kind_of_event_has_its_line(kind: str) -> None:
    line = one_line(event=kind, text="what has happened", was="work", becomes="spare").splitlines()[0]

    told = {"request": "POST codex/responses", "move": "the session moves: work -> spare"}
    assert told.get(kind, "what has happened") in line


def test_a_changed_identity_is_named_once() -> None:
    line = one_line(event="identity", identity="work", text="work: ready -> suspect (401)", refusals=[])

    assert line.count("work") == 1
    assert "ready -> suspect (401)" in line


def test_an_unknown_event_has_a_line() -> None:
    assert "what has happened" in one_line(event="eclipse", text="what has happened")


def test_an_absent_value_is_a_dash() -> None:
    line = one_line(event="start", text="runs", client=None, session=None, identity=None, refusals=[])

    assert re.fullmatch(r"16:00:00 -\s+-\s+-\s+runs", line)


def test_columns_are_aligned() -> None:
    lines = EventLines(120)
    lines.of(event(identity="a-longer-name"))

    first, second = (lines.of(event(identity=name))[0].plain for name in ("work", "a-longer-name"))

    assert first.index("POST") == second.index("POST")


def test_a_long_path_is_shortened() -> None:
    assert len(one_line(path="/backend-api/" + "x" * 5000, refusals=[])) < 200


def test_values_cannot_control_the_terminal() -> None:
    names = ("client", "session", "identity", "method", "host", "path", "model", "text", "becomes")

    for kind in Kind:
        hostile = dict.fromkeys(names, HOSTILE)
        text = one_line(**hostile, event=str(kind), refusals=[HOSTILE])
        assert all(line.isprintable() for line in text.splitlines())
        assert len(text.splitlines()) == 2


# -- what is shown


def past(fake: FakeProxy, *arguments: str) -> list[int]:
    """The numbers of the events that it prints without waiting for others."""
    result = CliRunner().invoke(command, ["--proxy", fake.url, "--json", "--no-follow", *arguments])
    assert result.exit_code == 0, result.output
    return [json.loads(line)["number"] for line in result.stdout.splitlines()]


def test_tail_starts_with_the_last_ten_events(fake: FakeProxy) -> None:
    fake.happens(*(event(number) for number in range(1, 26)))

    assert past(fake) == list(range(16, 26))


@pytest.mark.parametrize(("wanted", "first"), [("3", 23), ("100", 1)])
def test_n_sets_how_many_past_events(fake: FakeProxy, wanted: str, first: int) -> None:
    fake.happens(*(event(number) for number in range(1, 26)))

    assert past(fake, "-n", wanted) == list(range(first, 26))


def test_new_events_are_printed_as_they_happen(fake: FakeProxy, folder: Path) -> None:
    with tail(folder, fake, "--json") as piped:
        for number in (1, 2, 3):
            fake.happens(event(number))
            until(lambda number=number: number in numbers(piped), 10, "the event to be shown")  # type: ignore[misc]

        assert numbers(piped) == [1, 2, 3]


def test_n_0_prints_no_past_event(fake: FakeProxy, folder: Path) -> None:
    fake.happens(event(1), event(2))

    with tail(folder, fake, "--json", "-n", "0") as piped:
        until(lambda: any("after=2" in asked for asked in fake.asked), 20, "it to wait for events")
        fake.happens(event(3))
        piped.prints("\n")

        assert numbers(piped) == [3]


@pytest.mark.parametrize("session", ["another-session", "another", "another-sessi…"])
def test_session_filters_past_and_new_events(fake: FakeProxy, folder: Path, session: str) -> None:
    fake.happens(event(1, **OF_A_SESSION), *(event(number) for number in range(2, 800)))

    with tail(folder, fake, "--json", "--session", session) as piped:
        piped.prints("\n")
        fake.happens(event(800), event(801, **OF_A_SESSION))
        until(lambda: len(piped.lines) >= 2, 10, "the other event")

        assert numbers(piped) == [1, 801]


def test_identity_filter_includes_refusals_and_moves(fake: FakeProxy, folder: Path) -> None:
    other = {"identity": "third", "refusals": []}
    fake.happens(
        event(1, **other),
        event(2, identity="spare", refusals=["work: 401 token_revoked on codex/responses"]),
        event(3, **other, event="move", was="work", becomes="third"),
        event(4, identity="work", refusals=[]),
        event(5, identity="workshop", refusals=["workshop: 401"]),
    )

    with tail(folder, fake, "--json", "--identity", "work") as piped:
        until(lambda: len(piped.lines) >= 3, 20, "three events")

        assert numbers(piped) == [2, 3, 4]


def test_json_lines_are_the_events(fake: FakeProxy, folder: Path) -> None:
    strange = event(1, text=HOSTILE)
    fake.happens(strange)

    with tail(folder, fake, "--json") as piped:
        piped.prints("\n")

        assert json.loads(piped.lines[0]) == strange
        assert piped.lines[0].strip().isprintable()


def test_a_pipe_gets_whole_lines_without_colours(fake: FakeProxy, folder: Path) -> None:
    fake.happens(event(1, identity="x" * 150))

    with tail(folder, fake) as piped:
        piped.prints("token_revoked")

        assert len(piped.lines) == 2
        assert "\x1b" not in "".join(piped.lines)


def test_a_terminal_gets_colours(fake: FakeProxy, folder: Path) -> None:
    fake.happens(event(1))

    with Terminal(folder, "tail", "--proxy", fake.url) as terminal:
        terminal.shows("token_revoked")

        assert "\x1b[32m200" in terminal.output


def test_with_headers_each_request_has_its_table(fake: FakeProxy, folder: Path) -> None:
    fake.flows = [document(id="flow-1")]
    fake.happens(event(1), event(2, event="identity", flow=None, text="work: ready -> suspect"), event(3))

    with tail(folder, fake, "--headers") as piped:
        piped.prints("no longer kept")

        text = "".join(piped.lines)
        assert "sha256:c11e47d0a1b2" in text
        assert "sha256:1a2b3c4d5e6f" in text
        assert "org-mine" in text
        assert text.index("sha256:c11e47d0a1b2") < text.index("ready -> suspect")


# -- how it ends


def test_ctrl_c_exits_with_130(fake: FakeProxy, folder: Path) -> None:
    with Terminal(folder, "tail", "--proxy", fake.url) as terminal:
        fake.happens(event(1))
        terminal.shows("200")
        terminal.press("\x03")

        assert terminal.wait() == 130
        assert "Traceback" not in plain(terminal.output)
        assert "Aborted" not in plain(terminal.output)


def test_sigterm_exits_with_143(fake: FakeProxy, folder: Path) -> None:
    with tail(folder, fake) as piped:
        until(lambda: any("/api/events" in asked for asked in fake.asked), 20, "it to wait for events")

        assert piped.end(signal.SIGTERM) == 128 + signal.SIGTERM
        assert piped.said == []


def test_tail_ends_quietly_when_the_reader_is_gone(fake: FakeProxy, folder: Path) -> None:
    fake.happens(*(event(number) for number in range(1, 11)))

    assert after_one_line(folder, "tail", "--proxy", fake.url) == (0, "")


def test_an_idle_tail_notices_that_the_reader_is_gone(fake: FakeProxy, folder: Path) -> None:
    fake.happens(event(1, refusals=[]))  # one line, and nothing more

    assert after_one_line(folder, "tail", "--proxy", fake.url) == (0, "")


def test_without_a_proxy_the_exit_code_is_1() -> None:
    result = CliRunner().invoke(command, ["--proxy", "http://127.0.0.1:1"])

    assert result.exit_code == 1
    assert result.stderr.startswith("codexpool: no proxy is running at 127.0.0.1:1")


@pytest.mark.parametrize("arguments", [("-n", "-1"), ("-n", "x"), ("too", "much"), ("--json", "--headers")])
def test_a_usage_error_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(command, list(arguments)).exit_code == 2


def test_help_names_the_options() -> None:
    result = CliRunner().invoke(command, ["--help"])

    assert result.exit_code == 0
    assert all(word in result.output for word in ("--headers", "--json", "-n", "--session", "--identity", "--proxy"))


# -- restarts, and what is lost


def test_tail_continues_with_the_next_run(folder: Path) -> None:
    with running() as first:
        first.happens(*(event(number) for number in range(1, 21)))
        with tail(folder, first, "--json") as piped:
            until(lambda: len(piped.lines) >= 10, 20, "ten events")
            first.stop()
            piped.says("Waiting for it")
            with running(first.port) as second:
                second.run = "run-2"
                second.happens(event(1, event="start"), event(2))
                until(lambda: len(piped.lines) >= 12, 20, "the events of the next run")
                piped.says("was restarted")

                assert numbers(piped)[10:] == [1, 2]


def test_tail_continues_with_the_same_run(fake: FakeProxy, folder: Path) -> None:
    fake.happens(event(1))
    with tail(folder, fake, "--json") as piped:
        piped.prints("\n")
        fake.answers["/api/events"] = (502, "<html>busy</html>")
        fake.happens(event(2))
        fake.answers["/api/status"] = (502, "<html>busy</html>")
        fake.happens(event(3))
        piped.says("Waiting for it")
        del fake.answers["/api/events"]
        del fake.answers["/api/status"]
        piped.says("answers again")
        until(lambda: len(piped.lines) >= 3, 20, "the events since")

        assert numbers(piped) == [1, 2, 3]
        assert "restarted" not in "".join(piped.said)


def test_missed_events_are_reported(fake: FakeProxy, folder: Path) -> None:
    fake.happens(event(1))
    with tail(folder, fake, "--json") as piped:
        piped.prints("\n")
        fake.answers["/api/events"] = lambda: (
            200,
            {"events": [event(2000)], "last": 2000, "lost": True, "run": fake.run},
        )
        fake.happens(event(2))
        piped.prints("2000")
        piped.says("some events were missed")


def test_an_unnoticed_restart_is_reported(fake: FakeProxy, folder: Path) -> None:
    fake.happens(*(event(number) for number in range(1, 21)))
    with tail(folder, fake, "--json", "-n", "1") as piped:
        piped.prints("\n")
        answers = iter([(200, {"events": [event(1, event="start")], "last": 1, "lost": True, "run": "run-2"})])

        def anew() -> tuple[int, Any]:
            time.sleep(0.05)
            return next(answers, (200, {"events": [], "last": 1, "lost": False, "run": "run-2"}))

        fake.answers["/api/events"] = anew
        fake.happens(event(21))
        piped.says("was restarted")
        until(lambda: 1 in numbers(piped), 10, "the first event of the next run")


def test_a_proxy_that_does_not_wait_is_not_flooded(fake: FakeProxy, folder: Path) -> None:
    fake.answers["/api/events"] = (200, {"events": [], "last": 0, "lost": False, "run": fake.run})
    with tail(folder, fake):
        until(lambda: len(fake.asked) > 2, 20, "some questions")
        asked = len(fake.asked)
        time.sleep(1.5)

        assert len(fake.asked) - asked <= 4
