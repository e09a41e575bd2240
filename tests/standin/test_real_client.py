"""The real Codex CLI is content with the stand-in, without a proxy between: that is what makes it a stand-in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.standin import RESPONSES, StandIn, Token

CODEX = os.environ.get("CODEXPOOL_CODEX") or shutil.which("codex")

pytestmark = [
    pytest.mark.real_client,
    pytest.mark.skipif(CODEX is None, reason="no codex on PATH, and CODEXPOOL_CODEX is not set"),
]

TROUBLE = ("Reconnecting", "Falling back", "unexpected status", "stream disconnected", "failed to refresh")

PLAIN = Token("at-test-real-00112233445566778899aabb", "acc-real", "user-real", plan="plus", name="real")
BUSINESS = Token("at-test-biz-00112233445566778899aabb", "acc-biz", "user-biz", name="biz")
GOVERNMENT = Token(
    "at-test-gov-00112233445566778899aabb",
    "acc-gov",
    "user-gov",
    plan="plus",
    fedramp=True,
    origin="https://gov.chatgpt.com",
    routing_override="us_cr",
    name="gov",
)


def run(
    standin: StandIn, folder: Path, environ: dict[str, str], *arguments: str, prompt: str = "say hi echo:banana"
) -> subprocess.CompletedProcess[str]:
    """``codex exec`` straight through the stand-in's CONNECT proxy."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [str(CODEX), "exec", "--skip-git-repo-check", *arguments, prompt],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "CODEX_HOME": str(home),
            "CODEX_CA_CERTIFICATE": str(standin.ca_file),
            "HTTPS_PROXY": f"http://127.0.0.1:{standin.proxy_port}",
            **environ,
        },
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def assert_content(standin: StandIn, result: subprocess.CompletedProcess[str], name: str) -> None:
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"answer from {name}, request ")
    assert result.stdout.strip().endswith(" banana")
    assert [words for words in TROUBLE if words in result.stderr] == []
    assert (standin.refusals, standin.leaks, standin.troubles) == ([], [], [])


@pytest.mark.parametrize("websockets", [True, False], ids=["websocket", "http"])
@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_with_a_personal_access_token(tmp_path: Path, websockets: bool, alpn: str) -> None:
    with StandIn(
        [PLAIN],
        clients=[PLAIN],
        folder=tmp_path,
        websockets=websockets,
        alpn=("h2", "http/1.1") if alpn == "h2" else ("http/1.1",),
        encrypted="bound",
    ) as standin:
        result = run(standin, tmp_path, {"CODEX_ACCESS_TOKEN": PLAIN.token})
        assert_content(standin, result, "real")
        answered = [seen.transport for seen in standin.requests(RESPONSES) if seen.status == 200]
        assert answered[-1] == ("message" if websockets else alpn)


@pytest.mark.parametrize("token", [BUSINESS, GOVERNMENT], ids=["business", "routed"])
def test_with_a_workspace_that_has_rules_of_its_own(tmp_path: Path, token: Token) -> None:
    with StandIn([token], clients=[token], folder=tmp_path) as standin:
        result = run(standin, tmp_path, {"CODEX_ACCESS_TOKEN": token.token})
        assert_content(standin, result, token.name)
        assert {seen.host for seen in standin.requests(RESPONSES)} == {token.host}


@pytest.mark.parametrize("lifetime", [864000.0, 60.0], ids=["fresh", "about to expire"])
@pytest.mark.parametrize("websockets", [True, False], ids=["websocket", "http"])
def test_with_an_oauth_login(tmp_path: Path, websockets: bool, lifetime: float) -> None:
    with StandIn([], folder=tmp_path, websockets=websockets) as standin:
        home = tmp_path / "home"
        home.mkdir()
        login = standin.login(PLAIN, pool=True, client=True, lifetime=lifetime)
        (home / "auth.json").write_text(json.dumps(login))
        result = run(standin, tmp_path, {})
        assert_content(standin, result, "real")
        assert standin.refreshes == (1 if lifetime < 300 else 0)


@pytest.mark.parametrize("websockets", [True, False], ids=["websocket", "http"])
@pytest.mark.parametrize(
    ("model", "tool"),
    [((), "custom_tool_call"), (("--model", "gpt-5.5-codex"), "function_call")],
    ids=["exec", "exec_command"],
)
def test_with_tool_calls(tmp_path: Path, websockets: bool, model: tuple[str, ...], tool: str) -> None:
    with StandIn([PLAIN], clients=[PLAIN], folder=tmp_path, websockets=websockets, encrypted="bound") as standin:
        result = run(
            standin,
            tmp_path,
            {"CODEX_ACCESS_TOKEN": PLAIN.token},
            "--dangerously-bypass-approvals-and-sandbox",
            *model,
            prompt="tools:3 echo:banana",
        )
        # then: each call was carried out, and what it printed came back with the next request
        assert_content(standin, result, "real")
        bodies = [json.loads(seen.body) for seen in standin.requests(RESPONSES) if seen.body]
        outputs = [item["output"] for item in bodies[-1]["input"] if item.get("type") == f"{tool}_output"]
        if websockets:
            outputs = [
                item["output"] for body in bodies for item in body["input"] if item["type"] == f"{tool}_output"
            ]
        assert len(outputs) == 3
        assert all("answer from real, request " in json.dumps(output) for output in outputs)


def test_with_connections_that_break_at_random(tmp_path: Path) -> None:
    with StandIn([PLAIN], clients=[PLAIN], folder=tmp_path) as standin:
        standin.cut_share = 0.3
        result = run(
            standin,
            tmp_path,
            {"CODEX_ACCESS_TOKEN": PLAIN.token},
            "--dangerously-bypass-approvals-and-sandbox",
            prompt="tools:6 echo:banana",
        )
        assert (result.returncode, standin.refusals, standin.troubles) == (0, [], [])
        assert result.stdout.strip().endswith(" banana")
        assert any(seen.cut for seen in standin.seen)


@pytest.mark.parametrize("websockets", [True, False], ids=["websocket", "http"])
def test_with_a_limit_that_is_reached(tmp_path: Path, websockets: bool) -> None:
    with StandIn([PLAIN], clients=[PLAIN], folder=tmp_path, websockets=websockets) as standin:
        standin.limit(PLAIN.token, time.time() + 3600)
        result = run(standin, tmp_path, {"CODEX_ACCESS_TOKEN": PLAIN.token})
        assert result.returncode == 1
        assert "hit your usage limit" in result.stderr
        assert "try again at" in result.stderr
