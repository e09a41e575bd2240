"""`codexpool run` at a terminal: what it says at first, and who has the port if it cannot listen."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import version

from codexpool.cli.banner import Facts, lines
from codexpool.cli.commands.run import _who_has
from tests.cli.fakeproxy import FakeProxy
from tests.cli.terminals import Terminal, argv, environ, plain
from tests.cli.test_running_proxy import free_port

BASH = {"SHELL": "/bin/bash"}


def banner(environ: dict[str, str] = BASH, **changes: Any) -> list[str]:
    facts = {"listens": ["127.0.0.1:8080"], "access": "anyone", "statuses": ["ready"], **changes}
    return list(lines(Facts(**facts), environ))


# -- the banner


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "at 127.0.0.1:8080, for anyone on this machine"),
        ({"listens": ["[::1]:8080"]}, "for anyone on this machine"),
        ({"listens": ["0.0.0.0:8080"]}, "for anyone who can reach it"),
        ({"access": "members", "members": 3}, "for members only (3)"),
        ({"access": "members"}, "codexpool member add NAME"),
        ({"observes": True}, "only observing"),
        ({"listens": []}, "at no address"),
    ],
)
def test_the_first_line_says_where_and_for_whom(changes: dict[str, Any], text: str) -> None:
    assert text in banner(**changes)[0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "1 of 1 ready"),
        ({"statuses": ["ready", "limited", "limited", "needs_login"]}, "1 of 4 ready; 2 limited, 1 needs_login; see"),
        ({"statuses": []}, "none yet: codexpool add NAME"),
        ({"closed": "pool.toml:3: no such key"}, "no request is served: pool.toml:3"),
    ],
)
def test_it_counts_the_identities_that_are_ready(changes: dict[str, Any], text: str) -> None:
    assert text in banner(**changes)[1]


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("/bin/zsh", 'eval "$(codexpool env)" && codex'),
        ("/usr/bin/fish", "codexpool env | source; and codex"),
        ("/usr/bin/pwsh", "codexpool env | Out-String | Invoke-Expression; codex"),
    ],
)
def test_the_last_line_is_for_the_users_shell(shell: str, line: str) -> None:
    assert banner({"SHELL": shell})[-1].endswith(line)


def test_a_banner_fits_a_terminal_of_80_columns() -> None:
    assert max(map(len, banner(listens=["127.0.0.1:8080"], web="http://127.0.0.1:8081/?token=" + 32 * "0"))) <= 80


# -- a busy port


def test_a_busy_port_names_the_proxy_that_has_it(fake: FakeProxy) -> None:
    said = _who_has("0.0.0.0", fake.port, "-p ")
    assert "process 4711, since 2025-11-24" in said
    assert "with /home/me/.config/codexpool/pool.toml" in said
    assert f"codexpool run -p {fake.port + 1}" in said


def test_a_busy_port_may_have_a_proxy_that_does_not_say_more(fake: FakeProxy) -> None:
    fake.answers["/api/status"] = (403, {"error": {"message": "for this machine only"}})
    assert "of another user, or in a container" in _who_has("127.0.0.1", fake.port, "-p ")


def test_a_busy_port_may_have_another_program(fake: FakeProxy) -> None:
    fake.answers["/api/status"] = (200, "<html>")
    assert f"another program (lsof -i :{fake.port} shows which)" in _who_has("", fake.port, "-p ")


# -- all of it


def test_run_tells_the_terminal_what_comes_next(tmp_path: Path) -> None:
    """And it alone gets the token of mitmweb's page; the next proxy learns who has the port; stop ends the first."""
    port, web_port = free_port(), free_port()
    has_token = version.VERSION >= "12"  # The older one does not run under mitmweb.
    pool = ("--config", str(tmp_path / "pool.toml"))  # The checkout of the person who runs this may have one.
    web = ("--with", "mitmweb", "--set", "web_open_browser=false", "--set", f"web_port={web_port}")

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv(*words), env=environ(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    with Terminal(
        tmp_path, "run", *pool, "-p", str(port), "-w", "flows", *(web if has_token else ()), columns=200
    ) as terminal:
        terminal.shows("codex.pool/", 60)
        terminal.shows('eval "$(codexpool env)" && codex')
        second = command("run", *pool, "-p", str(port))
        stopped = command("stop")
        ended = terminal.wait(20)
        said = plain(terminal.output)

    assert "identities  none yet: codexpool add NAME" in said
    tokens = re.findall(r"mitmweb +http://127\.0\.0\.1:\d+/\?token=(\w+)", said)
    assert len(tokens) == has_token
    assert [said.count(token) for token in tokens] == [1] * has_token
    assert stat.S_IMODE((tmp_path / "flows").stat().st_mode) == 0o600
    assert second.returncode == 1
    assert f"process {terminal.process.pid}" in second.stderr
    assert (stopped.returncode, ended) == (0, 0), stopped.stderr
