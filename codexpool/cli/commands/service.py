"""`codexpool service`: a proxy that starts when a person logs in, by systemd or launchd."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from codexpool.cli import completions
from codexpool.cli.common import CONFIG_HELP, Failure, Pool, Unchanged, json_option, pool_to_edit, remark
from codexpool.cli.entry import CODEXPOOL, tool
from codexpool.cli.next_steps import say_next
from codexpool.cli.output import print_facts, print_json
from codexpool.cli.running_proxy import announced_by
from codexpool.cli.service.environment import environment_of, left_out
from codexpool.cli.service.files import MARK, Plan
from codexpool.cli.service.managers import Manager, ManagerError, State, own_manager
from codexpool.cli.shells import eval_line
from codexpool.cli.via import upstream, via_option
from codexpool.common.private_files import OPEN_TO_OTHERS, closing, private_folder
from codexpool.config.model import FromEnv, IdentitySpec
from codexpool.credentials.upstream_proxy import VARIABLE as UPSTREAM

STARTS_WITHIN: Final = 10.0  # seconds until a proxy has announced itself
LOOK: Final = 0.2  # seconds between two looks
FLOW_DETAIL: Final = "flow_detail"


@click.group()
def service() -> None:
    """Run the proxy in the background, from each login on.

    Uses systemd's manager of your user, or launchd. For a service of the whole machine, see docs/running.md.
    """


@service.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]})
@click.option("--config", "named", metavar="PATH", type=click.Path(path_type=Path), help=CONFIG_HELP)
@via_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, shell_complete=completions.files)
def install(named: Path | None, arguments: tuple[str, ...]) -> None:
    """Start the proxy now and at each login.

    Makes a systemd user unit, or a launchd agent, that runs `codexpool run` with ARGUMENTS, and starts it. To change
    it, install it again: it restarts once its turns have finished. Leaves out variables of this shell that may be
    secret.

    \b
        codexpool service install
        codexpool service install -p 8081

    Paths in ARGUMENTS are relative to your home folder.
    """
    managed = _manager()
    path = pool_to_edit(named)
    environ = {**os.environ, **({UPSTREAM: proxy.url} if (proxy := upstream()) is not None else {})}
    command = _command(path if named is not None else None, arguments)
    plan = Plan(command, environment_of(environ), _variables(), Path.home())
    before = _own_text(managed.file)
    try:
        _write(managed.file, managed.text(plan))
        managed.start()
    except (ManagerError, OSError) as error:
        _restore(managed, before)
        raise Unchanged(str(error)) from None
    click.echo(f"installed {managed.file}")
    specs = _identities(path)
    _tell_of_variables(environ, plan.variables, specs)
    _wait(managed)
    _print(_document(managed))
    if managed.hint:
        remark(managed.hint)
    say_next(*([] if specs else ["codexpool add NAME"]), eval_line(os.environ, "codex"))


@service.command()
def uninstall() -> None:
    """End the proxy, and no longer start it at login.

    The pool, its logins, the state and the certificate authority stay.
    """
    managed = _manager()
    if _own_text(managed.file) is None:
        click.echo("no service is installed")
        return
    try:
        managed.stop()
        managed.file.unlink()
        managed.forget()
    except (ManagerError, OSError) as error:
        raise Failure(str(error)) from None
    click.echo(f"stopped the proxy, and removed {managed.file}. What stays: docs/upgrades.md")


@service.command()
@json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Show whether the service runs, and where its log is.

    Exit code 1 if it is not installed or does not run.
    """
    managed = _manager()
    document = _document(managed)
    if as_json:
        print_json(document)
    elif document["installed"]:
        _print(document)
    else:
        click.echo("no service is installed. To install it: codexpool service install")
    context.exit(0 if document["runs"] else 1)


def _manager() -> Manager:
    try:
        return own_manager()
    except ManagerError as error:
        raise Failure(str(error)) from None


def _command(config: Path | None, arguments: tuple[str, ...]) -> list[str]:
    """Return what the service runs. Raises Failure."""
    program = tool("codexpool")
    words = [program] if Path(program).is_absolute() else [*CODEXPOOL]
    if "archive-v0" in Path(sys.executable).parts:
        raise Failure("this codexpool is a temporary one (uvx). Install it first: uv tool install codexpool")
    words += ["run", *(["--config", str(config)] if config is not None else [])]
    if not any(FLOW_DETAIL in argument for argument in arguments):
        words += ["--set", f"{FLOW_DETAIL}=0"]  # A log that is kept needs no line for each request.
    return [*words, *arguments]


