"""`codexpool replay`: a recording against the stand-in, for those who want to know what a new client does."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from codexpool.cli.common import Failure, console, json_option
from codexpool.cli.processes import InterruptedBySignal, Signals

if TYPE_CHECKING:
    from codexpool.cli.demo.stage import Stage
    from codexpool.recording.replay import Played
    from codexpool.recording.script import Part

LONGEST: Final = 600.0
"""Seconds a replay takes at most."""


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--only", metavar="PATH", multiple=True, help="Play only requests whose path begins so.")
@click.option("--limit", metavar="N", type=click.IntRange(1), default=1000, show_default=True, help="Play N at most.")
@json_option
def replay(file: Path, only: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Play the requests of a recording against a stand-in for the backend.

    A stand-in and a real mitmdump with the addon are started on loopback, with a made-up pool. Each request is sent
    as it was recorded, under a made-up login; nothing leaves this machine, and nothing of yours is changed. The
    stand-in is strict, and what arrives there is compared with what was sent. FILE is what `codexpool record` makes,
    or any flow file or HAR file; requests without their bodies are sent with the least that is valid.

    The exit code is 1 if a request was answered worse than in the recording, was refused, or arrived changed where
    nobody should have changed it. To see what two versions of a client do differently, record both, and compare them
    with `codexpool diff`.
    """
    try:
        with Signals() as signals:
            sys.exit(_replay(signals, file, only, limit, as_json))
    except InterruptedBySignal as interrupted:
        click.echo("\nStopped. Nothing is left behind.", err=True)
        sys.exit(128 + interrupted.number)


def _replay(signals: Signals, file: Path, only: Sequence[str], limit: int, as_json: bool) -> int:
    from codexpool.cli.demo.stage import Stage, StageError

    flows = _cleaned(file)
    try:
        with Stage(signals) as stage:
            from codexpool.recording.script import parts

            script = parts(flows, stage.own.token, stage.own.account_id)
            if only:
                script = [part for part in script if part.sent.path.startswith(tuple(only))]
            wanted = [part for part in script if not part.why]
            if not wanted:
                raise Failure(f"{file}: there is no request in it that can be played{_reasons(script)}")
            stage.start()
            return _tell(file, stage, script, wanted[:limit], len(wanted) - limit, as_json)
    except StageError as error:
        raise Failure(str(error)) from None


def _cleaned(file: Path) -> list[Any]:
    """The requests of a file; with stand-ins, if it has none yet."""
    from mitmproxy import http

    from codexpool.recording import files
    from codexpool.recording.recording import Recording
    from codexpool.recording.taking import taken

    try:
        read = files.read(file)
    except files.RecordingError as error:
        raise Failure(str(error)) from None
    recording = Recording(False)
    recording.flows += [taken(flow, True) for flow in read.flows if isinstance(flow, http.HTTPFlow)]
    return recording.cleaned()


def _tell(
    file: Path, stage: Stage, script: Sequence[Part], wanted: Sequence[Part], beyond: int, as_json: bool
) -> int:
    """Play, and tell of each request as soon as it is over; the exit code."""
    from codexpool.recording.player import Player
    from codexpool.recording.replay import Replay

    replaying = Replay(stage.standin, Player(stage.port, stage.ca_file))
    deadline = time.monotonic() + LONGEST
    told: list[Played] = []
    for part in wanted:
        if time.monotonic() > deadline:
            break
        told.append(replaying.play(part))
        if as_json:
            _progress(len(told), len(wanted))
        else:
            _print(told[-1])
    late = len(wanted) - len(told)
    left_out = [part for part in script if part.why]
    bad = sum(bool(played.problems) for played in told)
    if as_json:
        document = {
            "file": str(file),
            "passed": not bad and not late,
            "requests": [played.document() for played in told],
            "left_out": [{"number": p.number, "path": p.sent.path, "why": p.why} for p in left_out],
            "beyond_the_limit": max(0, beyond),
            "out_of_time": late,
        }
        click.echo(json.dumps(document, indent=2))
    else:
        _summary(len(told), bad, left_out, beyond, late)
    return 1 if bad or late else 0


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done} of {of}" + ("\n" if done == of else ""), err=True, nl=False)


def _print(played: Played) -> None:
    from rich.text import Text

    from codexpool.views.formatting import plain

    sent = played.part.sent
    was = "-" if played.part.recorded is None else str(played.part.recorded)
    now = "-" if played.status is None else str(played.status)
    mark, style = ("NOT ", "bold red") if played.problems else ("ok  ", "green")
    out = console()
    line = f"{played.part.number:>4}  {was:>3} -> {now:>3}  {plain(sent.method)} {plain(sent.host + sent.path)}"
    out.print(Text.assemble((mark, style), line), soft_wrap=True)
    for words, style in (*((text, "red") for text in played.problems), *((text, "dim") for text in played.notes)):
        out.print(Text(f"          {plain(words)}", style), soft_wrap=True)


def _summary(played: int, bad: int, left_out: Sequence[Part], beyond: int, late: int) -> None:
    click.echo(f"\n{played} played" + (f", {bad} not as they should be" if bad else ", all as they should be"))
    if left_out:
        click.echo(f"{len(left_out)} left out{_reasons(left_out)}")
    if beyond > 0:
        click.echo(f"{beyond} more are in it (--limit)")
    if late:
        click.echo(f"{late} not played: time was up after {LONGEST:.0f} s")


def _reasons(script: Sequence[Part]) -> str:
    reasons = dict.fromkeys(part.why for part in script if part.why)
    return f": {'; '.join(reasons)}" if reasons else ""
