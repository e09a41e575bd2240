"""`codexpool explain`: what became of a request and why, of a running proxy or out of a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow
from rich.cells import cell_len

from codexpool.cli.commands.explain import explain as command
from codexpool.views.story import explained
from tests.cli.fakeproxy import FakeProxy, running
from tests.cli.terminals import Piped, Terminal, plain
from tests.traces.documents import FLOW, document

HOSTILE = "\x1b[31mred\x07 [bold]x[/bold]\r\nnext\u202e"


@pytest.fixture
def fake() -> Iterator[FakeProxy]:
    with running() as fake:
        fake.flows = [document()]
        yield fake


def run(*arguments: str, columns: int = 80, code: int = 0) -> Result:
    """Run the command, with its output going into a file."""
    result = CliRunner().invoke(command, list(arguments), env={"COLUMNS": str(columns)})
    assert result.exit_code == code, f"{result.output}{result.exception!r}"
    return result


def of(fake: FakeProxy, *arguments: str, code: int = 0) -> Result:
    return run(*arguments, "--proxy", fake.url, columns=200, code=code)


def saved(path: Path, *documents: Any) -> Path:
    """A dump of mitmproxy whose flows have these documents; None for a flow that codexpool has not seen."""
    with path.open("wb") as file:
        writer = FlowWriter(file)
        for made in documents:
            flow = tflow.tflow(resp=True)
            if made is not None:
                flow.metadata["codexpool"] = made
            writer.add(flow)
    return path


# -- of a running proxy


def test_the_whole_story_is_told(fake: FakeProxy) -> None:
    text = of(fake, "last").stdout

    assert all(line.text in text for line in explained(document()))


def test_changed_headers_are_shown_and_others_counted(fake: FakeProxy) -> None:
    text = of(fake, "last").stdout

    assert "chatgpt-account-id" in text
    assert "acc-spare" in text
    assert "13 others, as the client sent them" in text
    assert "x-codex-beta-features" not in text


@pytest.mark.parametrize("wanted", ["last", FLOW, FLOW[:6]])
def test_a_flow_is_meant_by_its_id_or_the_beginning_of_it(fake: FakeProxy, wanted: str) -> None:
    assert "spare served it" in of(fake, wanted).stdout


def test_json_is_what_the_api_says(fake: FakeProxy) -> None:
    answer = json.loads(of(fake, "last", "--json").stdout)

    times = ("at", "ended_at", "attempts", "answer")
    assert all(answer["flow"][key] == value for key, value in document().items() if key not in times)
    assert answer["flow"]["at"].endswith("Z")
    assert answer["explanation"] == [line.text for line in explained(document())]
    assert {row["name"]: row["sign"] for row in answer["table"]}["authorization"] == "~"


def test_an_unknown_or_ambiguous_id_selects_no_flow(fake: FakeProxy) -> None:
    fake.flows = [document(id="abcd-1"), document(id="abcd-2"), document(id="fedc")]

    for wanted in ("abcd", "ffff"):
        error = of(fake, wanted, code=1).stderr

        assert f"remembers no flow {wanted}, or several that begin so" in error
        assert "codexpool tail" in error


def test_the_last_of_no_flows_is_an_error(fake: FakeProxy) -> None:
    fake.flows = []

    assert "remembers no flow yet" in of(fake, "last", code=1).stderr


def test_without_a_proxy_the_exit_code_is_1() -> None:
    assert "no proxy is running" in run("last", "--proxy", "http://127.0.0.1:1", code=1).stderr


@pytest.mark.parametrize("name", ["no/such.flow", "missing.flow", "missing.flow#2", ""])
def test_a_missing_file_is_not_asked_of_the_proxy(fake: FakeProxy, name: str) -> None:
    assert "there is no such file" in of(fake, name, code=2).stderr
    assert fake.asked == []


def test_help_says_what_there_is() -> None:
    text = run("--help").output

    assert all(word in text for word in ("FLOW|last|FILE[#N]", "--json", "--proxy"))


# -- out of a file


def test_a_saved_flow_is_explained_without_a_proxy(tmp_path: Path) -> None:
    path = saved(tmp_path / "flows", document())

    assert "spare served it" in run(str(path)).stdout


def test_a_number_says_which_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "flows", document(url="https://first/"), document(url="https://second/"))

    assert "https://first/" in run(f"{path}#1").stdout
    assert "https://second/" in run(f"{path}#2").stdout
    assert "https://second/" in run(f"{path}#-1").stdout


def test_an_id_selects_its_last_record(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    with path.open("wb") as file:
        for flow_id, url in (
            ("0d5f-1", "https://first/"),
            ("0d5f-1", "https://again/"),
            ("0d-2", "https://other/"),
            ("0d-3", "https://other/"),
        ):
            flow = tflow.tflow(resp=True)
            flow.id, flow.metadata["codexpool"] = flow_id, document(url=url)
            FlowWriter(file).add(flow)

    assert "https://again/" in run(f"{path}#0d5f").stdout
    assert "2 flows have an id that begins with 0d-" in run(f"{path}#0d-", code=1).stderr


def test_the_default_is_the_last_flow_of_codexpool(tmp_path: Path) -> None:
    path = saved(tmp_path / "flows", document(url="https://first/"), document(url="https://second/"), None)

    assert "https://second/" in run(str(path)).stdout


def test_a_flow_without_a_trace_is_explained_too(tmp_path: Path) -> None:
    text = run(str(saved(tmp_path / "flows", None))).stdout

    assert "GET http://address" in text
    assert "policy: never" in text


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        ("#3", 1, "there is no #3"),
        ("#-3", 1, "there is no #-3"),
        ("#ffff", 1, "no flows have an id that begins with ffff"),
        ("#0", 2, "1 is the first"),
        ("#x", 2, "1 is the first"),
    ],
)
def test_an_invalid_number_is_an_error(tmp_path: Path, number: str, code: int, said: str) -> None:
    path = saved(tmp_path / "flows", document(), None)

    assert said in run(f"{path}{number}", code=code).stderr


def test_a_cut_dump_is_read_in_part(tmp_path: Path) -> None:
    path = saved(tmp_path / "flows", document(), document(url="https://second/"))
    path.write_bytes(path.read_bytes()[:-100])

    assert "chatgpt.com" in run(str(path)).stdout


def test_a_number_sign_in_a_file_name_is_fine(tmp_path: Path) -> None:
    assert "spare served it" in run(str(saved(tmp_path / "flows#2", document()))).stdout


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"{}", b"5:hello,", b"3:1:a}"])
def test_a_file_that_is_no_dump_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "flows"
    path.write_bytes(content)

    said = run(str(path), code=1).stderr

    assert said.startswith("codexpool: ")
    assert "Traceback" not in said


def test_a_folder_is_no_dump(tmp_path: Path) -> None:
    assert "there is no such file" in run(str(tmp_path), code=2).stderr


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"version": 2},
        {"version": 1},
        {"version": 1, "attempts": [{}]},
        {**document(), "attempts": ["work"]},
        {**document(), "attempts": 7},
        {**document(), "answer": None},
        {**document(), "request_headers": [["a"]]},
        {**document(), "time": [["a", "b", "c"]]},
    ],
)
def test_a_foreign_document_causes_no_traceback(tmp_path: Path, made: Any) -> None:
    result = run(str(saved(tmp_path / "flows", made)), code=1)

    assert result.stderr.startswith("codexpool: ")
    assert isinstance(result.exception, SystemExit)


# -- how it looks


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, columns: int) -> None:
    path = saved(tmp_path / "flows", document(url="https://chatgpt.com/" + "x" * 300))

    text = run(str(path), columns=columns).stdout

    assert max(cell_len(line) for line in text.splitlines()) <= columns


def test_into_a_file_a_line_stays_whole(fake: FakeProxy, tmp_path: Path) -> None:
    with Piped(tmp_path, "explain", "last", "--proxy", fake.url) as piped:
        assert piped.process.wait(20) == 0
        piped.prints("others, as the client sent them")

        assert "".join(piped.lines).count("whoami is asked meanwhile whether the token is dead.\n") == 1
        assert "\x1b" not in "".join(piped.lines)


def test_a_terminal_gets_colours(fake: FakeProxy, tmp_path: Path) -> None:
    with Terminal(tmp_path, "explain", "last", "--proxy", fake.url) as terminal:
        assert terminal.wait() == 0

        assert "\x1b[32mspare served it" in terminal.output
        assert "\x1b[31mattempt 1, work" in terminal.output
        assert "passing the answer on" in plain(terminal.output)


def test_values_are_neither_escape_codes_nor_markup(tmp_path: Path) -> None:
    hostile = document(
        url=HOSTILE,
        method=HOSTILE,
        client=HOSTILE,
        request_headers=[[HOSTILE, HOSTILE]],
        policy={"name": "swap", "row": HOSTILE, "means": HOSTILE},
        session={"key": HOSTILE, "from": HOSTILE, "parent": HOSTILE, "model": HOSTILE, "user_agent": HOSTILE},
    )

    text = run(str(saved(tmp_path / "flows", hostile))).stdout

    assert all(line.isprintable() for line in text.splitlines())
    assert "[bold]x[/bold]" in text


def test_a_closed_pipe_is_no_error(fake: FakeProxy, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with Piped(tmp_path, "explain", "last", "--proxy", fake.url, stdout=write) as piped:
        os.close(write)

        assert piped.process.wait(20) == 0
    assert piped.said == []