def _variables() -> Path:
    """Return the file of variables that a person may write for the service."""
    import platformdirs

    return platformdirs.user_config_path("codexpool", appauthor=False) / "environment"


def _own_text(file: Path) -> str | None:
    """Return the text of the file, if it exists. Raises Failure if another program, or a person, has made it."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file}: {error}") from None
    if MARK not in text:
        raise Failure(f"{file} was not made by codexpool service install. Move it away first")
    return text


def _write(file: Path, text: str) -> None:
    """Write the file as a whole. Raises OSError."""
    new = private_folder(file.parent) / f".{file.name}.new"
    new.write_text(text, encoding="utf-8")
    new.chmod(0o600)
    new.replace(file)


def _restore(managed: Manager, before: str | None) -> None:
    with contextlib.suppress(OSError, ManagerError):
        if before is None:
            with contextlib.suppress(ManagerError):
                managed.stop()  # It may be enabled already.
            managed.file.unlink(missing_ok=True)
        else:
            _write(managed.file, before)
            managed.start()  # A restart that failed has ended the proxy.
            return
        managed.forget()


def _identities(pool_toml: Path) -> Sequence[IdentitySpec]:
    try:
        return Pool(pool_toml).config.identities
    except Failure as failure:  # The proxy says so, too, and serves once it is corrected.
        failure.show()
        return ()


def _tell_of_variables(environ: Mapping[str, str], file: Path, specs: Sequence[IdentitySpec]) -> None:
    """Say which variables the service does not see, and whether others can read the file of those that it sees."""
    names = left_out(environ, (spec.source.variable for spec in specs if isinstance(spec.source, FromEnv)))
    if names:
        lines = "; ".join(f"{name}=…" for name in names)
        remark(
            f"the service does not see {', '.join(names)} of this shell, which may be secret. Put them "
            f"into {file} ({lines}; chmod 600), and install it again",
        )
    with contextlib.suppress(OSError):
        if file.stat().st_mode & OPEN_TO_OTHERS:
            remark(f"{file} is open to other users: {closing(file)}")


def _wait(managed: Manager) -> None:
    """Wait until the proxy listens. Raises Failure with the end of its log if it does not run."""
    deadline = time.monotonic() + STARTS_WITHIN
    while (state := _state(managed)).runs and announced_by(state.pid) is None and time.monotonic() < deadline:
        time.sleep(LOOK)
    if not state.runs:
        said = ""
        with contextlib.suppress(ManagerError):
            said = managed.last_lines().strip()
        log = f". Its log ends with:\n{said}\n" if said else ". "
        raise Failure(f"the proxy does not run: {state.word}{log}The whole log: {managed.log}")


def _state(managed: Manager) -> State:
    try:
        return managed.state()
    except ManagerError as error:
        raise Failure(str(error)) from None


def _document(managed: Manager) -> dict[str, Any]:
    is_installed = _own_text(managed.file) is not None
    state = _state(managed) if is_installed else State("not installed", runs=False, is_enabled=False, pid=0)
    proxy = announced_by(state.pid)
    return {
        "manager": managed.name,
        "file": str(managed.file),
        "installed": is_installed,
        "enabled": state.is_enabled,
        "runs": state.runs,
        "state": state.word,
        "pid": state.pid or None,
        "listens": list(proxy.listens) if proxy is not None else [],
        "log": managed.log,
        "variables": str(_variables()),
        "confdir": str(proxy.confdir) if proxy is not None and proxy.confdir is not None else None,
    }


def _print(document: dict[str, Any]) -> None:
    runs = f"process {document['pid']}" if document["pid"] else "no process"
    print_facts(
        {
            "file": document["file"],
            "state": f"{document['state']}, {'enabled' if document['enabled'] else 'not enabled'}, {runs}",
            "address": ", ".join(document["listens"]) or "no address yet",
            "log": document["log"],
            "variables": document["variables"],
            "authority": document["confdir"] or "unknown until it runs",
        }
    )
