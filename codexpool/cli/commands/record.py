"""`codexpool record`: recordings that can be shared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from codexpool.cli.common import Failure, config_option, pool_path, sources
from codexpool.cli.processes import ENDING

RUN: Final = (sys.executable, "-c", "from codexpool.cli import main; main(prog_name='codexpool')", "run")
"""`codexpool run`, as a process of its own."""


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]})
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--from", "source", metavar="FILE", type=click.Path(path_type=Path), help="Make it of this dump or HAR file."
)
@click.option("--bodies", is_flag=True, help="Record bodies and WebSocket messages, too: what was said.")
@click.option("--all-hosts", is_flag=True, help="Record requests to any host, and not only to the backend.")
@config_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def record(
    out: Path,
    source: Path | None,
    bodies: bool,
    all_hosts: bool,
    named: Path | None,
    arguments: tuple[str, ...],
) -> None:
    """Record requests into OUT, fit to be shown to others.

    Every credential, cookie, e-mail address, account and user id, and whatever else says whose it is, has a stand-in:
    the same one wherever it is in the file. If anything of it would be left, nothing is written. OUT is a HAR file if
    its name ends in .har, else a flow file of mitmproxy's.

    Without --from mitmdump is started with the addon, as `codexpool run` does it, and OUT is there when it has ended
    (Ctrl-C). ARGUMENTS are mitmproxy's own: `codexpool record OUT -p 8081`.

    With --bodies the prompts and answers are in it as they were, but for those values: read it before you share it.
    """
    from codexpool.recording.files import RecordingError, check_place

    try:
        check_place(out)
    except RecordingError as error:
        raise Failure(str(error)) from None
    if source is None:
        sys.exit(_live(out, bodies, all_hosts, named, arguments))
    if arguments:
        raise click.UsageError(f"with --from no proxy is started, so it has no use for {' '.join(arguments)[:80]}")
    _convert(source, out, bodies, all_hosts, named)


def _convert(source: Path, out: Path, bodies: bool, all_hosts: bool, named: Path | None) -> None:
    from mitmproxy import http

    from codexpool.recording import files
    from codexpool.recording.recording import LeftInError, Recording
    from codexpool.recording.taking import is_wanted, taken

    try:
        read = files.read(source)
        if read.is_cut:
            click.echo(f"codexpool: {source}: its end is missing; {len(read.flows)} flows were read", err=True)
        flows = [flow for flow in read.flows if isinstance(flow, http.HTTPFlow)]
        wanted = [flow for flow in flows if all_hosts or is_wanted(flow)]
        recording = Recording(files.is_har(out))
        recording.knows(*_of_the_pool(named))
        recording.flows += [taken(flow, bodies) for flow in wanted]
        files.put(out, recording.content())
    except files.RecordingError as error:
        raise Failure(str(error)) from None
    except LeftInError as error:
        raise Failure(f"{out}: nothing was written, because {error}") from None
    click.echo(f"{out}: {len(wanted)} requests, with stand-ins for {recording.told()}")
    if left_out := len(read.flows) - len(wanted):
        click.echo(f"left out: {left_out} to other hosts" + ("" if all_hosts else " (--all-hosts takes them along)"))
    if bodies:
        click.echo("Prompts and answers are in it as they were: read it before you share it.")


def _of_the_pool(named: Path | None) -> tuple[list[str], list[str]]:
    """Tokens and names of the pool there is: none of them may be in a recording. Nothing where there is none."""
    from codexpool.config import ConfigError, load
    from codexpool.config.sources import resolve
    from codexpool.credentials.oauth import OAuth

    path = pool_path(named)
    if path is None:
        return [], []
    try:
        config = load(path)
    except ConfigError as error:
        raise Failure(f"its tokens must not be recorded, and cannot be known:\n{error}") from None
    credentials = resolve(config, sources()).credentials.values()
    tokens = [bearer.token for credential in credentials if (bearer := credential.bearer()) is not None]
    tokens += [credential.login.refresh_token for credential in credentials if isinstance(credential, OAuth)]
    return tokens, [identity.name for identity in config.identities]


def _live(out: Path, bodies: bool, all_hosts: bool, named: Path | None, arguments: Sequence[str]) -> int:
    """Run mitmdump until it ends; its exit code, or 1 if there is no recording."""
    from codexpool.recording.recorder import REPORT

    command = [*RUN, *(("--config", str(named)) if named is not None else ())]
    command += ["--set", f"codexpool_record={out.expanduser().absolute()}"]
    if bodies:
        # What is streamed would have passed by.
        command += ["--set", "codexpool_record_bodies=true", "--set", "store_streamed_bodies=true"]
    if all_hosts:
        command += ["--set", "codexpool_record_all_hosts=true"]
    with tempfile.TemporaryDirectory(prefix="codexpool-record-") as folder:
        report = Path(folder) / "report"
        code = _in_the_foreground([*command, *arguments], {**os.environ, REPORT: str(report)})
        try:
            told: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise Failure(f"{out}: there is no recording, because the proxy did not come to its end") from None
    if told["refused"]:
        raise Failure(told["refused"])
    return code


def _in_the_foreground(command: Sequence[str], environ: dict[str, str]) -> int:
    """Run a program until it ends. Signals are for it to act upon, and it gets each of them once."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ENDING}
    try:
        # In a session of its own: a terminal would send its Ctrl-C to both.
        child = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, start_new_session=True)
        for number in ENDING:
            signal.signal(number, lambda number, _: child.send_signal(number))
        for early in came:
            child.send_signal(early)
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
