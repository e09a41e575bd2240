"""`codexpool record --from`: what it makes, what it refuses, and how it says it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mitmproxy import http

from codexpool.cli import main
from codexpool.recording import files
from codexpool.recording.anonymize import Anonymizer
from tests.recording.flows import a_flow
from tests.running import pat, pool_toml
from tests.standin import RESPONSES

TOKEN = "at-0123456789abcdefABCDEFghij"
POOLED = pat("alice-private")
PROMPT = "the prompt, which is private"
AUTH = [("authorization", f"Bearer {TOKEN}"), ("chatgpt-account-id", "acc-of-alice")]


def dump(path: Path, *flows: http.HTTPFlow) -> Path:
    """A dump as mitmproxy writes it, secrets and all."""
    path.write_bytes(files.dump(list(flows), as_har=False))
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
    return files.read(path).flows


@pytest.mark.parametrize("name", ["out.flows", "out.har"])
def test_a_dump_becomes_a_recording(tmp_path: Path, source: Path, name: str) -> None:
    out = tmp_path / name

    said = run("record", str(out), "--from", str(source)).stdout

    assert re.search(r": 2 requests recorded; left out 1 to other hosts; \d values replaced", said)
    assert [flow.request.path for flow in read(out)] == ["/backend-api/codex/models", RESPONSES]
    content = out.read_bytes()
    assert [
        text for text in (TOKEN, POOLED.token, "acc-of-alice", PROMPT, "corp.example") if text.encode() in content
    ] == []


def test_other_hosts_are_included_on_request(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"

    run("record", str(out), "--from", str(source), "--all-hosts")

    made = read(out)
    assert [flow.request.host for flow in made] == ["chatgpt.com", "chatgpt.com", "git.corp.example"]
    assert "Zq7rTk2LmVb94XwPcN" not in str(made[2].request.headers)


def test_tokens_and_names_of_the_pool_are_known(tmp_path: Path) -> None:
    pool = pool_toml(tmp_path, POOLED)
    source = dump(tmp_path / "dump", a_flow(status=None, error=f"echo {POOLED.token[3:]} of alice-private"))
    out = tmp_path / "out"

    run("record", str(out), "--from", str(source), "--config", str(pool))

    error = read(out)[0].error
    assert error is not None
    assert POOLED.token[3:] not in error.msg
    assert "alice" not in error.msg


def test_an_unreadable_pool_stops_the_recording(tmp_path: Path, source: Path) -> None:
    pool = tmp_path / "pool.toml"
    pool.touch(mode=0o600)
    pool.write_text("[[identity]]\nname = 3\n")

    result = run("record", str(tmp_path / "out"), "--from", str(source), "--config", str(pool), code=1)

    assert "cannot read the pool, so its tokens could end up in the recording" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_refused_recording_is_not_written(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    monkeypatch.setattr(Anonymizer, "_headers", lambda _self, headers: headers)

    result = run("record", str(out), "--from", str(source), code=1)

    assert f"{out}: not written, because it would contain private values" in result.stderr
    assert "flow 1: request: a known secret" in result.stderr
    assert out.read_text() == "before"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["record", "{tmp}/no/out", "--from", "{source}"], 1, "there is no folder {tmp}/no; create it first"),
        (["record", "{tmp}", "--from", "{source}"], 1, "is not a regular file; name another one"),
        (
            ["record", "{tmp}/out", "--from", "{tmp}/nowhere"],
            1,
            "nowhere: cannot be read (No such file or directory)",
        ),
        (["record", "{tmp}/out", "--from", "{tmp}/text"], 1, "text: is neither a flow file nor a HAR file"),
        (["record", "{tmp}/out", "--from", "{source}", "-p", "8081"], 2, "--from starts no proxy"),
    ],
)
def test_an_error_names_the_file(tmp_path: Path, source: Path, arguments: list[str], code: int, said: str) -> None:
    (tmp_path / "text").write_text("no flows\n")
    names = {"tmp": str(tmp_path), "source": str(source)}

    result = run(*(argument.format(**names) for argument in arguments), code=code)

    assert said.format(**names) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_cut_dump_is_recorded_in_part(tmp_path: Path, source: Path) -> None:
    source.write_bytes(source.read_bytes()[:-20])

    result = run("record", str(tmp_path / "out"), "--from", str(source))

    assert "its end is missing; 2 flows were read" in result.stderr
    assert len(read(tmp_path / "out")) == 2


def test_help_names_the_source() -> None:
    said = run("record", "--help").stdout

    assert "--from FILE" in said
    assert "\x1b" not in said
