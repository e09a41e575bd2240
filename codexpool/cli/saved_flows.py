"""Requests in files, as `explain` and `diff` take them: FILE, FILE#N, or FILE#ID of a flow file or a HAR file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from codexpool.cli.common import Failure
from codexpool.traces.trace import METADATA
from codexpool.views.formatting import plain

if TYPE_CHECKING:
    from mitmproxy.http import HTTPFlow

IN_PROXY: Final = re.compile(r"last|[0-9a-f][0-9a-f-]{3,35}")  # a flow of the running proxy


class Selected(NamedTuple):
    """A file, and which of its requests: a number, the beginning of an id, or nothing."""

    path: Path
    which: str


def named(text: str) -> Selected | None:
    """Return the file that an argument names; None if it names a flow of a proxy. Raises click.UsageError."""
    if text and (path := Path(text).expanduser()).is_file():
        return Selected(path, "")
    name, sharp, which = text.rpartition("#")
    if name and sharp and (path := Path(name).expanduser()).is_file():
        if re.fullmatch(r"-?\d+|[0-9a-f-]+", which) is None or which.strip("-0") == "":
            raise click.UsageError(
                f"{plain(text)}: put the number of a request after the # (1 is the first, -1 the last), or the "
                "beginning of its id"
            )
        return Selected(path, which)
    if IN_PROXY.fullmatch(text) is None:
        raise click.UsageError(
            f"{plain(text)}: there is no such file, and it is not a flow of a proxy. Use FILE, FILE#N, the id of a "
            "flow, or: last"
        )
    return None


def pick(where: Selected) -> tuple[HTTPFlow, int]:
    """Return the selected request and its number, from 1; by default the last of codexpool. Raises Failure.

    A flow has one record for each of its attempts; an id means the last one, which says most.
    """
    from codexpool.recording import files

    path, which = plain(where.path), where.which
    try:
        flows = files.read(where.path).flows
    except files.RecordingError as error:
        raise Failure(str(error)) from None
    if not flows:
        raise Failure(f"{path}: has no HTTP request")
    if re.fullmatch(r"-?\d+", which):
        number = int(which)
        if abs(number) > len(flows):
            raise Failure(f"{path}: has {len(flows)} requests; there is no #{which}")
        index = number - 1 if number > 0 else len(flows) + number
    elif which:
        found = [index for index, flow in enumerate(flows) if flow.id.startswith(which)]
        if (count := len({flows[index].id for index in found})) != 1:
            raise Failure(f"{path}: {count or 'no'} flows have an id that begins with {which}")
        index = found[-1]
    else:
        ours = [index for index, flow in enumerate(flows) if METADATA in flow.metadata]
        index = ours[-1] if ours else len(flows) - 1
    return flows[index], index + 1
