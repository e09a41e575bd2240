"""The commands that work on pool.toml, run in this process against a stand-in."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from codexpool.cli import common
from codexpool.cli.main import main
from codexpool.credentials.http_client import Route
from tests.standin import StandIn, Token


class Pool:
    """A folder with a pool.toml, a state, and a stand-in that the commands ask."""

    def __init__(self, standin: StandIn, folder: Path, monkeypatch: Any) -> None:
        self.standin = standin
        self.folder = folder
        self.path = folder / "pool.toml"
        monkeypatch.setattr(
            common, "route", lambda: Route(f"http://127.0.0.1:{standin.proxy_port}", str(standin.ca_file))
        )
        for name, value in {
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "data"),
            "CODEXPOOL_CONFIG": str(self.path),
            "CODEXPOOL_STATE": str(folder / "state.sqlite3"),
        }.items():
            monkeypatch.setenv(name, value)
        self._tokens: list[str] = []

    def secret(self, token: str) -> str:
        """A token that must never be printed."""
        self._tokens.append(token)
        return token

    def run(self, *arguments: str, stdin: str = "", code: int = 0) -> Result:
        """Run `codexpool` with these arguments; no secret is in what it prints."""
        result = CliRunner().invoke(main, list(arguments), input=stdin)
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        shown = result.output + result.stderr
        assert not [token for token in self._tokens if token in shown], shown
        assert not re.search(r"rt_test|eyJ", shown), shown
        return result

    def add(self, token: Token, *arguments: str, code: int = 0) -> Result:
        self.standin.add(token)
        self.secret(token.token)
        return self.run("add", token.name, "--token-stdin", *arguments, stdin=f"{token.token}\n", code=code)

    def list(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads(self.run("list", "--json").stdout)["identities"]}

    @property
    def text(self) -> str:
        return self.path.read_text()


def fake_codex(pool: Pool, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """What `codex login` does: it writes an auth.json into its CODEX_HOME."""
    folder = pool.folder / "bin"
    folder.mkdir(exist_ok=True)
    path = folder / "codex"
    path.write_text("\n".join(("#!/bin/sh", 'echo "$@" > "$HOME/asked"', *lines)) + "\n")
    path.chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CODEXPOOL_CODEX", raising=False)
