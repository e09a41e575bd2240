"""`codexpool env`: shells and clients read back what it prints, and no variable bypasses the proxy."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from codexpool.cli import running_proxy, shells
from codexpool.cli.commands.env import env, without_bypasses
from codexpool.local import running_proxies
from codexpool.local.ca_files import CERTIFICATE, KEY
from tests.cli.fakeproxy import running
from tests.standin.certificates import Authority

MEMBER = "at-pool-0123456789abcdef0123456789abcdef"
TEAM = "http://team:8080"

Run = Callable[..., Result]

POSIX_SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"there is no {name}"))
    for name in ("bash", "zsh", "sh", "fish", "pwsh")
]


@pytest.fixture(scope="module")
def ca_text(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Authority(tmp_path_factory.mktemp("authority")).ca_file.read_bytes()


@pytest.fixture
def ca(tmp_path: Path, ca_text: bytes) -> Path:
    path = tmp_path / "team-ca.pem"
    path.write_bytes(ca_text)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`codexpool env` of somebody with an empty home, in bash, where no proxy runs."""
    for name in ("HTTPS_PROXY", "NO_PROXY", "no_proxy", "CODEX_API_KEY", "CODEX_HOME", running_proxy.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    monkeypatch.setenv("CODEXPOOL_STATE", str(tmp_path / "state.sqlite3"))
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", MEMBER)

    def run(*arguments: str, code: int = 0, **environ: str) -> Result:
        result = CliRunner().invoke(env, list(arguments), env=environ)
        assert result.exit_code == code, result.output
        assert MEMBER not in result.output
        return result

    return run


@pytest.fixture
def authority_at_home(tmp_path: Path, ca_text: bytes) -> Path:
    path = tmp_path / ".mitmproxy" / CERTIFICATE
    path.parent.mkdir()
    path.write_bytes(ca_text)
    return path


def set_by(changes: Mapping[str, str | None], shell: str, folder: Path, **before: str) -> dict[str, str]:
    """The environment that a program has, which is started by a shell that has read what is printed for it."""
    words = "".join(
        f"{line}\n" for line in shells.SHELLS[{"pwsh": "powershell", "sh": "bash"}.get(shell, shell)](changes)
    )
    printed = folder / "printed"
    printed.write_bytes(os.fsencode(words))
    read = {
        "fish": f"cat {printed} | source; env -0",
        "pwsh": f"cat {printed} | Out-String | Invoke-Expression; env -0",
    }.get(shell, f'eval "$(cat {printed})"; env -0')
    flags = {"fish": ["--no-config"], "zsh": ["-f"], "pwsh": ["-NoProfile"]}.get(shell, [])
    done = subprocess.run(
        [str(shutil.which(shell)), *flags, "-c", read],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **before},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    pairs = (os.fsdecode(entry).partition("=") for entry in done.stdout.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


# -- each shell has what was meant


values = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@pytest.mark.parametrize("shell", POSIX_SHELLS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=values)
@example(value='/home/a b/it\'s "here"/$HOME/`id`/\\/!x/*?[a]~#&;|<>(){}')
@example(value="two\nlines, and \\' \\\\ ‘typographic’ quotes‚ %PATH%")
@example(value="-n")
def test_every_shell_reads_back_any_value(shell: str, value: str, tmp_path: Path) -> None:
    found = set_by({"CODEX_CA_CERTIFICATE": value}, shell, tmp_path)

    assert found["CODEX_CA_CERTIFICATE"] == value


@pytest.mark.parametrize("shell", POSIX_SHELLS)
def test_every_shell_unsets_a_variable(shell: str, tmp_path: Path) -> None:
    found = set_by({"NO_PROXY": None, "HTTPS_PROXY": TEAM}, shell, tmp_path, NO_PROXY="*")

    assert "NO_PROXY" not in found
    assert found["HTTPS_PROXY"] == TEAM


def test_powershell_syntax() -> None:
    lines = shells.powershell({"A": "it's ‘so’ $x", "NO_PROXY": None})

    assert list(lines) == ["$env:A = 'it''s ‘‘so’’ $x'", "Remove-Item Env:NO_PROXY"]


@pytest.mark.skipif(os.name != "posix", reason="paths are text there")
def test_a_path_that_is_not_utf8_is_printed_unchanged(run: Run, tmp_path: Path, ca: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.pem"))
    odd.write_bytes(ca.read_bytes())

    assert b"/caf\xe9.pem" in run("--proxy", TEAM, "--ca", str(odd)).stdout_bytes


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SHELL": "/bin/bash"}, "bash"),
        ({"SHELL": "/usr/bin/zsh"}, "zsh"),
        ({"SHELL": "/opt/homebrew/bin/fish"}, "fish"),
        ({"SHELL": "/usr/bin/pwsh"}, "powershell"),
        ({"SHELL": "/bin/dash"}, "bash"),
        ({}, "bash"),
    ],
)
def test_the_default_shell_is_from_the_environment(environ: dict[str, str], expected: str) -> None:
    assert shells.shell_of(environ) == expected


# -- what is printed


def test_standard_output_has_nothing_but_commands(run: Run, authority_at_home: Path) -> None:
    """Not even a comment: an interactive zsh would take it for a command."""
    said = run()

    assert said.stdout.splitlines() == [
        "export HTTPS_PROXY=http://127.0.0.1:8080",
        f"export CODEX_CA_CERTIFICATE={authority_at_home}",
    ]
    assert said.stderr == ""


def test_env_works_without_a_local_proxy(run: Run, ca: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ca.parent)

    said = run("--proxy", "team:8080", "--ca", "./team-ca.pem").stdout

    assert "HTTPS_PROXY=http://team:8080\n" in said
    assert f"CODEX_CA_CERTIFICATE={ca}\n" in said


def test_without_a_key_a_hint_says_where_it_goes(run: Run, authority_at_home: Path) -> None:
    said = run("--shell", "fish", CODEX_ACCESS_TOKEN="")

    assert "set -gx CODEX_ACCESS_TOKEN 'at-pool-…'" in said.stderr
    assert "CODEX_ACCESS_TOKEN" not in said.stdout


def test_with_a_login_there_is_no_hint(run: Run, authority_at_home: Path, tmp_path: Path) -> None:
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex" / "auth.json").write_text("{}")

    assert run(CODEX_ACCESS_TOKEN="").stderr == ""


def test_the_proxys_password_is_in_the_url(run: Run, ca: Path) -> None:
    said = run("--proxy", "http://ann:p%40ss%20word@team:8080", "--ca", str(ca))

    assert "HTTPS_PROXY=http://ann:p%40ss%20word@team:8080" in said.stdout
    assert "treat it as a secret" in said.stderr
    assert "p%40ss" not in said.stderr


def test_an_api_key_is_warned_of(run: Run, authority_at_home: Path) -> None:
    said = run(CODEX_API_KEY="sk-test-0123456789")

    assert "api.openai.com" in said.stderr
    assert "sk-test" not in said.output


def test_replacing_another_proxy_is_reported(run: Run, authority_at_home: Path) -> None:
    said = run(HTTPS_PROXY="http://me:secret@corp:3128")

    assert "codexpool run --via URL" in said.stderr
    assert "secret" not in said.output
    assert run(HTTPS_PROXY="http://127.0.0.1:8080").stderr == ""


# -- one identity for a terminal


@pytest.mark.parametrize(
    ("proxy", "url"),
    [
        ("http://team:8080", "http://work:@team:8080"),
        ("http://ann:p%40ss@team:8080", "http://ann%2Bwork:p%40ss@team:8080"),
        ("http://spare@team:8080", "http://work:@team:8080"),
    ],
)
def test_identity_is_the_user_of_the_proxy_or_added_to_it(
    run: Run, ca: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, url: str
) -> None:
    """A proxy on another machine cannot be asked which identities it has."""
    monkeypatch.setattr(running_proxy.RunningProxy, "get", refused_to_others)

    said = run("--identity", "work", "--proxy", proxy, "--ca", str(ca))

    assert f"HTTPS_PROXY={url}\n" in said.stdout
    assert "team:8080 cannot be asked whether it has the identity work" in said.stderr


def refused_to_others(self: running_proxy.RunningProxy, path: str, timeout: float = 5.0) -> dict[str, Any]:
    raise running_proxy.ProxyFailure("no", "no", 403)


def test_identity_that_the_pool_does_not_have_is_refused(run: Run, authority_at_home: Path) -> None:
    with running() as fake:
        assert (
            f"HTTPS_PROXY=http://work:@127.0.0.1:{fake.port}" in run("--identity", "work", "--proxy", fake.url).stdout
        )
        unknown = run("--identity", "wrok", "--proxy", fake.url, code=1)

    assert "has no identity wrok; it has: work, spare" in unknown.output


def test_identity_comes_with_what_the_tui_needs_to_follow_it(run: Run, ca: Path) -> None:
    """The TUI's background server has the variables of the terminal that started it."""
    with running() as fake:
        options = ("--proxy", fake.url, "--ca", str(ca))

        assert "codex --no-daemon" in run("--identity", "work", *options).stderr
        assert "--no-daemon" not in run(*options).stderr + run("--identity", "work", "--for", "ci", *options).stderr


@pytest.mark.parametrize("name", ["my work", MEMBER, ""])
def test_what_is_no_name_of_an_identity_is_refused(run: Run, authority_at_home: Path, name: str) -> None:
    assert "Error: --identity " in run("--identity", name, code=2).output


def test_another_identity_is_no_other_proxy(run: Run, authority_at_home: Path) -> None:
    assert run(HTTPS_PROXY="http://work:@127.0.0.1:8080").stderr == ""


# -- nothing bypasses the proxy


@pytest.mark.parametrize(
    "entry",
    [
        "*",
        "chatgpt.com",
        ".chatgpt.com",
        "ChatGPT.com",
        "com",
        "chatgpt.com:443",
        "openai.com",
        " * ",
    ],
)
def test_an_entry_that_covers_the_backend_is_removed(entry: str) -> None:
    assert without_bypasses({"NO_PROXY": entry}) == {"NO_PROXY": None}


@pytest.mark.parametrize(
    "entry", ["", "localhost", "127.0.0.0/8", "::1", "notchatgpt.com", "api.openai.com", "gpt.com"]
)
def test_other_entries_stay(entry: str) -> None:
    assert without_bypasses({"NO_PROXY": entry}) == {}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {}),
        ({"NO_PROXY": ""}, {}),
        ({"NO_PROXY": "localhost, 10.0.0.0/8"}, {}),
        ({"NO_PROXY": "localhost,chatgpt.com"}, {"NO_PROXY": "localhost"}),
        ({"NO_PROXY": "*", "no_proxy": "a, .openai.com ,b"}, {"NO_PROXY": None, "no_proxy": "a,b"}),
    ],
)
def test_no_proxy_loses_only_entries_that_bypass(environ: dict[str, str], expected: dict[str, str | None]) -> None:
    assert without_bypasses(environ) == expected


