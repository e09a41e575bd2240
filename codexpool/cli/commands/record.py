"""`codexpool record`: recordings to share with others."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from codexpool.cli import completions
from codexpool.cli.common import Failure, config_option, pool_path, remark, sources
from codexpool.cli.entry import CODEXPOOL
from codexpool.cli.processes import ENDING


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]})
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--from", "source", metavar="FILE", type=click.Path(path_type=Path), help="Convert this dump or HAR file."
)
@click.option("--all-hosts", is_flag=True, help="Record requests to any host, not only to the backend.")
@config_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, shell_complete=completions.files)
def record(out: Path, source: Path | None, all_hosts: bool, named: Path | None, arguments: tuple[str, ...]) -> None:
    """Record requests into OUT, to share with others.

    A recording has headers, URLs, status codes, sizes and times, and no bodies. Credentials, cookies, email
    addresses, ids, and every other value that may identify you are replaced with pseudonyms: the same one wherever
    the value occurs. OUT is a HAR file if its name ends in .har, otherwise a flow file of mitmproxy.

    Without --from, starts mitmdump with the addon, as `codexpool run` does, until you press Ctrl-C; then writes OUT.
    ARGUMENTS are mitmproxy's own: `codexpool record OUT -p 8081`.
    """
    from codexpool.recording.files import RecordingError, check_place

    try:
        check_place(out)
    except RecordingError as error:
        raise Failure(str(error)) from None
    if source is None:
        sys.exit(_live(out, all_hosts, named, arguments))
    if arguments:
        raise click.UsageError(f"--from starts no proxy, so it takes no arguments: {' '.join(arguments)[:80]}")
    _convert(source, out, all_hosts, named)


def _convert(source: Path, out: Path, all_hosts: bool, named: Path | None) -> None:
    from codexpool.recording import files
    from codexpool.recording.anonymize import strip
    from codexpool.recording.recorder import Recording

    try:
        read = files.read(source)
        if read.is_cut:
            remark(f"{source}: its end is missing; {len(read.flows)} flows were read")
        recording = Recording(out, all_hosts)
        recording.learn(*_of_the_pool(named))
        recording.flows += [strip(flow) for flow in read.flows if recording.wants(flow)]
        click.echo(recording.write())
    except files.RecordingError as error:
        raise Failure(str(error)) from None


def _of_the_pool(named: Path | None) -> tuple[list[str], list[str]]:
    """Return the tokens of the configured pool, and the names of its identities: none may be in a recording."""
    from codexpool.config.model import ConfigError
    from codexpool.config.read import load_or_empty
    from codexpool.config.sources import resolve
    from codexpool.credentials.agent import Agent
    from codexpool.credentials.oauth import OAuth

    try:
        config = load_or_empty(pool_path(named))
    except ConfigError as error:
        raise Failure(f"cannot read the pool, so its tokens could end up in the recording:\n{error}") from None
    credentials = resolve(config, sources()).credentials.values()
    tokens = [bearer.token for credential in credentials if (bearer := credential.bearer()) is not None]
    agents = [credential.identity for credential in credentials if isinstance(credential, Agent)]
    tokens += [secret for agent in agents for secret in (agent.key.text, agent.jwt) if secret]
    tokens += [credential.login.refresh_token for credential in credentials if isinstance(credential, OAuth)]
    return tokens, [identity.name for identity in config.identities]


def _live(out: Path, all_hosts: bool, named: Path | None, arguments: Sequence[str]) -> int:
    """Run mitmdump until it ends; return its exit code. Raises Failure if there is no recording."""
    path = out.expanduser().absolute()
    command = [*CODEXPOOL, "run", *(("--config", str(named)) if named is not None else ())]
    command += ["--set", f"codexpool_record={path}"]
    if all_hosts:
        command += ["--set", "codexpool_record_all_hosts=true"]
    before = _written_at(path)
    # A session of its own: a terminal would send its Ctrl-C to both.
    child = subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL, start_new_session=True)
    for number in ENDING:
        signal.signal(number, lambda number, _: child.send_signal(number))
    code = child.wait()
    if _written_at(path) == before:
        raise Failure(f"{out}: not recorded; the lines above say why")
    return code


def _written_at(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
