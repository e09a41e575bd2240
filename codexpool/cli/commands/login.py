"""`codexpool login`: have `codex login` make a login of the pool's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import click

from codexpool.cli.common import Failure, Pool, Unchanged, config_option, pool_to_edit, require_writable
from codexpool.cli.completions import identity_argument
from codexpool.cli.logins_folder import logins_folder
from codexpool.cli.new_identity import add_identity, require_free_name, shared_option
from codexpool.cli.replacing import replace_login
from codexpool.cli.shared_logins import require_keys
from codexpool.cli.tokens import GivenToken
from codexpool.cli.via import via_option
from codexpool.common.private_files import private_folder
from codexpool.config.model import FromAuthJson, FromState
from codexpool.config.sources import environ_of_programs
from codexpool.credentials.agent import Agent


@click.command()
@identity_argument
@click.option("--device-auth", is_flag=True, help="Log in with a code, in a browser on another machine.")
@shared_option
@via_option
@config_option
def login(name: str, device_auth: bool, shared: bool, named: Path | None) -> None:
    """Log in to ChatGPT with `codex login`, and add the login to pool.toml as identity NAME.

    If NAME already is a login, replace it. The client's own login is not touched.
    """
    path = pool_to_edit(named)
    pool = Pool(path)
    spec = pool.config.identity(name)
    is_agent = isinstance(pool.resolved.credentials.get(name), Agent)
    if spec is not None and (is_agent or not isinstance(spec.source, FromAuthJson | FromState)):
        raise Failure(f"{name} is not a login. Replace its token (codexpool replace {name}), or use another name")
    if spec is None:
        require_free_name(name, pool)
    if spec is None or (shared and not isinstance(spec.source, FromState)):
        require_writable(path)
    if shared or (spec is not None and isinstance(spec.source, FromState)):
        require_keys()
        with tempfile.TemporaryDirectory(prefix="codexpool-login-") as folder:
            new = _codex_login(Path(folder), device_auth)
            if spec is not None:
                replace_login(pool, spec, new, shared=True)
            else:
                add_identity(name, path, GivenToken(FromAuthJson(new), {}), dry_run=False, shared=True)
        return
    logins = logins_folder()
    # Another pool.toml may have a login of that name.
    names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    home = next(logins / free for free in names if not (logins / free).exists())
    with tempfile.TemporaryDirectory(prefix="codexpool-login-", dir=private_folder(home.parent)) as folder:
        new = _codex_login(Path(folder), device_auth)
        if spec is not None:
            replace_login(pool, spec, new)
            return
        auth_json = private_folder(home) / "auth.json"
        new.replace(auth_json)
    try:
        add_identity(name, path, GivenToken(FromAuthJson(auth_json), {"auth_json": str(auth_json)}), dry_run=False)
    except BaseException:  # Ctrl-C, too: otherwise the next login could not have this folder.
        with suppress(Failure):
            if Pool(path).config.identity(name) is None:
                shutil.rmtree(home, ignore_errors=True)
        raise


def _codex_login(folder: Path, device_auth: bool) -> Path:
    """Run `codex login` with this folder as CODEX_HOME; return the auth.json it wrote. Raises Failure."""
    program = shutil.which(os.environ.get("CODEXPOOL_CODEX") or "codex")
    if program is None:
        raise Failure("`codex` not found. Install it (npm install -g @openai/codex), or set CODEXPOOL_CODEX=PATH")
    command = [program, "login", *(["--device-auth"] if device_auth else [])]
    environ = environ_of_programs(os.environ, frozenset({"CODEX_ACCESS_TOKEN"}))
    code = subprocess.run(command, env={**environ, "CODEX_HOME": str(folder)}, check=False).returncode
    auth_json = folder / "auth.json"
    if code != 0 or not auth_json.exists():
        raise Unchanged(f"`codex login` failed with exit code {code}")
    return auth_json