def test_a_removed_bypass_is_reported(run: Run, authority_at_home: Path) -> None:
    said = run(NO_PROXY="localhost,.chatgpt.com", no_proxy="*")

    assert "export NO_PROXY=localhost\nunset no_proxy\n" in said.stdout
    assert "NO_PROXY=localhost,.chatgpt.com bypasses the proxy" in said.stderr


# -- which authority


@pytest.fixture
def announced(tmp_path: Path, ca_text: bytes) -> Iterator[Path]:
    """A proxy that runs, and has its authority in a folder of its own."""
    confdir = tmp_path / "its own"
    confdir.mkdir()
    (confdir / CERTIFICATE).write_bytes(ca_text)
    note = running_proxies.announce(tmp_path, ["127.0.0.1:9"], str(confdir))
    yield confdir
    running_proxies.withdraw(note)


def test_the_ca_is_the_running_proxys(run: Run, announced: Path) -> None:
    said = run("--proxy", "http://127.0.0.1:9").stdout

    assert f"CODEX_CA_CERTIFICATE='{announced / CERTIFICATE}'" in said


def test_a_missing_ca_fails_with_a_remedy(run: Run) -> None:
    said = run(code=1)

    assert said.stdout == "false\n"
    assert "codexpool setup" in said.stderr
    assert "codexpool run" in said.stderr


