"""`codexpool record --from` and `codexpool replay`: what they make, what they refuse, and how they say it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mitmproxy import http

from codexpool.cli import main
from codexpool.recording import files
from codexpool.recording.cleaning import Cleaner
from tests.cli.running import World
from tests.recording.flows import a_flow, a_socket
from tests.running import pat, pool_toml, until
from tests.standin import RESPONSES

TOKEN = "at-0123456789abcdefABCDEFghij"
POOLED = pat("alice-private")
PROMPT = "the prompt, which is nobody's business"
AUTH = [("authorization", f"Bearer {TOKEN}"), ("chatgpt-account-id", "acc-of-alice")]


def dump(path: Path, *flows: http.HTTPFlow) -> Path:
    """A dump as mitmproxy writes it, secrets and all."""
    path.write_bytes(files.made(list(flows), as_har=False))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    turn = json.dumps({"model": "m", "input": PROMPT})
    return dump(
        tmp_path / "dump",
        a_flow("/backend-api/codex/models", method="GET", headers=AUTH),
        a_flow(RESPONSES, headers=AUTH, body=turn, answer=f"echo {POOLED.token} to alice@corp.example"),
        a_flow("/private", host="git.corp.example", headers=[("cookie", "sid=Zq7rTk2LmVb94XwPcN")]),
    )


def run(*arguments: str, code: int = 0) -> Result:
    """Run `codexpool`; nothing private is in what it prints."""
    result = CliRunner().invoke(main, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    for secret in (TOKEN, POOLED.token, "alice@corp.example", PROMPT):
        assert secret not in result.output + result.stderr
    return result


def read(path: Path) -> list[http.HTTPFlow]:
    return [flow for flow in files.read(path).flows if isinstance(flow, http.HTTPFlow)]


@pytest.mark.parametrize("name", ["out.flows", "out.har"])
def test_a_dump_becomes_a_recording(tmp_path: Path, source: Path, name: str) -> None:
    out = tmp_path / name

    said = run("record", str(out), "--from", str(source)).stdout

    assert f"{out}: 2 requests, with stand-ins for 1 credential, 1 account id" in said
    assert "left out: 1 to other hosts (--all-hosts takes them along)" in said
    assert [flow.request.path for flow in read(out)] == ["/backend-api/codex/models", RESPONSES]
    content = out.read_bytes()
    assert [
        text for text in (TOKEN, POOLED.token, "acc-of-alice", PROMPT, "corp.example") if text.encode() in content
    ] == []


def test_bodies_and_other_hosts_are_in_it_if_they_are_wanted(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"

    said = run("record", str(out), "--from", str(source), "--bodies", "--all-hosts").stdout

    made = read(out)
    assert len(made) == 3
    assert PROMPT in (made[1].request.text or "")
    assert made[1].response is not None
    assert made[1].response.text == "echo at-standin-2-000000000000000000000000 to person1@example.com"
    assert "Zq7rTk2LmVb94XwPcN" not in str(made[2].request.headers)
    assert "read it before you share it" in said


def test_tokens_and_names_of_the_pool_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_toml(tmp_path, POOLED)
    source = dump(tmp_path / "dump", a_flow(answer=f"echo {POOLED.token[3:]} of alice-private"))
    out = tmp_path / "out"

    run("record", str(out), "--from", str(source), "--bodies", "--config", str(pool))

    response = read(out)[0].response
    assert response is not None
    assert POOLED.token[3:] not in (response.text or "")
    assert (response.text or "").endswith(" of identity-1")


def test_a_pool_that_cannot_be_read_is_no_reason_to_go_on(tmp_path: Path, source: Path) -> None:
    pool = tmp_path / "pool.toml"
    pool.touch(mode=0o600)
    pool.write_text("[[identity]]\nname = 3\n")

    result = run("record", str(tmp_path / "out"), "--from", str(source), "--config", str(pool), code=1)

    assert "its tokens must not be recorded, and cannot be known" in result.stderr
    assert not (tmp_path / "out").exists()


def test_where_something_would_be_left_nothing_is_written(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    monkeypatch.setattr(Cleaner, "_headers", lambda _self, headers: headers)

    result = run("record", str(out), "--from", str(source), code=1)

    assert f"{out}: nothing was written, because something private would be left in it" in result.stderr
    assert "flow 1: request, header authorization" in result.stderr
    assert out.read_text() == "before"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["record", "{tmp}/no/out", "--from", "{source}"], 1, "there is no folder {tmp}/no; make it first"),
        (["record", "{tmp}", "--from", "{source}"], 1, "is a folder; name a file"),
        (
            ["record", "{tmp}/out", "--from", "{tmp}/nowhere"],
            1,
            "nowhere: cannot be read (No such file or directory)",
        ),
        (["record", "{tmp}/out", "--from", "{tmp}/text"], 1, "text: is neither a flow file nor a HAR file"),
        (["record", "{tmp}/out", "--from", "{source}", "-p", "8081"], 2, "no proxy is started"),
        (["replay", "{tmp}/nowhere"], 1, "nowhere: cannot be read"),
        (["replay", "{tmp}/text"], 1, "text: is neither a flow file nor a HAR file"),
        (["replay", "{source}", "--only", "/nothing"], 1, "there is no request in it that can be played"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_file(
    tmp_path: Path, source: Path, arguments: list[str], code: int, said: str
) -> None:
    (tmp_path / "text").write_text("no flows\n")
    names = {"tmp": str(tmp_path), "source": str(source)}

    result = run(*(argument.format(**names) for argument in arguments), code=code)

    assert said.format(**names) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_dump_whose_end_is_missing_is_recorded_as_far_as_it_goes(tmp_path: Path, source: Path) -> None:
    source.write_bytes(source.read_bytes()[:-20])

    result = run("record", str(tmp_path / "out"), "--from", str(source))

    assert "its end is missing; 2 flows were read" in result.stderr
    assert len(read(tmp_path / "out")) == 2


@pytest.mark.parametrize("command", ["record", "replay"])
def test_help_names_what_there_is(command: str) -> None:
    said = run(command, "--help").stdout

    assert "FILE" in said
    assert "\x1b" not in said


# -- replay: a whole proxy and a stand-in, so there is one run for many looks


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recording")
    auth = [("authorization", "Bearer <codexpool:identity-1>"), ("chatgpt-account-id", "<codexpool:identity-1>")]
    upgrade = [
        *auth,
        *[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
        *[("Sec-WebSocket-Key", "N4kwaorYcXS3H3HpPr2lsA=="), ("openai-organization", "org-standin-1")],
    ]
    turn = {"model": "m", "input": "hello"}
    return dump(
        folder / "recording",
        a_flow("/backend-api/codex/models", method="GET", headers=auth),
        a_flow(RESPONSES, headers=[*auth, ("x-codex-turn-state", "turn-standin-1")], body=json.dumps(turn)),
        a_socket(
            [json.dumps({"type": "response.create", **turn})],
            ['{"type":"response.completed"}'],
            path=RESPONSES,
            headers=upgrade,
        ),
        a_flow("/backend-api/wham/usage", method="GET", headers=AUTH, status=429),
        a_flow("/x", host="git.corp.example"),
    )


def test_a_recording_is_played_through_a_real_proxy(recording: Path) -> None:
    result = run("replay", str(recording))

    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines if re.match(r"(ok|NOT)", line)] == ["ok"] * 4
    assert re.search(r"ok +3 +101 -> 101 +GET chatgpt\.com/backend-api/codex/responses", result.stdout)
    assert "4 played, all as they should be" in result.stdout
    assert "1 left out: the stand-in does not play git.corp.example" in result.stdout


def test_a_replay_is_told_as_json(recording: Path) -> None:
    document = json.loads(run("replay", str(recording), "--json", "--limit", "2").stdout)

    assert document["passed"] is True
    assert [(one["recorded"], one["now"], one["problems"]) for one in document["requests"]] == [(200, 200, [])] * 2
    assert document["beyond_the_limit"] == 2
    assert [one["why"] for one in document["left_out"]] == ["the stand-in does not play git.corp.example"]


def test_the_exit_code_says_that_something_was_not_as_it_should_be(tmp_path: Path) -> None:
    source = dump(tmp_path / "dump", a_flow("/backend-api/brand-new", method="GET", headers=AUTH))

    result = run("replay", str(source), code=1)

    assert "NOT    1  200 -> 404  GET chatgpt.com/backend-api/brand-new" in result.stdout
    assert "the stand-in has no such endpoint" in result.stdout
    assert "1 played, 1 not as they should be" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_replay_leaves_nothing_behind(tmp_path: Path, recording: Path, number: signal.Signals) -> None:
    world = World(tmp_path)
    replay: subprocess.Popen[str] = world.start("replay", str(recording))
    try:
        until(lambda: list(world.temporary.glob("*/proxy.log")), 30, "the proxy to be started")
        replay.send_signal(number)
        _, errors = replay.communicate(timeout=30)
    finally:
        replay.kill()

    assert replay.returncode == 128 + number
    assert "Traceback" not in errors
    assert world.left_behind() == []