def test_the_ca_of_another_machine_must_be_named(run: Run, authority_at_home: Path) -> None:
    said = run("--proxy", TEAM, code=1)

    assert "export" not in said.stdout
    assert "--ca PATH" in said.stderr


@pytest.mark.parametrize(
    ("arguments", "printed"), [((), "false\n"), (("--for", "vscode"), ""), (("--for", "ci"), "")]
)
def test_a_client_does_not_start_if_there_is_nothing_to_set(
    run: Run, arguments: tuple[str, ...], printed: str
) -> None:
    """``eval "" && codex`` would start it, past the proxy. A file must not get that line."""
    assert run(*arguments, "--shell", "fish", code=1).stdout == printed


def test_the_cas_private_key_is_refused(run: Run, ca: Path) -> None:
    key = ca.with_name(KEY)
    key.write_bytes(b"-----BEGIN RSA PRIVATE KEY-----\n" + ca.read_bytes())

    assert "private key" in run("--proxy", TEAM, "--ca", str(key), code=1).stderr


# -- other clients


@pytest.mark.parametrize("kind", ["vscode", "desktop"])
def test_dotenv_clients_get_lines_and_instructions(run: Run, authority_at_home: Path, kind: str) -> None:
    said = run("--for", kind, NO_PROXY="*")

    proxy, trust, no_proxy = said.stdout.splitlines()
    assert (proxy, no_proxy) == ("HTTPS_PROXY=http://127.0.0.1:8080", "NO_PROXY=")
    variable, _, path = trust.partition("=")
    assert variable == "SSL_CERT_FILE"
    trusted = Path(path).read_bytes()
    assert trusted.startswith(authority_at_home.read_bytes())
    # what a client starts reads the variable, too, and gets the servers' own certificates
    assert trusted.count(b"BEGIN CERTIFICATE") > 50
    assert "~/.codex/.env" in said.stderr
    assert "tested with the Codex binary only" in said.stderr


def test_certificates_in_ssl_cert_file_stay_trusted(run: Run, authority_at_home: Path, tmp_path: Path) -> None:
    corp = tmp_path / "corp.pem"
    corp.write_text("-----BEGIN CERTIFICATE-----\ncorp\n-----END CERTIFICATE-----\n")

    first = run("--for", "vscode", SSL_CERT_FILE=str(corp)).stdout.splitlines()[1].partition("=")[2]
    again = run("--for", "vscode", SSL_CERT_FILE=first).stdout.splitlines()[1].partition("=")[2]

    assert again == first
    assert Path(first).read_bytes() == authority_at_home.read_bytes() + corp.read_bytes()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/you/ca.pem", "A=/home/you/ca.pem"),
        ("/home/a b/ca.pem", "A='/home/a b/ca.pem'"),
        ("/it's $5/ca.pem", 'A="/it\'s \\$5/ca.pem"'),
    ],
)
def test_dotenv_quotes_only_where_needed(value: str, expected: str) -> None:
    """Codex CLI 0.169.0 ignores everything after the first line it cannot parse."""
    assert list(shells.dotenv({"A": value})) == [expected]


def test_ci_gets_lines_for_github_and_a_secret(run: Run, ca: Path) -> None:
    said = run("--for", "ci", "--proxy", TEAM, "--ca", str(ca), NO_PROXY="a,chatgpt.com", CODEX_ACCESS_TOKEN="")

    assert said.stdout.splitlines() == [f"HTTPS_PROXY={TEAM}", f"CODEX_CA_CERTIFICATE={ca}", "NO_PROXY=a"]
    assert "CODEX_ACCESS_TOKEN: ${{ secrets.CODEXPOOL_KEY }}" in said.stderr


def test_a_line_break_cannot_set_another_variable(run: Run, tmp_path: Path, ca: Path) -> None:
    odd = tmp_path / "a\nLD_PRELOAD=x"
    odd.write_bytes(ca.read_bytes())

    assert "line break" in run("--for", "ci", "--proxy", TEAM, "--ca", str(odd), code=1).stderr
